"""Run what is left of a study, under Ray Tune."""

import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from importlib.util import find_spec
from typing import Any

from fedray.backends.plan import Plan, portion
from fedray.board import Board
from fedray.data.federation import count_clients
from fedray.errors import SpecError
from fedray.runner import start_ray
from fedray.storage import storage_of
from fedray.study import Study, Trial, last_figures
from fedray.teachers.bank import cache_folder

ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a spec's paths are relative to where the sweep was started
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # rounds.csv is the table; `search.log_to` says what else
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that cannot be run has no figures
    "RAY_AIR_NEW_OUTPUT": "0",
}


def sweep(study: Study, *, quiet: bool = False, verbose: bool = False) -> list[Trial]:
    """Run every trial that is left; return all trials, in the order of the space.

    What is on disk is the state: killed at any moment, the next sweep goes on from there. Raises SpecError for
    a study that cannot be run. A trial that fails is kept as failed, and the rest goes on.
    """
    with study.lock():
        known, listed = study.kept(), study.trials()
        left = [trial for trial in listed if study.left(trial)]
        if left or not listed:
            os.environ.update(ENVIRONMENT)
            start_ray(verbose=verbose)
            return _Sweep(study, known, listed, left).run(quiet=quiet, verbose=verbose)
        study.write_table(listed)
        return listed


class _Sweep:
    """A study, as Tune is told of it."""

    def __init__(self, study: Study, known: Sequence[Trial], listed: Sequence[Trial], left: Sequence[Trial]) -> None:
        import ray

        from fedray.backends.commons import Commons
        from fedray.tuning.searcher import Listed, Proposed

        self._study, self._search = study, study.space.search
        self._listed, self._left, self._known = listed, left, known
        if listed:
            compares = self._search.scheduler in ("asha", "median")
            shown = [trial for trial in listed if compares and trial not in left and trial.round]
            self._searcher = Listed([study.config(trial) for trial in (*shown, *left)])
            self._total, self._finished = len(listed), len(listed) - len(left)
            self._rounds = sum(trial.experiment.training.rounds - trial.round for trial in left)
        else:
            self._searcher = Proposed(study)
            self._finished = sum(not study.left(trial) for trial in known)
            self._total = self._finished + self._searcher.left
            self._rounds = self._searcher.left * study.trial(study.space.first()).experiment.training.rounds
        self._at_once, self._part = self._share_out()
        self._commons: Any = ray.remote(Commons).options(num_cpus=0).remote()

    def run(self, *, quiet: bool, verbose: bool) -> list[Trial]:
        """Hand the study to Tune, and wait."""
        from fedray.tuning.watch import Watch

        name = self._study.folder.name
        board = Board(
            name, self._search, total=self._total, finished=self._finished, rounds=self._rounds, quiet=quiet,
            out=sys.stdout,
        )  # fmt: skip
        for trial in self._known:
            if not self._study.left(trial):
                board.known(trial.label, last_figures(trial.history()))
        watch = Watch(self._study, board, self._listed or self._known, self._commons)
        if self._searcher.left:
            self._study.describe(sys.argv)
            tuner = self._tuner(watch)
            with board, _quieter(verbose=verbose), _unwrapped():
                tuner.fit()
        now = Study(self._study.space, self._study.results)
        trials = now.trials() or now.kept()
        self._study.write_table(trials, watch.startup)
        if any(trial.state in ("begun", "waiting") for trial in trials):
            raise KeyboardInterrupt  # which Tune has caught
        return trials

    def _tuner(self, watch: Any) -> Any:
        from ray import tune

        return tune.Tuner(
            tune.with_resources(self._trainable(), self._bundles),
            param_space=self._population() if self._study.evolves else None,
            tune_config=tune.TuneConfig(
                metric=self._search.metric,
                mode=self._search.better,
                search_alg=None if self._study.evolves else self._searcher,
                scheduler=self._scheduler(),
                num_samples=1 if self._study.evolves else self._searcher.left,
                max_concurrent_trials=self._at_once,
                reuse_actors=True,
                trial_name_creator=lambda trial: str(trial.config["trial"]),
                trial_dirname_creator=lambda trial: str(trial.config["trial"]),
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=self._study.storage.place,
                callbacks=[watch, *_loggers(self._study)],
                failure_config=tune.FailureConfig(max_failures=self._search.retries),
                checkpoint_config=tune.CheckpointConfig(4, checkpoint_frequency=0, checkpoint_at_end=False),
                sync_config=tune.SyncConfig(sync_period=60),
                verbose=0,
            ),
        )

    def _population(self) -> dict[str, Any]:
        """Each member with its values, in the way that a scheduler which changes them asks for."""
        from ray import tune

        configs = {trial.name: self._study.config(trial) for trial in self._left}

        def value(field: str) -> Callable[[Any], Any]:
            return lambda spec: configs[spec.config["trial"]][field]

        fields = [axis.field for axis in self._study.space.axes]
        return {"trial": tune.grid_search(list(configs))} | {field: tune.sample_from(value(field)) for field in fields}

    def _trainable(self) -> Any:
        from ray import tune

        from fedray.tuning.trial import Context
        from fedray.tuning.trial import Trial as Trainable

        study = Study(self._study.space, storage_of(self._study.results).place)  # not relative to where its actors run
        return tune.with_parameters(
            Trainable, context=Context(study, self._part, self._commons, cache_folder(), sys.argv)
        )

    def _bundles(self, config: dict[str, Any]) -> Any:
        """A trial's placement group: a bundle for the driver, which only adds up, and one for each actor."""
        from ray import tune

        plan = self.plan(self._study.of_config(config))
        actors = [{"CPU": plan.cpus_per_actor, "GPU": plan.gpus_per_actor}] * plan.actors
        return tune.PlacementGroupFactory([{}, *actors], strategy="PACK")

    def plan(self, trial: Trial) -> Plan:
        """The actors of one trial."""
        from fedray.backends.plan import plan_actors

        return plan_actors(trial.experiment, count_clients(trial.experiment), self._part)

    def _share_out(self) -> tuple[int, Mapping[str, float]]:
        from fedray.backends.actor_pool import cluster_resources

        trials = self._left or [self._study.trial(self._study.space.first())]
        sizes = {trial.experiment: count_clients(trial.experiment) for trial in trials}
        wanted = self._total - self._finished
        return portion(
            sizes, cluster_resources(), wanted if self._search.max_concurrent == "auto" else self._search.max_concurrent
        )

    def _scheduler(self) -> Any:
        from ray.tune import schedulers

        trials = self._left or [self._study.trial(self._study.space.first())]
        search, rounds = self._search, max(t.experiment.training.rounds for t in trials)
        makers: dict[str, Callable[[], Any]] = {
            "none": schedulers.FIFOScheduler,
            "asha": lambda: schedulers.ASHAScheduler(
                "round", max_t=rounds, grace_period=min(search.grace, rounds), reduction_factor=search.reduction
            ),
            "median": lambda: schedulers.MedianStoppingRule("round", grace_period=search.grace),
            "pbt": lambda: schedulers.PopulationBasedTraining(
                "round",
                perturbation_interval=search.grace,
                hyperparam_mutations={field: list(values) for field, values in (search.mutations or {}).items()},
            ),
        }
        return makers[search.scheduler]()


LOGGERS = {
    "tensorboard": ("tensorboardX", "ray.tune.logger", "TBXLoggerCallback"),
    "mlflow": ("mlflow", "ray.air.integrations.mlflow", "MLflowLoggerCallback"),
    "wandb": ("wandb", "ray.air.integrations.wandb", "WandbLoggerCallback"),
}


def _loggers(study: Study) -> list[Any]:
    """Tune's own."""
    options: dict[str, dict[str, Any]] = {
        "tensorboard": {},
        "mlflow": {"experiment_name": study.folder.name},
        "wandb": {"project": study.folder.name},
    }
    return [_logger(name, **options[name]) for name in study.space.search.log_to]


def _logger(name: str, **options: Any) -> Any:
    import importlib

    package, module, kind = LOGGERS[name]
    if find_spec(package) is None:
        raise SpecError(f"search.log_to names {name}, which is not installed: pip install {package}.")
    return getattr(importlib.import_module(module), kind)(**options)


@contextmanager
def _unwrapped() -> Iterator[None]:
    """What the watch raises, Tune raises as its own."""
    from ray.tune.error import TuneError

    try:
        yield
    except TuneError as error:
        raise (error.__context__ if isinstance(error.__context__, SpecError) else error) from None


@contextmanager
def _quieter(*, verbose: bool) -> Iterator[None]:
    """Without what Ray and Tune say of themselves, unless it is asked for."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train", "ray.air")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.INFO if verbose else logging.CRITICAL)
    try:
        with nullcontext() if verbose else redirect_stdout(io.StringIO()):  # Ray prints there what it thinks urgent
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
