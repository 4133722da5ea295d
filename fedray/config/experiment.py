"""The spec of one experiment: all sections with their defaults and ranges."""

from collections.abc import Callable
from typing import Annotated, Literal, SupportsIndex

from pydantic import Field, ValidationInfo, field_validator, model_validator

from fedray.aggregation.aggregators import Aggregator, AnyAggregator, Mean
from fedray.aggregation.server_optimizers import AnyServerOptimizer, ServerSGD
from fedray.data.federated import FederatedDataset, ReadDatasets, count_clients, load, read_datasets
from fedray.data.partition import AnyPartition, Dirichlet, FromFile
from fedray.data.sections import Data
from fedray.models.proxies import AnyProxy, Proxy
from fedray.section import Section
from fedray.strategies import AnyStrategy
from fedray.strategies.base import Strategy
from fedray.strategies.fedavg import FedAvg
from fedray.teachers.sections import Adapted, AnyTeacher, Ensemble, ImageTeacher, Supervised, members
from fedray.training.sections import Evaluation, Training
from fedray.types import OutputKind
from fedray.user_code import UserCode, user_objects

EXECUTION_SECTIONS = ("resources", "checkpoint")
"""Sections that do not decide a result; a run may be resumed with other values of their fields."""


class Checkpoint(Section):
    """When checkpoints are written; the last round always has one."""

    every: int = Field(1, ge=1)
    """Rounds between two checkpoints."""


class Resources(Section):
    """Where clients run and what each may use. Of these fields only the number of threads changes results."""

    backend: Literal["ray", "serial"] = "ray"
    """`ray`: clients train in Ray actors. `serial`: clients train one after another in one process."""
    clients_per_actor: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Number of clients that share a Ray actor. `auto`: on GPUs one actor per client of the cohort, on CPUs one
    actor per `cpus_per_client` cores."""
    cpus_per_client: float = Field(1.0, gt=0, le=4096)
    """Cores reserved for a client while it trains; it uses as many threads, rounded down, and at least 1."""
    gpus_per_client: float = Field(0.0, ge=0, le=4096)
    """GPUs, or the share of one, reserved for a client while it trains."""

    @property
    def threads(self) -> int:
        """Number of torch threads of a client."""
        return max(1, int(self.cpus_per_client))


class Experiment(Section):
    """Everything that decides a run's result, and `resources` and `checkpoint`, which do not."""

    seed: int = Field(0, ge=0, lt=2**63)
    """Root of all random choices of the run."""
    data: Data = Data()
    partition: AnyPartition = Dirichlet()
    proxy: AnyProxy = Proxy()
    teacher: AnyTeacher | None = Field(None, validate_default=True)
    strategy: AnyStrategy = Field(FedAvg(), validate_default=True)
    training: Training = Training()
    aggregation: AnyAggregator = Field(Mean(), validate_default=True)
    server: AnyServerOptimizer = Field(ServerSGD(), validate_default=True)
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()
    resources: Resources = Resources()

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[object, ...]:
        """Pickle modules of the user's first, so that classes in them can be imported where they arrive."""
        reduced = super().__reduce_ex__(protocol)
        objects = user_objects(self)
        assert not isinstance(reduced, str), "sections are pickled by their state"
        if not objects:
            return reduced
        function, arguments, *rest = reduced
        return _call, (UserCode.of(objects), function, *arguments), *rest

    @field_validator("proxy")
    @classmethod
    def _features_have_no_views(cls, proxy: Proxy, info: ValidationInfo) -> Proxy:
        if proxy.reads_features and "data" in info.data and info.data["data"].augment != "none":
            raise ValueError("its inputs are features of plain images: set data.augment: none")
        return proxy

    @field_validator("teacher")
    @classmethod
    def _proxy_needs_features(cls, teacher: AnyTeacher | None, info: ValidationInfo) -> AnyTeacher | None:
        proxy: Proxy | None = info.data.get("proxy")
        if proxy is not None and proxy.reads_features and (problem := _features_problem(teacher)):
            raise ValueError(f"{problem}, because proxy.name is {proxy.name}")
        return teacher

    @field_validator("teacher")
    @classmethod
    def _supervised_teacher_needs_public_data(
        cls, teacher: AnyTeacher | None, info: ValidationInfo
    ) -> AnyTeacher | None:
        networks = [member.backbone if isinstance(member, Adapted) else member for member in members(teacher)]
        supervised = any(isinstance(network, Supervised) for network in networks)
        if supervised and "data" in info.data and info.data["data"].public_fraction == 0:
            raise ValueError("it is fitted on the public split, so data.public_fraction must be above 0")
        return teacher

    @field_validator("strategy")
    @classmethod
    def _distillation_needs_a_teacher(cls, strategy: AnyStrategy, info: ValidationInfo) -> AnyStrategy:
        teacher: AnyTeacher | None = info.data.get("teacher")
        if strategy.required_outputs and teacher is None and "teacher" in info.data:
            raise ValueError("it distils from a teacher and the spec has none; add a teacher section")
        if teacher is not None:
            _check_teacher_targets(strategy, teacher)
        if info.data.get("proxy", Proxy()).reads_features and (problem := _probe_problem(strategy)):
            raise ValueError(problem)
        return strategy

    @field_validator("strategy")
    @classmethod
    def _public_images_exist(cls, strategy: AnyStrategy, info: ValidationInfo) -> AnyStrategy:
        if strategy.needs_public_data and "data" in info.data and info.data["data"].public_fraction == 0:
            raise ValueError("it uses the public split, so data.public_fraction must be above 0")
        return strategy

    @field_validator("training")
    @classmethod
    def _cohort_can_reach_its_minimum(cls, training: Training, info: ValidationInfo) -> Training:
        partition = info.data.get("partition", FromFile)
        if hasattr(partition, "clients") and training.min_cohort > training.cohort_size(partition.clients):
            raise ValueError(f"min_cohort must be at most {training.cohort_size(partition.clients)}, the cohort's size")
        return training

    @field_validator("aggregation")
    @classmethod
    def _cohort_is_large_enough(cls, aggregation: Aggregator, info: ValidationInfo) -> Aggregator:
        training, partition = info.data.get("training"), info.data.get("partition", FromFile)
        clients = partition.clients if hasattr(partition, "clients") else None
        strategy: Strategy | None = info.data.get("strategy")
        if strategy is not None and strategy.pools_clients:
            return aggregation  # `Strategy.conflict` decides
        if training and clients and (problem := aggregation.problem(training.cohort_size(clients))):
            raise ValueError(problem)
        return aggregation

    @model_validator(mode="after")
    def _strategy_fits_the_other_sections(self) -> "Experiment":
        optimizer = self.training.optimizer
        if reason := self.strategy.conflict(
            server=self.server, aggregation=self.aggregation, optimizer=optimizer, proxy=self.proxy
        ):
            raise ValueError(f"strategy.name is '{self.strategy.name}', but {reason}")
        return self

    @model_validator(mode="after")
    def _texts_fit_into_files(self) -> "Experiment":
        """YAML has no null bytes, so a spec with one could not be read back."""
        if r"\u0000" in self.model_dump_json() and (field := _field_with_null_byte(self.model_dump(mode="json"))):
            raise ValueError(f"{field} has a null byte, which neither a file nor a path can hold")
        return self

    @property
    def keeps_client_state(self) -> bool:
        """Whether clients keep anything from round to round."""
        return self.strategy.is_stateful or self.training.optimizer.state == "kept"

    @property
    def clients(self) -> int | None:
        """Number of clients that train; None if it depends on a partition file."""
        if self.strategy.pools_clients:
            return 1
        return None if isinstance(self.partition, FromFile) else self.partition.clients

    def load_data(self, read: ReadDatasets = read_datasets) -> FederatedDataset:
        """Read the data and divide them among the clients that train. Raises SpecError if either fails."""
        return load(self.data, self.partition, self.seed, read, pooled=self.strategy.pools_clients)

    def count_clients(self) -> int:
        """Return the number of clients that train, also of a partition file. Raises SpecError if it is unreadable."""
        return self.clients or count_clients(self.partition)

    @property
    def required_outputs(self) -> frozenset[OutputKind]:
        """The kinds of teacher output that loss terms or the proxy read; empty if no teacher is needed."""
        inputs: frozenset[OutputKind] = frozenset({"features"} if self.proxy.reads_features else ())
        return self.strategy.required_outputs | inputs

    def is_evaluated(self, number: int) -> bool:
        """Whether the global model is evaluated after round `number`."""
        return self._is_due(self.evaluation.every, number)

    def is_saved(self, number: int) -> bool:
        """Whether a checkpoint is written after round `number`."""
        return self._is_due(self.checkpoint.every, number)

    def _is_due(self, every: int, number: int) -> bool:
        return number % every == 0 or number == self.training.rounds


def _field_with_null_byte(value: object, name: str = "") -> str | None:
    """Return the dotted name of the first text with a null byte."""
    if isinstance(value, str):
        return name if "\0" in value else None
    parts = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}
    found = (_field_with_null_byte(part, f"{name}.{key}".lstrip(".")) for key, part in parts.items())
    return next((each for each in found if each), None)


def _call(_: UserCode, function: Callable[..., Experiment], *arguments: object) -> Experiment:
    """Unpickle an experiment: its modules have arrived as the first argument."""
    return function(*arguments)


def _check_teacher_targets(strategy: Strategy, teacher: AnyTeacher) -> None:
    """Raise ValueError if the teacher cannot provide the outputs that the strategy's loss reads."""
    if strategy.proxy_view and teacher.view != "proxy":
        raise ValueError("its loss compares outputs for the same view of an image: set teacher.view: proxy")
    if strategy.mixup and strategy.teacher_term and teacher.mode != "online":
        raise ValueError(
            "its loss mixes images, whose outputs cannot be cached: "
            f"set teacher.mode: online, or {strategy.teacher_term.path}.loss.mixup: 0"
        )
    if "features" in strategy.required_outputs and isinstance(teacher, Ensemble) and teacher.combines:
        raise ValueError(
            "its loss reads features, and those of several teachers cannot be combined: "
            "assign one teacher to each client"
        )


def _features_problem(teacher: AnyTeacher | None) -> str:
    """Return why a teacher cannot provide the inputs of a linear probe; empty if it can."""
    if not isinstance(teacher, ImageTeacher):
        return "must be one network whose features all clients read, such as zero_shot, classifier or supervised"
    if (teacher.mode, teacher.view) != ("cached", "plain"):
        return "must have mode: cached and view: plain, as the features of an image are computed once"
    return ""


def _probe_problem(strategy: Strategy) -> str:
    """Return why clients cannot train a linear probe by a strategy; empty if they can."""
    if strategy.required_outputs:
        return "it distils from a teacher, whose features the proxy linear_probe reads already: choose one of the two"
    if "private" in strategy.objectives():
        return "it has a private model of images, and the proxy linear_probe reads features"
    if strategy.needs_public_data:
        return "it uses public images, and the proxy linear_probe reads features"
    if strategy.uses_features:
        return "its loss reads the proxy's features, which are the fixed inputs of the proxy linear_probe"
    return ""
