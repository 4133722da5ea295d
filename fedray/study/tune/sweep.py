"""Run what is left of a study, under Ray Tune."""

import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.error import TuneError

from fedray.backends.ray.cluster import start_ray
from fedray.backends.ray.node_sums import on_node, ray_get, this_node
from fedray.backends.ray.placement import plan_actors, portion
from fedray.backends.ray.pool import cluster_resources, node_names
from fedray.backends.ray.shared_objects import SharedObjects
from fedray.cache import cache_folder
from fedray.cli.sweep_progress import SweepProgress
from fedray.data.federated import count_clients
from fedray.errors import LostError, SpecError
from fedray.results.storage import DONE_FILE, storage_of
from fedray.study.study import Study, Trial, last_metrics
from fedray.study.tune import trainable
from fedray.study.tune.callback import ProgressCallback
from fedray.study.tune.loggers import logger
from fedray.study.tune.pending import PendingTrials, pending_trials
from fedray.study.tune.schedulers import scheduler

ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a spec's paths are relative to where the sweep was started
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # rounds.csv is the table; `search.log_to` says what else
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that cannot be run has no figures
    "RAY_AIR_NEW_OUTPUT": "0",
}


def sweep(study: Study, *, quiet: bool = False, verbose: bool = False) -> list[Trial]:
    """Run every trial that is left; return all trials, in the order of the space.

    What is on disk is the state: killed at any moment, the next sweep goes on from there. Raises SpecError for
    a study that cannot be run, KeyboardInterrupt after Ctrl-C. A trial that fails is kept as failed, and the
    rest goes on.
    """
    with study.lock():
        todo = pending_trials(study)
        startup = dict[str, float]()
        if todo.left:
            study.storage.erase(DONE_FILE)
            os.environ.update(ENVIRONMENT)
            start_ray(verbose=verbose)
            with _stopping_on_sigterm():
                startup = run(study, todo, start_shared_objects(), quiet=quiet, verbose=verbose)
        now = Study(study.space, study.results)
        trials = now.trials() or now.kept()
        study.write_table(trials, startup)
        if any(trainable.state in ("begun", "waiting") for trainable in trials):
            raise KeyboardInterrupt  # which Tune has caught
        if not any(trainable.state == "failed" for trainable in trials):
            study.storage.write(DONE_FILE, f"{len(trials)} of {len(trials)} trials\n")
        return trials


def start_shared_objects() -> Any:
    """The actor that holds what trials share: on this node, whose loss would end the sweep anyway."""
    return ray.remote(SharedObjects).options(num_cpus=0, scheduling_strategy=on_node(this_node())).remote()


def run(study: Study, todo: PendingTrials, shared_objects: Any, *, quiet: bool, verbose: bool) -> dict[str, float]:
    """Hand the trials to Tune, and wait; return each one's seconds from its start until its first round began."""
    name, search, known = study.folder.name, study.space.search, study.kept()
    board = SweepProgress(
        name, search, total=todo.total, finished=todo.finished, rounds=todo.rounds, quiet=quiet, out=sys.stdout
    )
    for each in known:
        if not study.left(each):
            board.known(each.label, last_metrics(each.history()))
    watch = ProgressCallback(study, board, study.trials() or known, shared_objects)
    study.describe(sys.argv)
    _check_shared(study)
    tuner = _tuner(study, todo, shared_objects, watch)
    with board, _quieter(verbose=verbose), _unwrapped():
        tuner.fit()
    return watch.startup


def _check_shared(study: Study) -> None:
    """Raises SpecError where a node that is there now does not see the study's folder."""
    if study.storage.is_shared:
        return
    there: Any = ray.remote(lambda path: Path(path).exists())
    described = str((study.folder / "study.json").absolute())
    nodes = {node: name for node, name in node_names().items() if node != this_node()}
    asked = {
        there.options(num_cpus=0, max_retries=0, scheduling_strategy=on_node(node)).remote(described): node
        for node in nodes
    }
    done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=60) if asked else ([], [])
    blind = [nodes[asked[answer]] for answer in done if not _answered(answer)]
    if blind:
        raise SpecError(
            f"'{study.folder}' is not there on {len(blind)} of {len(nodes) + 1} nodes ({'; '.join(blind)}): "
            "choose a --results that is shared by all nodes, or a URI."
        )


def _answered(answer: Any) -> bool:
    try:
        return bool(ray_get(answer))
    except LostError:  # a node that has gone meanwhile makes no trials
        return True


def _tuner(study: Study, todo: PendingTrials, shared_objects: Any, watch: ProgressCallback) -> tune.Tuner:
    search = study.space.search
    sizes = {experiment: count_clients(experiment.partition) for experiment in todo.experiments}
    most = todo.left if search.max_concurrent == "auto" else search.max_concurrent
    at_once, part = portion(sizes, cluster_resources(), most)
    rounds = max(experiment.training.rounds for experiment in sizes)
    return tune.Tuner(
        tune.with_resources(_trainable(study, part, shared_objects), _bundles(study, part)),
        param_space=_population(study) if study.is_population else None,
        tune_config=tune.TuneConfig(
            metric=search.metric,
            mode=search.direction,
            search_alg=None if study.is_population else todo.searcher,
            scheduler=scheduler(search, rounds),
            num_samples=1 if study.is_population else todo.searcher.left,
            max_concurrent_trials=None if search.max_concurrent == "auto" else at_once,  # nodes may join
            reuse_actors=True,
            trial_name_creator=lambda each: str(each.config["trial"]),
            trial_dirname_creator=lambda each: str(each.config["trial"]),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=study.storage.place,
            callbacks=[watch, *(logger(name, study.folder.name) for name in search.log_to)],
            failure_config=tune.FailureConfig(max_failures=search.retries),
            checkpoint_config=tune.CheckpointConfig(4, checkpoint_frequency=0, checkpoint_at_end=False),
            sync_config=tune.SyncConfig(sync_period=60),
            verbose=0,
        ),
    )


def _trainable(study: Study, part: Mapping[str, float], shared_objects: Any) -> Any:
    there = Study(study.space, storage_of(study.results).place)  # not relative to where its actors run
    context = trainable.StudyContext(there, part, shared_objects, cache_folder(), sys.argv, str(Path.cwd()))
    return tune.with_parameters(trainable.FedTrainable, context=context)


def _bundles(study: Study, part: Mapping[str, float]) -> Callable[[dict[str, Any]], tune.PlacementGroupFactory]:
    """A trial's placement group: a bundle for the driver, which only adds up, and one for each actor."""

    def of(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        experiment = study.of_config(config).experiment
        plan = plan_actors(experiment, count_clients(experiment.partition), part)
        actors = [{"CPU": plan.cpus_per_actor, "GPU": plan.gpus_per_actor}] * plan.actors
        return tune.PlacementGroupFactory([{}, *actors], strategy="PACK")

    return of


def _population(study: Study) -> dict[str, Any]:
    """Each member with its values, in the way that a scheduler which changes them asks for."""
    configs = {trainable.name: study.config(trainable) for trainable in study.trials() if study.left(trainable)}

    def value(field: str) -> Callable[[Any], Any]:
        return lambda spec: configs[spec.config["trial"]][field]

    fields = [axis.field for axis in study.space.axes]
    return {"trial": tune.grid_search(list(configs))} | {field: tune.sample_from(value(field)) for field in fields}


@contextmanager
def _stopping_on_sigterm() -> Iterator[None]:
    """At once: whoever sends it often sends it to Ray's processes, too, and then there is nothing to wait for."""

    def stop(*_: object) -> None:
        os.write(2, b"fedray: stopped by SIGTERM. Every finished round is kept; the same command goes on from there.\n")
        os._exit(0)  # as a job that is to be started again, not as one that failed

    here = threading.current_thread() is threading.main_thread()  # elsewhere Python refuses
    before = signal.signal(signal.SIGTERM, stop) if here else None
    try:
        yield
    finally:
        if here:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _unwrapped() -> Iterator[None]:
    """What the watch raises, Tune raises as its own."""
    try:
        yield
    except TuneError as error:
        raise (error.__context__ if isinstance(error.__context__, SpecError) else error) from None


@contextmanager
def _quieter(*, verbose: bool) -> Iterator[None]:
    """Without what Ray and Tune say of themselves, unless it is asked for."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train", "ray.air")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.INFO if verbose else logging.CRITICAL)
    try:
        with nullcontext() if verbose else redirect_stdout(io.StringIO()):  # Ray prints there what it thinks urgent
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
