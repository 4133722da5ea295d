"""The spec section of the data: where images come from and how they are prepared."""

from typing import Literal

from pydantic import Field

from fedray.section import Section


class Data(Section):
    """Sources are `digits`, `torchvision:NAME`, `parquet:PATH_OR_GLOB` or `folder:PATH`."""

    train: str = "digits"
    test: str = "digits"
    augment: Literal["none", "crop_flip"] = "none"
    size: int | None = Field(None, ge=4, le=1024)
    """Resize images to this many pixels a side; None takes them as they are."""
    train_limit: int | None = Field(None, ge=1)
    test_limit: int | None = Field(None, ge=1)
    """How many examples to take, class-balanced; None takes all."""
    public_fraction: float = Field(0.0, ge=0, lt=1)
    """The class-balanced share of the training data that no client holds."""
    normalize: Literal["dataset", "imagenet"] = "dataset"
    """Which channel means and deviations to use: the training set's own, or ImageNet's."""
