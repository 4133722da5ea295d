"""One experiment as it stands in YAML: every section, every default, every range."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from fedray.data.partition import AnyPartition, Dirichlet, FromFile
from fedray.models.proxies import Proxy
from fedray.section import Section
from fedray.strategies import AnyStrategy
from fedray.strategies.fedavg import FedAvg


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


class Supervised(Section):
    """A stand-in for a foundation model: a network fitted once on the public split."""

    kind: Literal["supervised"] = "supervised"
    model: Proxy = Proxy()
    epochs: int = Field(30, ge=1)
    batch_size: int = Field(32, ge=1)
    lr: float = Field(0.05, gt=0)


class Precomputed(Section):
    """Logits from a parquet: `path` or `index` (the row in the source), and `logits`."""

    kind: Literal["precomputed"] = "precomputed"
    file: Path


class ZeroShot(Section):
    """An open_clip model that classifies by comparing images with prompts."""

    kind: Literal["zero_shot"] = "zero_shot"
    model: str = "ViT-B-32"
    """open_clip's name, or `local-dir:PATH` of a folder in open_clip's format."""
    pretrained: str | None = "openai"
    """open_clip's tag, or the path of a checkpoint. With OpenAI's weights as a file, name the model
    `ViT-B-32-quickgelu`: only by the tag is it known what activation they were trained with."""
    prompts: tuple[str, ...] = Field(("a photo of a {}.",), min_length=1)
    classes: tuple[str, ...] | None = None
    """Names to put into the prompts; None takes the data set's."""
    batch_size: int = Field(64, ge=1)

    @field_validator("prompts")
    @classmethod
    def _have_one_gap(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        for prompt in prompts:
            if prompt.count("{}") != 1:
                raise ValueError(f"must each have one {{}} for the class name, and '{prompt}' has not")
        return prompts


AnyTeacher = Annotated[Supervised | Precomputed | ZeroShot, Field(discriminator="kind")]


class Training(Section):
    """SGD on each client. Epochs are counted over all rounds: `round * local_epochs + epoch`."""

    rounds: int = Field(10, ge=1)
    local_epochs: int = Field(1, ge=1)
    batch_size: int = Field(64, ge=1)
    lr: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    decay_every: int | None = Field(None, ge=1)
    """Multiply the learning rate by `decay_factor` every so many local epochs; None never does."""
    decay_factor: float = Field(0.1, gt=0, le=1)
    participation: float = Field(1.0, gt=0, le=1)
    """The share of clients drawn for each round's cohort (at least one client)."""
    channels_last: bool = True
    """Keep images and weights as NHWC in memory: faster convolutions, other rounding."""
    failures: Literal["abort", "drop"] = "abort"
    """What to do when a client fails: stop the run, or go on without its update."""
    min_cohort: int = Field(1, ge=1)
    """How few updates a round may end with where failures are dropped."""


class Evaluation(Section):
    """The global proxy on the test set, every so many rounds and after the last."""

    every: int = Field(1, ge=1)
    batch_size: int = Field(500, ge=1)


class Checkpoint(Section):
    """How often a run can be resumed from; the last round always can."""

    every: int = Field(1, ge=1)


class Resources(Section):
    """Where clients run and what each may use. None of it changes a result but the threads."""

    backend: Literal["ray", "serial"] = "ray"
    clients_per_actor: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """`auto`: an actor of its own for each client on GPUs, one actor per core (or per
    `cpus_per_client` cores) on CPUs."""
    cpus_per_client: float = Field(1.0, gt=0)
    """Cores reserved for a client while it trains; its threads are this, rounded down, or 1."""
    gpus_per_client: float = Field(0.0, ge=0)

    @property
    def threads(self) -> int:
        return max(1, int(self.cpus_per_client))


class Experiment(Section):
    """Everything that decides a run's result, and `resources`, which must not."""

    seed: int = Field(0, ge=0, lt=2**63)
    data: Data = Data()
    partition: AnyPartition = Dirichlet()
    proxy: Proxy = Proxy()
    teacher: AnyTeacher | None = None
    strategy: AnyStrategy = Field(FedAvg(), validate_default=True)
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()
    resources: Resources = Resources()

    @field_validator("teacher")
    @classmethod
    def _stand_in_needs_public_data(cls, teacher: AnyTeacher | None, info: ValidationInfo) -> AnyTeacher | None:
        if isinstance(teacher, Supervised) and "data" in info.data and info.data["data"].public_fraction == 0:
            raise ValueError("it is fitted on the public split, so data.public_fraction must be above 0")
        return teacher

    @field_validator("strategy")
    @classmethod
    def _taught_needs_a_teacher(cls, strategy: AnyStrategy, info: ValidationInfo) -> AnyStrategy:
        if strategy.needs_teacher and info.data.get("teacher", ...) is None:
            raise ValueError("it distils from a teacher and the spec has none; add a teacher section")
        return strategy

    @property
    def clients(self) -> int | None:
        """How many clients there are, where the spec alone says so."""
        return None if isinstance(self.partition, FromFile) else self.partition.clients
