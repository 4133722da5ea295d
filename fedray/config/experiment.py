"""One experiment as it stands in YAML: every section, every default, every range."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from fedray.data.partition import AnyPartition, Dirichlet, FromFile
from fedray.data.sections import Data
from fedray.models.proxies import Proxy
from fedray.section import Section
from fedray.strategies import AnyStrategy
from fedray.strategies.base import Strategy
from fedray.strategies.fedavg import FedAvg
from fedray.teachers.sections import AnyTeacher, Ensemble, Supervised, members
from fedray.training.sections import Evaluation, Training

REPEATABLE = ("resources", "checkpoint")
"""Sections that do not decide a result: a run may be resumed with others."""


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
        if strategy.required_outputs and teacher is None and "teacher" in info.data:
            raise ValueError("it distils from a teacher and the spec has none; add a teacher section")
        if teacher is not None:
            _check_teacher_targets(strategy, teacher)
        return strategy

    @property
    def clients(self) -> int | None:
        """How many clients there are, where the spec alone says so."""
        return None if isinstance(self.partition, FromFile) else self.partition.clients


def _check_teacher_targets(strategy: Strategy, teacher: AnyTeacher) -> None:
    """Raises ValueError where this teacher cannot give what the strategy's loss looks at."""
    if strategy.proxy_view and teacher.view != "proxy":
        raise ValueError("its loss needs a teacher that sees the view that the proxy sees: set teacher.view: proxy")
    if strategy.mixup and teacher.mode != "online":
        raise ValueError(
            "its loss mixes images, and no mixture comes twice: set teacher.mode: online, or strategy.loss.mixup: 0"
        )
    if "features" in strategy.required_outputs and isinstance(teacher, Ensemble) and teacher.combines:
        raise ValueError(
            "its loss looks at features, and those of several teachers cannot be combined: give each client one teacher"
        )
