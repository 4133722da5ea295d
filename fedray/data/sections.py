"""The `data` section of a spec: image sources, size, limits, augmentation and normalisation."""

from types import FunctionType
from typing import Literal

from pydantic import Field

from fedray.data.objects import Source
from fedray.data.sources import outside_reader
from fedray.section import Section


class Data(Section):
    """Sources are `digits`, `torchvision:NAME`, `parquet:PATH_OR_GLOB`, `folder:PATH`, or a function outside the
    package, `package.module:function` or `package.module:function:ARGUMENT`. From Python they may be data sets."""

    train: Source = "digits"
    """Source of the training set."""
    test: Source = "digits"
    """Source of the test set."""
    image_column: str | None = None
    """Column of images in parquet sources; null looks for `img` or `image`."""
    label_column: str | None = None
    """Column of labels in parquet sources; null looks for `label` or `fine_label`."""
    augment: Literal["none", "crop_flip"] = "none"
    """Augmentation of training images; `crop_flip` shifts by up to 4 pixels and flips left to right."""
    size: int | None = Field(None, ge=4, le=1024)
    """Pixels a side to which images are resized; null keeps their size."""
    train_limit: int | None = Field(None, ge=1)
    """Number of training examples to use, class-balanced; null uses all."""
    test_limit: int | None = Field(None, ge=1)
    """Number of test examples to use, class-balanced; null uses all."""
    public_fraction: float = Field(0.0, ge=0, lt=1)
    """Class-balanced share of the training set that no client holds, from 0 up to 1."""
    normalize: Literal["dataset", "imagenet"] = "dataset"
    """Channel means and standard deviations to normalise with: those of the training set, or of ImageNet."""

    def functions(self) -> list[FunctionType]:
        readers = [outside_reader(source) for source in (self.train, self.test) if isinstance(source, str)]
        return [reader[0] for reader in readers if reader is not None]
