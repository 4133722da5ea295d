"""`fedray plan`: what a study will take, before it runs."""

import heapq
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fedray.backends.ray.placement import Plan, plan_actors, portion
from fedray.config.experiment import Experiment
from fedray.data import federated
from fedray.data.federated import FederatedDataset
from fedray.study.probe import StepTiming, TeacherTiming, measure, measure_teachers
from fedray.study.study import Study, Trial
from fedray.study.workload import QueryCounter, Workload, workload
from fedray.teachers.cache import TeacherCache

Tell = Callable[[str], None]


@dataclass
class StudyPlan:
    """What `fedray plan` prints."""

    trials: Sequence[Trial]
    left: Sequence[Trial]
    cluster: Mapping[str, float]
    at_once: int
    actors: Mapping[str, Plan]  # of each trial by its name; those below too
    work: Mapping[str, Workload]
    answers: QueryCounter
    used: int  # answers that the trials' steps look at
    online: int  # of them, by teachers that answer anew each time
    data: Callable[[Experiment], FederatedDataset]
    speeds: Mapping[str, StepTiming] = field(default_factory=dict)
    forwards: Sequence[TeacherTiming] = ()
    startup: float = 0.0  # seconds from nothing to the first step

    @property
    def seconds(self) -> Mapping[str, float]:
        """Of each trial's rounds, once it runs."""
        return {name: speed.of(self.work[name], self.actors[name].actors) for name, speed in self.speeds.items()}

    @property
    def asking(self) -> float:
        """Seconds until the teachers have answered what the bank lacks, one trial's actors asking."""
        each = max((one.seconds for one in self.forwards if not one.problem), default=0.0)
        actors = max((plan.actors for plan in self.actors.values()), default=1)
        return self.answers.missing * each / actors

    @property
    def total(self) -> float:
        """Seconds for all that is left: each trial begins where there is room first."""
        free, seconds = [0.0] * self.at_once, self.seconds
        for trial in self.left:
            heapq.heapreplace(free, free[0] + seconds[trial.name])
        return self.startup + self.asking + max(free)


def plan(study: Study, cluster: Mapping[str, float], teacher_cache: TeacherCache) -> StudyPlan:
    """Count what is left of a study. Raises SpecError for data that cannot be read, or does not fit."""
    trials = study.trials() or _proposed(study)
    left = [trial for trial in trials if study.is_pending(trial)]
    sizes = {trial.experiment: federated.count_clients(trial.experiment.partition) for trial in left}
    most = study.space.search.max_concurrent
    at_once, part = portion(sizes, cluster, len(left) if most == "auto" else most) if left else (1, cluster)
    actors = {trial.name: plan_actors(trial.experiment, sizes[trial.experiment], part) for trial in left}
    counter, data, work = QueryCounter(teacher_cache), _Data(), dict[str, Workload]()
    counted = dict[Any, int]()
    for trial in left:
        loaded = data(trial.experiment)
        work[trial.name] = workload(trial.experiment, loaded, trial.round)
        asks = _asks(trial.experiment)
        if asks not in counted:
            counted[asks] = counter.add(trial.experiment, loaded)
    used = {trial.name: counted[_asks(trial.experiment)] for trial in left}
    online = sum(used[t.name] for t in left if getattr(t.experiment.teacher, "mode", None) == "online")
    return StudyPlan(trials, left, cluster, at_once, actors, work, counter, sum(used.values()), online, data)


def probe(planned: StudyPlan, make_backend: Any, tell: Tell) -> None:
    """Measure each kind of trial for a few steps, on as many actors as will work at once."""
    data, known = planned.data, dict[Any, StepTiming]()
    asked = dict[Any, list[TeacherTiming]]()
    start = time.perf_counter()
    for trial in planned.left:
        kind, spec = _kind(trial.experiment), trial.experiment
        if kind not in known:
            tell(f"measuring {trial.label or trial.name}")
            busy = plan_actors(spec, len(data(spec).shards), planned.cluster).at_once
            known[kind] = measure(spec, data(spec), make_backend, busy)
            planned.startup = planned.startup or time.perf_counter() - start
        if planned.answers.missing and spec.teacher not in asked:
            asked[spec.teacher] = measure_teachers(spec, data(spec), make_backend)
    planned.speeds = {trial.name: known[_kind(trial.experiment)] for trial in planned.left}
    planned.forwards = [one for each in asked.values() for one in each]


def _proposed(study: Study) -> list[Trial]:
    """What there is already, and in place of what a searcher will propose as many drawn at random."""
    kept = study.existing_trials()
    search = study.space.search.model_copy(update={"algorithm": "random"})
    drawn = Study(replace(study.space, search=search), study.results).trials()
    names = {trial.name for trial in kept}
    return [*kept, *(trial for trial in drawn if trial.name not in names)][: max(len(kept), search.samples)]


def _kind(experiment: Experiment) -> Any:
    """What decides how long a step takes."""
    online = experiment.teacher if getattr(experiment.teacher, "mode", None) == "online" else None
    spec = experiment.training
    training = (spec.batch_size, spec.memory_format, spec.precision, spec.fast_layers)
    strategy = experiment.strategy
    loss = getattr(getattr(strategy, "loss", None), "name", None)
    return (experiment.data, experiment.proxy, strategy.name, loss, online, training, experiment.resources)


def _asks(experiment: Experiment) -> Any:
    """What decides which answers a trial asks for."""
    training = experiment.training
    rounds = (training.rounds, training.local_epochs, training.participation)
    lessons = frozenset(experiment.strategy.required_outputs)
    return (experiment.data, experiment.partition, experiment.teacher, experiment.seed, rounds, lessons)


class _Data:
    """Loads each data set once, and divides it once for each partition and seed."""

    def __init__(self) -> None:
        self._sets: dict[Any, Any] = {}
        self._loaded: dict[Any, FederatedDataset] = {}

    def __call__(self, experiment: Experiment) -> FederatedDataset:
        divided = (experiment.data, experiment.partition, experiment.seed)
        if divided not in self._loaded:
            self._loaded[divided] = federated.load(*divided, self._read)
        return self._loaded[divided]

    def _read(self, spec: Any, seed: int) -> Any:
        if (spec, seed) not in self._sets:
            self._sets[spec, seed] = federated.read_datasets(spec, seed)
        return self._sets[spec, seed]
