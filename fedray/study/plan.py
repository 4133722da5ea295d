"""`fedray plan`: the cost of a study before it runs."""

import heapq
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fedray.backends.base import MakeBackend
from fedray.backends.ray.placement import Plan, plan_actors, portion
from fedray.config.experiment import Experiment
from fedray.data import federated
from fedray.data.dataset import Dataset
from fedray.data.federated import FederatedDataset
from fedray.data.sections import Data
from fedray.errors import SpecError
from fedray.server.smallest_batch import check_smallest_batch, smallest_batches
from fedray.server.step import initial_broadcast
from fedray.server.teacher_targets import check_teacher
from fedray.study.probe import StepTiming, TeacherTiming, measure, measure_teachers
from fedray.study.study import Study, Trial
from fedray.study.workload import QueryCounter, Workload, workload
from fedray.teachers.cache import TeacherCache


@dataclass
class StudyPlan:
    """The estimated cost of a study. Mappings are by the name of a pending trial."""

    trials: Sequence[Trial]
    pending: Sequence[Trial]
    cluster: Mapping[str, float]
    at_once: int  # trials that run at the same time
    actors: Mapping[str, Plan]
    work: Mapping[str, Workload]
    queries: QueryCounter
    outputs_used: int  # teacher outputs that the steps of all trials read
    online: int  # of them, computed by online teachers
    data: Callable[[Experiment], FederatedDataset]
    warnings: Sequence[str]  # on the data
    step_timings: Mapping[str, StepTiming] = field(default_factory=dict)
    teacher_timings: Sequence[TeacherTiming] = ()
    startup_seconds: float = 0.0  # from the start of a backend to its first step

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds of each trial's rounds."""
        return {
            name: timing.of(self.work[name], self.actors[name].actors) for name, timing in self.step_timings.items()
        }

    @property
    def teacher_seconds(self) -> float:
        """Seconds to compute the teacher outputs that are not cached, on the actors of one trial."""
        slowest = max((timing.seconds for timing in self.teacher_timings if not timing.problem), default=0.0)
        actors = max((plan.actors for plan in self.actors.values()), default=1)
        return self.queries.missing * slowest / actors

    @property
    def total_seconds(self) -> float:
        """Seconds of all pending trials. Each starts as soon as one of those that run at the same time ends."""
        ends, seconds = [0.0] * self.at_once, self.seconds
        for trial in self.pending:
            heapq.heapreplace(ends, ends[0] + seconds[trial.name])
        return self.startup_seconds + self.teacher_seconds + max(ends)


def plan(study: Study, cluster: Mapping[str, float], teacher_cache: TeacherCache) -> StudyPlan:
    """Return the work of a study's pending trials. Raises SpecError for data that cannot be read or divided."""
    trials = study.trials() or _proposed_trials(study)
    pending = [trial for trial in trials if study.is_pending(trial)]
    sizes = {trial.experiment: trial.experiment.count_clients() for trial in pending}
    limit = study.space.search.max_concurrent
    at_once, part = portion(sizes, cluster, len(pending) if limit == "auto" else limit) if pending else (1, cluster)
    actors = {trial.name: plan_actors(trial.experiment, sizes[trial.experiment], part) for trial in pending}
    counter, data, work = QueryCounter(teacher_cache), _Datasets(), dict[str, Workload]()
    counted = dict[Hashable, int]()
    for trial in pending:
        loaded = data(trial.experiment)
        check_teacher(trial.experiment, loaded)
        width = counter.feature_width(trial.experiment, loaded)
        work[trial.name] = workload(trial.experiment, loaded, trial.round, width)
        kind = _query_kind(trial.experiment)
        if kind not in counted:
            counted[kind] = counter.add(trial.experiment, loaded)
    used = {trial.name: counted[_query_kind(trial.experiment)] for trial in pending}
    online = sum(used[trial.name] for trial in pending if _is_online(trial.experiment))
    return StudyPlan(
        trials, pending, cluster, at_once, actors, work, counter, sum(used.values()), online, data, data.warnings()
    )


def probe(planned: StudyPlan, make_backend: MakeBackend, on_progress: Callable[[str], None]) -> None:
    """Measure a few steps of each kind of trial, on as many actors as will work at the same time.

    Raises SpecError, naming the trial, where the smallest batch of a trial cannot be trained on.
    """
    checked = set[Hashable]()
    steps, teachers = dict[Hashable, StepTiming](), dict[Hashable, list[TeacherTiming]]()
    start = time.perf_counter()
    for trial in planned.pending:
        experiment, kind = trial.experiment, _step_kind(trial.experiment)
        data = planned.data(experiment)
        batch = (kind, min(smallest_batches(experiment, data.shards).values(), default=0))
        if batch not in checked:
            checked.add(batch)
            _check_smallest_batch(trial, data, make_backend, on_progress)
        if kind not in steps:
            on_progress(f"measuring {trial.label or trial.name}")
            busy = plan_actors(experiment, len(data.shards), planned.cluster).at_once
            steps[kind] = measure(experiment, data, make_backend, busy)
            planned.startup_seconds = planned.startup_seconds or time.perf_counter() - start
        if planned.queries.missing and experiment.teacher not in teachers:
            teachers[experiment.teacher] = measure_teachers(experiment, data, make_backend)
    planned.step_timings = {trial.name: steps[_step_kind(trial.experiment)] for trial in planned.pending}
    planned.teacher_timings = [timing for timings in teachers.values() for timing in timings]


def _check_smallest_batch(
    trial: Trial, data: FederatedDataset, make_backend: MakeBackend, on_progress: Callable[[str], None]
) -> None:
    backend = make_backend(trial.experiment, data)
    try:
        for warning in check_smallest_batch(
            trial.experiment, data, backend, initial_broadcast(trial.experiment, backend)
        ):
            on_progress(f"warning: {trial.label or trial.name}: {warning}")
    except SpecError as error:
        raise SpecError(f"{trial.label}: {error}" if trial.label else str(error)) from None
    finally:
        backend.close()


def _proposed_trials(study: Study) -> list[Trial]:
    """Return the existing trials and, for those that a searcher will propose, random draws."""
    existing = study.existing_trials()
    search = study.space.search.model_copy(update={"algorithm": "random"})
    drawn = Study(replace(study.space, search=search), study.results).trials()
    names = {trial.name for trial in existing}
    new = [trial for trial in drawn if trial.name not in names]
    return [*existing, *new][: max(len(existing), search.samples)]


def _is_online(experiment: Experiment) -> bool:
    return experiment.teacher is not None and experiment.teacher.mode == "online"


def _step_kind(experiment: Experiment) -> Hashable:
    """Return the fields that determine the duration of a step."""
    training, strategy = experiment.training, experiment.strategy
    return (
        experiment.data,
        experiment.proxy,
        strategy.name,
        frozenset((model, term.loss) for model, terms in strategy.composed_objectives().items() for term in terms),
        experiment.required_outputs,
        experiment.teacher if _is_online(experiment) else None,
        (training.optimizer.name, training.clip_norm is None),
        (training.batch_size, training.memory_format, training.precision, training.fast_layers),
        experiment.resources,
    )


def _query_kind(experiment: Experiment) -> Hashable:
    """Return the fields that determine which teacher outputs a trial uses."""
    training = experiment.training
    return (
        experiment.data,
        (experiment.partition, experiment.strategy.pools_clients),
        experiment.teacher,
        experiment.seed,
        (training.rounds, training.local_epochs, training.participation),
        (training.local_steps, training.batch_size) if training.local_steps else None,
        experiment.required_outputs,
        experiment.proxy.reads_features and experiment.evaluation.every,
    )


class _Datasets:
    """Read each pair of data sets once, and divides it once for each partition and seed."""

    def __init__(self) -> None:
        self._read: dict[tuple[Data, int], tuple[Dataset, Dataset]] = {}
        self._divided: dict[Hashable, FederatedDataset] = {}

    def __call__(self, experiment: Experiment) -> FederatedDataset:
        key = (experiment.data, experiment.partition, experiment.seed, experiment.strategy.pools_clients)
        if key not in self._divided:
            self._divided[key] = experiment.load_data(self._read_once)
        return self._divided[key]

    def warnings(self) -> list[str]:
        """Return a sentence on each pair of data sets of which something was left out."""
        return [sentence for pair in self._read.values() for sentence in federated.left_out(*pair)]

    def _read_once(self, spec: Data, seed: int) -> tuple[Dataset, Dataset]:
        if (spec, seed) not in self._read:
            self._read[spec, seed] = federated.read_datasets(spec, seed)
        return self._read[spec, seed]
