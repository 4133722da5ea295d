"""One experiment as it stands in YAML: every section, every default, every range."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from fedray.data.partition import AnyPartition, Dirichlet, FromFile
from fedray.models.proxies import Proxy
from fedray.section import Section
from fedray.strategies import AnyStrategy
from fedray.strategies.base import Strategy
from fedray.strategies.fedavg import FedAvg
from fedray.teachers.sections import AnyTeacher, Several, Supervised, members
from fedray.types import MemoryFormat, Precision

REPEATABLE = ("resources", "checkpoint")
"""Sections that do not decide a result: a run may be resumed with others."""


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
    memory_format: MemoryFormat = "channels_last"
    """How images and weights lie in memory, NHWC or NCHW (`contiguous`): the first is faster, the rounding differs."""
    precision: Precision = "float32"
    """`bfloat16`: convolutions and products of both passes, about twice as fast where the processor has
    instructions for it and far slower where not. Weights, losses and SGD stay float32."""
    failures: Literal["abort", "drop"] = "abort"
    """What to do when a client fails: stop the run, or go on without its update."""
    min_cohort: int = Field(1, ge=1)
    """How few updates a round may end with where failures are dropped."""
    deadline: float | None = Field(None, gt=0)
    """The seconds that a round's clients have to train; None gives them any time."""
    late: Literal["wait", "drop"] = "wait"
    """What to do with a client beyond the deadline: wait and report it, or go on without its update.
    With `drop` the machine's speed has a say in the result: the same spec no longer means the same bits."""


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
        networks = [getattr(member, "backbone", member) for member in members(teacher)]
        stand_in = any(isinstance(network, Supervised) for network in networks)
        if stand_in and "data" in info.data and info.data["data"].public_fraction == 0:
            raise ValueError("it is fitted on the public split, so data.public_fraction must be above 0")
        return teacher

    @field_validator("strategy")
    @classmethod
    def _taught_needs_a_teacher(cls, strategy: AnyStrategy, info: ValidationInfo) -> AnyStrategy:
        teacher: AnyTeacher | None = info.data.get("teacher")
        if strategy.lessons and teacher is None and "teacher" in info.data:
            raise ValueError("it distils from a teacher and the spec has none; add a teacher section")
        if teacher is not None:
            _check_lessons(strategy, teacher)
        return strategy

    @property
    def clients(self) -> int | None:
        """How many clients there are, where the spec alone says so."""
        return None if isinstance(self.partition, FromFile) else self.partition.clients


def _check_lessons(strategy: Strategy, teacher: AnyTeacher) -> None:
    """Raises ValueError where this teacher cannot give what the strategy's loss looks at."""
    if strategy.same_view and teacher.view != "same":
        raise ValueError("its loss needs a teacher that sees the view that the proxy sees: set teacher.view: same")
    if strategy.mixup and teacher.mode != "online":
        raise ValueError(
            "its loss mixes images, and no mixture comes twice: set teacher.mode: online, or strategy.loss.mixup: 0"
        )
    if "features" in strategy.lessons and isinstance(teacher, Several) and teacher.combines:
        raise ValueError(
            "its loss looks at features, and those of several teachers cannot be combined: give each client one teacher"
        )
