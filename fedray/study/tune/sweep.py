"""Run the pending trials of a study under Ray Tune."""

import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from pathlib import Path

import ray
from ray import tune
from ray.tune.error import TuneError

from fedray.backends.ray.cluster import start_ray
from fedray.backends.ray.nodes import cluster_resources, node_names, on_node, this_node
from fedray.backends.ray.placement import plan_actors, portion
from fedray.backends.ray.references import ray_get
from fedray.backends.ray.shared_objects import SharedObjects, SharedObjectsActor
from fedray.cache import cache_folder
from fedray.config.experiment import Experiment
from fedray.errors import LostError, RayLostError, SpecError
from fedray.results.storage import DONE_FILE, storage_of
from fedray.study.identities import check_identities
from fedray.study.study import Study, Trial, last_metrics
from fedray.study.tune.callback import ProgressCallback
from fedray.study.tune.display import MakeDisplay, SweepDisplay
from fedray.study.tune.loggers import logger
from fedray.study.tune.pending import PendingTrials, pending_trials
from fedray.study.tune.schedulers import scheduler
from fedray.study.tune.trainable import FedTrainable, StudyContext
from fedray.types import Row
from fedray.user_code import UserCode, user_objects

ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths in a spec are relative to the folder that the sweep was started in
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # rounds.csv is the log; `search.log_to` adds others
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a refused trial reports no metrics
    "RAY_AIR_NEW_OUTPUT": "0",
}
NODE_CHECK_TIMEOUT_S = 60
"""Time that a node has to report whether it finds the study's folder."""


def sweep(
    study: Study, *, display: MakeDisplay | None = None, verbose: bool = False, verify_data: bool = False
) -> list[Trial]:
    """Run every pending trial of a study. Return all its trials in the order of the space.

    The state is on disk only: if a sweep is killed, the next one resumes every trial from its last checkpoint.
    A failed trial is recorded as failed and the others continue. `display` makes the live display, none by default.
    `verify_data`: compare contents also where sizes and times of files are unchanged.
    Raises SpecError for a study that cannot run, KeyboardInterrupt after Ctrl-C.
    """
    with study.lock():
        for warning in check_identities(study, verify_data=verify_data):
            print(f"fedray: warning: {warning}", file=sys.stderr)
        pending = pending_trials(study)
        startup = dict[str, float]()
        if pending.count:
            study.storage.erase(DONE_FILE)
            os.environ.update(ENVIRONMENT)
            start_ray(verbose=verbose)
            shown = display(study.folder.name, study.space.search, pending.size) if display else SweepDisplay()
            with _exit_on_sigterm():
                startup = run_trials(study, pending, start_shared_objects(), shown, verbose=verbose)
        now = Study(study.space, study.results)
        trials = now.trials() or now.existing_trials()
        study.write_table(trials, startup)
        if any(trial.state in ("started", "pending") for trial in trials):
            raise KeyboardInterrupt  # Tune catches the one from Ctrl-C
        if not any(trial.state in ("failed", "damaged") for trial in trials):
            study.storage.write(DONE_FILE, f"{len(trials)} of {len(trials)} trials\n")
        return trials


def start_shared_objects() -> SharedObjectsActor:
    """Start the actor that holds data shared by trials, on this node: its loss ends the sweep anyway."""
    options = {"num_cpus": 0, "scheduling_strategy": on_node(this_node())}
    return ray.remote(SharedObjects).options(**options).remote()


def run_trials(
    study: Study, pending: PendingTrials, shared_objects: SharedObjectsActor, display: SweepDisplay, *, verbose: bool
) -> dict[str, float]:
    """Run trials on Tune. Return the seconds from the start of each to the start of its first round, by name."""
    existing = study.existing_trials()
    for trial in existing:
        if not study.is_pending(trial):
            display.known(trial.label, last_metrics(trial.history()))
    callback = ProgressCallback(study, display, study.trials() or existing, shared_objects)
    study.describe(sys.argv)
    _check_all_nodes_find(study)
    tuner = _tuner(study, pending, shared_objects, callback)
    try:
        with display, _quiet_loggers(verbose=verbose), _unwrapped_errors():
            tuner.fit()
    finally:
        _print_warnings(shared_objects)
    return callback.startup_seconds


def _print_warnings(shared_objects: SharedObjectsActor) -> None:
    """Print to stderr what was left out of the study's data, and warnings about its specs."""
    with suppress(LostError):
        for warning in ray_get(shared_objects.warnings.remote()):
            print(f"fedray: warning: {warning}", file=sys.stderr)


def _check_all_nodes_find(study: Study) -> None:
    """Raises SpecError if a node of the cluster does not find the study's folder."""
    if study.storage.is_shared:
        return

    def exists(path: str) -> bool:
        return Path(path).exists()

    task = ray.remote(exists)
    described = str((study.folder / "study.json").absolute())
    nodes = {node: name for node, name in node_names().items() if node != this_node()}
    calls = {
        task.options(num_cpus=0, max_retries=0, scheduling_strategy=on_node(node)).remote(described): node
        for node in nodes
    }
    done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=NODE_CHECK_TIMEOUT_S) if calls else ([], [])
    blind = [nodes[calls[reference]] for reference in done if not _is_found(reference)]
    if blind:
        raise SpecError(
            f"'{study.folder}' does not exist on {len(blind)} of {len(nodes) + 1} nodes ({'; '.join(blind)}): "
            "choose a --results that all nodes share, or a URI."
        )


def _is_found(reference: "ray.ObjectRef[bool]") -> bool:
    try:
        return bool(ray_get(reference))
    except LostError:  # a lost node runs no trials
        return True


def _tuner(
    study: Study, pending: PendingTrials, shared_objects: SharedObjectsActor, callback: ProgressCallback
) -> tune.Tuner:
    search = study.space.search
    sizes = {experiment: experiment.count_clients() for experiment in pending.experiments}
    limit = pending.count if search.max_concurrent == "auto" else search.max_concurrent
    at_once, part = portion(sizes, cluster_resources(), limit)
    rounds = max(experiment.training.rounds for experiment in sizes)
    return tune.Tuner(
        tune.with_resources(_trainable(study, part, shared_objects, pending), _placement_groups(study, part)),
        param_space=_population(study) if study.is_population else None,
        tune_config=tune.TuneConfig(
            metric=search.metric,
            mode=search.direction,
            search_alg=None if study.is_population else pending.searcher,
            scheduler=scheduler(search, rounds),
            num_samples=1 if study.is_population else pending.searcher.count,
            max_concurrent_trials=None if search.max_concurrent == "auto" else at_once,  # nodes may join
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.config["trial"]),
            trial_dirname_creator=lambda trial: str(trial.config["trial"]),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=study.storage.location,
            callbacks=[callback, *(logger(name, study.folder.name) for name in search.log_to)],
            failure_config=tune.FailureConfig(max_failures=search.retries),
            checkpoint_config=tune.CheckpointConfig(4, checkpoint_frequency=0, checkpoint_at_end=False),
            sync_config=tune.SyncConfig(sync_period=60),
            verbose=0,
        ),
    )


def _trainable(
    study: Study, part: Mapping[str, float], shared_objects: SharedObjectsActor, pending: PendingTrials
) -> type[FedTrainable]:
    location = storage_of(study.results).location  # actors run in another folder
    absolute = Study(study.space, location, allow_code_change=study.allow_code_change)
    code = UserCode.of(part for experiment in _experiments(study, pending) for part in user_objects(experiment))
    context = StudyContext(absolute, part, shared_objects, cache_folder(), sys.argv, str(Path.cwd()), code)
    trainable: type[FedTrainable] = tune.with_parameters(FedTrainable, context=context)
    return trainable


def _experiments(study: Study, pending: PendingTrials) -> Iterator[Experiment]:
    """Yield experiments with every class of a pending trial: a searcher proposes other values of the same axes."""
    yield from pending.experiments
    for axis in study.space.axes if study.space.search.algorithm == "optuna" else ():
        for value in axis.values:
            with suppress(SpecError):
                yield study.trial({**study.space.first(), axis.field: value}).experiment


def _placement_groups(study: Study, part: Mapping[str, float]) -> Callable[[Row], tune.PlacementGroupFactory]:
    """Return a trial's placement group by its config: an empty bundle for the driver and one per worker."""

    def placement_group(config: Row) -> tune.PlacementGroupFactory:
        experiment = study.trial_of_config(config).experiment
        plan = plan_actors(experiment, experiment.count_clients(), part)
        workers = [{"CPU": plan.cpus_per_actor, "GPU": plan.gpus_per_actor}] * plan.actors
        return tune.PlacementGroupFactory([{}, *workers], strategy="PACK")

    return placement_group


def _population(study: Study) -> Row:
    """Return Tune's parameter space of a population: its members, and each member's value per field."""
    configs = {trial.name: study.tune_config(trial) for trial in study.trials() if study.is_pending(trial)}

    def value(field: str) -> Callable[[Row], object]:
        return lambda spec: configs[spec["config"]["trial"]][field]

    fields = [axis.field for axis in study.space.axes]
    return {"trial": tune.grid_search(list(configs))} | {field: tune.sample_from(value(field)) for field in fields}


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Exit at once on SIGTERM: a batch system often sends it to Ray's processes too, which then never reply."""

    def stop(*_: object) -> None:
        os.write(2, b"fedray: stopped by SIGTERM. Every finished round is saved; run the same command to resume.\n")
        os._exit(0)  # so that a batch system requeues the job and does not mark it as failed

    is_main_thread = threading.current_thread() is threading.main_thread()  # Python allows handlers only there
    before = signal.signal(signal.SIGTERM, stop) if is_main_thread else None
    try:
        yield
    finally:
        if is_main_thread:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _unwrapped_errors() -> Iterator[None]:
    """Raises a callback's SpecError or RayLostError itself: Tune wraps it into its own error."""
    try:
        yield
    except TuneError as error:
        raise (error.__context__ if isinstance(error.__context__, SpecError | RayLostError) else error) from None


@contextmanager
def _quiet_loggers(*, verbose: bool) -> Iterator[None]:
    """Hide the output of Ray and Tune unless `verbose`."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train", "ray.air")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.INFO if verbose else logging.CRITICAL)
    try:
        with nullcontext() if verbose else redirect_stdout(io.StringIO()):  # Ray prints some messages to stdout
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
