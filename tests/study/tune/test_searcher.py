"""The next trial of a sweep: lists and Optuna's proposals, called as Tune calls them."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.tune.search import Searcher

from fedray.config.loader import read
from fedray.errors import SpecError
from fedray.server.driver import Driver
from fedray.study.study import Outcome, Study, Trial
from fedray.study.tune.searcher import FixedSearcher, OptunaSearcher

BASE: dict[str, Any] = {
    "data": {"train": "digits", "test": "digits", "train_limit": 60, "test_limit": 20},
    "partition": {"kind": "iid", "clients": 2},
    "training": {"rounds": 2, "batch_size": 16, "optimizer": {"lr": 0.05}},
    "resources": {"backend": "serial"},
}
SIX = {"seed": {"grid": [0, 1, 2]}, "training.optimizer.lr": {"choice": [0.05, 0.1]}}


def make_study(tmp_path: Path, space: dict[str, Any], search: dict[str, Any] | None = None, **base: Any) -> Study:
    search = {"algorithm": "optuna", "samples": 50, **(search or {})}
    (tmp_path / "study.yaml").write_text(
        yaml.safe_dump({"base": {**BASE, **base}, "space": space, "search": search}, sort_keys=False)
    )
    return Study(read(tmp_path / "study.yaml"), tmp_path / "results")


def run(trial: Trial, rounds: int) -> float:
    """Run the first rounds of a trial. Return the last test accuracy."""
    trial.start()
    driver = Driver(trial.experiment, trial.folder.path).run()
    for _ in range(rounds):
        next(driver)
    if rounds == trial.experiment.training.rounds:
        list(driver)
    driver.close()
    return float(trial.history()[-1].get("test_accuracy", "nan"))


def suggestions(searcher: Searcher, count: int) -> list[Any]:
    """Return the next configs without the names of the trials."""
    configs = [searcher.suggest(f"trial {number}") for number in range(count)]
    return [config if config == Searcher.FINISHED else _without_name(config) for config in configs]


def _without_name(config: dict[str, Any]) -> dict[str, Any]:
    assert config["trial"]
    return {field: value for field, value in config.items() if field != "trial"}


def test_fixed_searcher_keeps_the_order_and_finishes(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"seed": {"grid": [3, 1, 2]}}, {"algorithm": "grid"})
    configs = [study.tune_config(trial) for trial in study.trials()]
    assert [config["trial"] for config in configs] == [trial.name for trial in study.trials()]
    searcher = FixedSearcher(configs)
    assert searcher.count == 3
    assert suggestions(searcher, 5) == [{"seed": 3}, {"seed": 1}, {"seed": 2}, Searcher.FINISHED, Searcher.FINISHED]


def test_missing_optuna_gives_the_install_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)  # as if it were not installed
    with pytest.raises(SpecError) as caught:
        OptunaSearcher(make_study(tmp_path, SIX))
    assert str(caught.value) == ("search.algorithm is optuna, which is not installed: pip install 'fedray[optuna]'.")


@pytest.fixture
def optuna() -> Any:
    """The package, whose types the tests compare with."""
    return pytest.importorskip("optuna")


@pytest.mark.usefixtures("optuna")
class TestProposals:
    def test_proposals_have_values_of_every_kind_of_axis(self, tmp_path: Path) -> None:
        strategies = [{"name": "fedavg"}, {"name": "fedprox", "mu": 0.1}]
        study = make_study(
            tmp_path,
            {
                "strategy": {"grid": strategies},
                "training.optimizer.lr": {"loguniform": [0.001, 0.1]},
                "training.optimizer.momentum": {"uniform": [0, 0.9]},
                "training.local_epochs": {"randint": [1, 3]},
                "training.batch_size": {"choice": [8, 16]},
                "data.train_limit": {"zip": [60, 60, 80]},
                "data.test_limit": {"zip": [20, 30, 20]},
                "partition.kind": {"grid": ["iid", "dirichlet"]},
                "partition.alpha": {"uniform": [0.1, 1], "when": {"partition.kind": "dirichlet"}},
            },
        )
        proposed = suggestions(OptunaSearcher(study), 40)
        trials = [study.trial(assignment) for assignment in proposed]
        specs = [trial.experiment for trial in trials]
        assert len({trial.name for trial in trials}) == 40
        assert all(assignment["strategy"] in strategies for assignment in proposed)
        assert {spec.strategy.name for spec in specs} == {"fedavg", "fedprox"}
        assert all(0.001 <= spec.training.optimizer.lr <= 0.1 for spec in specs)
        assert (
            min(spec.training.optimizer.lr for spec in specs) < 0.01 < max(spec.training.optimizer.lr for spec in specs)
        )
        assert all(0 <= spec.training.optimizer.momentum <= 0.9 for spec in specs)
        assert len({spec.training.optimizer.momentum for spec in specs}) == 40
        assert {assignment["training.local_epochs"] for assignment in proposed} == {1, 2, 3}
        assert {assignment["training.batch_size"] for assignment in proposed} == {8, 16}
        assert {(spec.data.train_limit, spec.data.test_limit) for spec in specs} == {(60, 20), (60, 30), (80, 20)}
        kinds = {
            spec.partition.kind: ("partition.alpha" in trial.assignment)
            for spec, trial in zip(specs, trials, strict=True)
        }
        assert kinds == {"iid": False, "dirichlet": True}

    def test_searcher_finishes_when_the_space_is_exhausted(self, tmp_path: Path) -> None:
        searcher = OptunaSearcher(make_study(tmp_path, SIX))
        assert searcher.count == 50
        proposed = suggestions(searcher, 8)
        assert sorted((assignment["seed"], assignment["training.optimizer.lr"]) for assignment in proposed[:6]) == [
            (seed, lr) for seed in (0, 1, 2) for lr in (0.05, 0.1)
        ]
        assert proposed[6:] == [Searcher.FINISHED, Searcher.FINISHED]

    def test_inactive_axes_add_no_trial(self, tmp_path: Path) -> None:
        kinds = {"partition.kind": {"grid": ["iid", "dirichlet"]}}
        alphas = {"partition.alpha": {"grid": [0.5, 1], "when": {"partition.kind": "dirichlet"}}}
        study = make_study(tmp_path, {**kinds, **alphas})
        proposed = suggestions(OptunaSearcher(study), 4)
        assert proposed[3] == Searcher.FINISHED
        assert sorted(study.trial(assignment).label for assignment in proposed[:3]) == [
            "partition=dirichlet, alpha=0.5",
            "partition=dirichlet, alpha=1",
            "partition=iid",
        ]

    def test_ended_trials_are_not_proposed(self, tmp_path: Path) -> None:
        study = make_study(tmp_path, SIX, {"scheduler": "asha"})
        finished, stopped, started = (
            study.trial({"seed": seed, "training.optimizer.lr": lr}) for seed, lr in ((2, 0.1), (1, 0.05), (0, 0.1))
        )
        run(finished, 2)
        run(stopped, 1)
        stopped.record_outcome(Outcome("stopped", 1, "asha"))
        run(started, 1)
        proposed = suggestions(OptunaSearcher(make_study(tmp_path, SIX, {"scheduler": "asha"})), 5)
        assert proposed[0] == started.assignment  # started trials come first
        assert sorted((assignment["seed"], assignment["training.optimizer.lr"]) for assignment in proposed[:4]) == [
            (0, 0.05), (0, 0.1), (1, 0.1), (2, 0.05),
        ]  # fmt: skip
        assert proposed[4] == Searcher.FINISHED

    def test_rows_of_zipped_axes_are_told_apart(self, tmp_path: Path) -> None:
        zipped = {"seed": {"zip": [0, 1, 1]}, "training.optimizer.lr": {"zip": [0.05, 0.1, 0.05]}}
        run(make_study(tmp_path, zipped).trial({"seed": 1, "training.optimizer.lr": 0.05}), 1)
        run(make_study(tmp_path, zipped).trial({"seed": 0, "training.optimizer.lr": 0.05}), 2)
        proposed = suggestions(OptunaSearcher(make_study(tmp_path, zipped)), 3)
        assert proposed == [
            {"seed": 1, "training.optimizer.lr": 0.05},
            {"seed": 1, "training.optimizer.lr": 0.1},
            Searcher.FINISHED,
        ]

    def test_changed_space_still_matches_trials_on_disk(self, tmp_path: Path) -> None:
        """The value 1 becomes 1.0, and an axis is added: the trial on disk still belongs to the study."""
        first = make_study(tmp_path, {"training.optimizer.lr": {"grid": [1, 2]}})
        run(first.trial({"training.optimizer.lr": 1}), 1)
        lrs = {"training.optimizer.lr": {"grid": [1.0, 2.0, 3.0]}}
        extended = OptunaSearcher(make_study(tmp_path, {**lrs, "seed": {"grid": [5, 0]}}))
        assert suggestions(extended, 1) == [{"training.optimizer.lr": 1.0, "seed": 0}]
        fewer = OptunaSearcher(make_study(tmp_path, {"training.optimizer.lr": {"grid": [2.0, 3.0]}}))
        assert sorted(assignment["training.optimizer.lr"] for assignment in suggestions(fewer, 2)) == [2.0, 3.0]

    def test_optuna_gets_the_results_of_finished_trials(self, tmp_path: Path, optuna: Any) -> None:
        lrs = {"training.optimizer.lr": {"uniform": [0.01, 0.1]}, "strategy": {"grid": [{"name": "fedavg"}]}}
        study = make_study(tmp_path, lrs)
        assignments = [{"training.optimizer.lr": lr, "strategy": {"name": "fedavg"}} for lr in (0.02, 0.04, 0.08)]
        accuracy = {assignment["training.optimizer.lr"]: run(study.trial(assignment), 2) for assignment in assignments}
        searcher = OptunaSearcher(make_study(tmp_path, lrs, {"samples": 5}))
        optuna_trials = searcher._inner._ot_study.trials
        assert {trial.params["training.optimizer.lr"]: trial.value for trial in optuna_trials} == accuracy
        assert {trial.state for trial in optuna_trials} == {optuna.trial.TrialState.COMPLETE}
        assert searcher.count == 2
        assert searcher._inner._ot_study.direction == optuna.study.StudyDirection.MAXIMIZE

    def test_trial_without_evaluation_counts_as_failed(self, tmp_path: Path, optuna: Any) -> None:
        def current() -> Study:
            return make_study(tmp_path, SIX, {"scheduler": "asha", "metric": "test_loss"}, evaluation={"every": 2})

        stopped = current().trial({"seed": 1, "training.optimizer.lr": 0.1})
        run(stopped, 1)
        stopped.record_outcome(Outcome("stopped", 1, "asha"))
        searcher = OptunaSearcher(current())
        (optuna_trial,) = searcher._inner._ot_study.trials
        assert (optuna_trial.state, optuna_trial.value) == (optuna.trial.TrialState.FAIL, None)
        assert stopped.assignment not in suggestions(searcher, 5)
        assert searcher._inner._ot_study.direction == optuna.study.StudyDirection.MINIMIZE

    @pytest.mark.parametrize(("samples", "pending"), [(6, 5), (3, 2), (1, 2)])
    def test_count_includes_started_trials(self, tmp_path: Path, samples: int, pending: int) -> None:
        """One trial is finished; the two started ones are finished whatever the number of samples."""
        study = make_study(tmp_path, SIX)
        for number, rounds in enumerate((2, 1, 1)):
            run(study.trial({"seed": number, "training.optimizer.lr": 0.1}), rounds)
        assert OptunaSearcher(make_study(tmp_path, SIX, {"samples": samples})).count == pending

    def test_proposals_depend_on_the_seed_and_finished_trials_only(self, tmp_path: Path) -> None:
        lrs = {"training.optimizer.lr": {"uniform": [0.01, 0.1]}}
        first = suggestions(OptunaSearcher(make_study(tmp_path, lrs)), 3)
        assert suggestions(OptunaSearcher(make_study(tmp_path, lrs)), 3) == first
        assert suggestions(OptunaSearcher(make_study(tmp_path, lrs, seed=1)), 3) != first
        run(make_study(tmp_path, lrs).trial(first[0]), 2)
        (second,) = suggestions(OptunaSearcher(make_study(tmp_path, lrs)), 1)
        assert second not in first

    def test_optuna_gets_results_as_trials_end(self, tmp_path: Path) -> None:
        searcher = OptunaSearcher(make_study(tmp_path, SIX))
        suggestions(searcher, 2)
        for _ in range(2):  # a retried trial reports its rounds again
            searcher.on_trial_result("trial 0", {"test_accuracy": 0.25, "training_iteration": 1})
        searcher.on_trial_complete("trial 0", {"test_accuracy": 0.75, "training_iteration": 2})
        searcher.on_trial_complete("trial 1", error=True)
        results = [(trial.state.name, trial.value) for trial in searcher._inner._ot_study.trials]
        assert results == [("COMPLETE", 0.75), ("FAIL", None)]
