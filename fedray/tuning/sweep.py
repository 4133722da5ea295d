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

from fedray.backends.actor_pool import cluster_resources, names
from fedray.backends.commons import Commons
from fedray.backends.plan import plan_actors, portion
from fedray.backends.totals import got, pinned, this_node
from fedray.board import Board
from fedray.cluster import start_ray
from fedray.data.federation import count_clients
from fedray.errors import LostError, SpecError
from fedray.storage import DONE, storage_of
from fedray.study import Study, Trial, last_figures
from fedray.teachers.bank import cache_folder
from fedray.tuning import trial
from fedray.tuning.agenda import Agenda, agenda
from fedray.tuning.loggers import logger
from fedray.tuning.schedulers import scheduler
from fedray.tuning.watch import Watch

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
        todo = agenda(study)
        startup = dict[str, float]()
        if todo.left:
            study.storage.erase(DONE)
            os.environ.update(ENVIRONMENT)
            start_ray(verbose=verbose)
            with _stopping_on_sigterm():
                startup = run(study, todo, start_commons(), quiet=quiet, verbose=verbose)
        now = Study(study.space, study.results)
        trials = now.trials() or now.kept()
        study.write_table(trials, startup)
        if any(trial.state in ("begun", "waiting") for trial in trials):
            raise KeyboardInterrupt  # which Tune has caught
        if not any(trial.state == "failed" for trial in trials):
            study.storage.write(DONE, f"{len(trials)} of {len(trials)} trials\n")
        return trials


def start_commons() -> Any:
    """The actor that holds what trials share: on this node, whose loss would end the sweep anyway."""
    return ray.remote(Commons).options(num_cpus=0, scheduling_strategy=pinned(this_node())).remote()


def run(study: Study, todo: Agenda, commons: Any, *, quiet: bool, verbose: bool) -> dict[str, float]:
    """Hand the trials to Tune, and wait; return each one's seconds from its start until its first round began."""
    name, search, known = study.folder.name, study.space.search, study.kept()
    board = Board(
        name, search, total=todo.total, finished=todo.finished, rounds=todo.rounds, quiet=quiet, out=sys.stdout
    )
    for each in known:
        if not study.left(each):
            board.known(each.label, last_figures(each.history()))
    watch = Watch(study, board, study.trials() or known, commons)
    study.describe(sys.argv)
    _check_shared(study)
    tuner = _tuner(study, todo, commons, watch)
    with board, _quieter(verbose=verbose), _unwrapped():
        tuner.fit()
    return watch.startup


def _check_shared(study: Study) -> None:
    """Raises SpecError where a node that is there now does not see the study's folder."""
    if study.storage.found_by_all:
        return
    there: Any = ray.remote(lambda path: Path(path).exists())
    described = str((study.folder / "study.json").absolute())
    nodes = {node: name for node, name in names().items() if node != this_node()}
    asked = {
        there.options(num_cpus=0, max_retries=0, scheduling_strategy=pinned(node)).remote(described): node
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
        return bool(got(answer))
    except LostError:  # a node that has gone meanwhile makes no trials
        return True


def _tuner(study: Study, todo: Agenda, commons: Any, watch: Watch) -> tune.Tuner:
    search = study.space.search
    sizes = {experiment: count_clients(experiment) for experiment in todo.experiments}
    most = todo.left if search.max_concurrent == "auto" else search.max_concurrent
    at_once, part = portion(sizes, cluster_resources(), most)
    rounds = max(experiment.training.rounds for experiment in sizes)
    return tune.Tuner(
        tune.with_resources(_trainable(study, part, commons), _bundles(study, part)),
        param_space=_population(study) if study.evolves else None,
        tune_config=tune.TuneConfig(
            metric=search.metric,
            mode=search.better,
            search_alg=None if study.evolves else todo.searcher,
            scheduler=scheduler(search, rounds),
            num_samples=1 if study.evolves else todo.searcher.left,
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


def _trainable(study: Study, part: Mapping[str, float], commons: Any) -> Any:
    there = Study(study.space, storage_of(study.results).place)  # not relative to where its actors run
    context = trial.Context(there, part, commons, cache_folder(), sys.argv, str(Path.cwd()))
    return tune.with_parameters(trial.Trial, context=context)


def _bundles(study: Study, part: Mapping[str, float]) -> Callable[[dict[str, Any]], tune.PlacementGroupFactory]:
    """A trial's placement group: a bundle for the driver, which only adds up, and one for each actor."""

    def of(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        experiment = study.of_config(config).experiment
        plan = plan_actors(experiment, count_clients(experiment), part)
        actors = [{"CPU": plan.cpus_per_actor, "GPU": plan.gpus_per_actor}] * plan.actors
        return tune.PlacementGroupFactory([{}, *actors], strategy="PACK")

    return of


def _population(study: Study) -> dict[str, Any]:
    """Each member with its values, in the way that a scheduler which changes them asks for."""
    configs = {trial.name: study.config(trial) for trial in study.trials() if study.left(trial)}

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
