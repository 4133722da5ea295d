"""Which trial comes next, asked as Tune asks."""

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
    "training": {"rounds": 2, "batch_size": 16, "lr": 0.05},
    "resources": {"backend": "serial"},
}
SIX = {"seed": {"grid": [0, 1, 2]}, "training.lr": {"choice": [0.05, 0.1]}}


def study(tmp_path: Path, space: dict[str, Any], search: dict[str, Any] | None = None, **base: Any) -> Study:
    search = {"algorithm": "optuna", "samples": 50, **(search or {})}
    (tmp_path / "study.yaml").write_text(
        yaml.safe_dump({"base": {**BASE, **base}, "space": space, "search": search}, sort_keys=False)
    )
    return Study(read(tmp_path / "study.yaml"), tmp_path / "results")


def run(trial: Trial, rounds: int) -> float:
    """So many rounds; the accuracy after them."""
    trial.start()
    driven = Driver(trial.experiment, trial.folder.path).run()
    for _ in range(rounds):
        next(driven)
    if rounds == trial.experiment.training.rounds:
        list(driven)
    driven.close()
    return float(trial.history()[-1].get("test_accuracy", "nan"))


def suggestions(searcher: Searcher, count: int) -> list[Any]:
    """Without the name by which Tune is told of each trial."""
    configs = [searcher.suggest(f"trial {number}") for number in range(count)]
    return [config if config == Searcher.FINISHED else _without_name(config) for config in configs]


def _without_name(config: dict[str, Any]) -> dict[str, Any]:
    assert config["trial"]
    return {field: value for field, value in config.items() if field != "trial"}


def test_a_list_comes_in_its_order_and_ends(tmp_path: Path) -> None:
    found = study(tmp_path, {"seed": {"grid": [3, 1, 2]}}, {"algorithm": "grid"})
    configs = [found.tune_config(trial) for trial in found.trials()]
    assert [config["trial"] for config in configs] == [trial.name for trial in found.trials()]
    searcher = FixedSearcher(configs)
    assert searcher.count == 3
    assert suggestions(searcher, 5) == [{"seed": 3}, {"seed": 1}, {"seed": 2}, Searcher.FINISHED, Searcher.FINISHED]


def test_without_optuna_the_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)  # as if it were not there
    with pytest.raises(SpecError) as caught:
        OptunaSearcher(study(tmp_path, SIX))
    assert str(caught.value) == ("search.algorithm is optuna, which is not installed: pip install 'fedray[optuna]'.")


@pytest.fixture
def optuna() -> Any:
    """What these tests look at when they look into the searcher."""
    return pytest.importorskip("optuna")


@pytest.mark.usefixtures("optuna")
class TestProposals:
    def test_axes_of_every_kind(self, tmp_path: Path) -> None:
        strategies = [{"name": "fedavg"}, {"name": "fedprox", "mu": 0.1}]
        found = study(
            tmp_path,
            {
                "strategy": {"grid": strategies},
                "training.lr": {"loguniform": [0.001, 0.1]},
                "training.momentum": {"uniform": [0, 0.9]},
                "training.local_epochs": {"randint": [1, 3]},
                "training.batch_size": {"choice": [8, 16]},
                "data.train_limit": {"zip": [60, 60, 80]},
                "data.test_limit": {"zip": [20, 30, 20]},
                "partition.kind": {"grid": ["iid", "dirichlet"]},
                "partition.alpha": {"uniform": [0.1, 1], "when": {"partition.kind": "dirichlet"}},
            },
        )
        proposed = suggestions(OptunaSearcher(found), 40)
        trials = [found.trial(choice) for choice in proposed]
        specs = [trial.experiment for trial in trials]
        assert len({trial.name for trial in trials}) == 40
        assert all(choice["strategy"] in strategies for choice in proposed)
        assert {spec.strategy.name for spec in specs} == {"fedavg", "fedprox"}
        assert all(0.001 <= spec.training.lr <= 0.1 for spec in specs)
        assert min(spec.training.lr for spec in specs) < 0.01 < max(spec.training.lr for spec in specs)
        assert all(0 <= spec.training.momentum <= 0.9 for spec in specs)
        assert len({spec.training.momentum for spec in specs}) == 40
        assert {choice["training.local_epochs"] for choice in proposed} == {1, 2, 3}
        assert {choice["training.batch_size"] for choice in proposed} == {8, 16}
        assert {(spec.data.train_limit, spec.data.test_limit) for spec in specs} == {(60, 20), (60, 30), (80, 20)}
        kinds = {
            spec.partition.kind: ("partition.alpha" in trial.assignment)
            for spec, trial in zip(specs, trials, strict=True)
        }
        assert kinds == {"iid": False, "dirichlet": True}

    def test_it_ends_when_a_small_space_is_exhausted(self, tmp_path: Path) -> None:
        searcher = OptunaSearcher(study(tmp_path, SIX))
        assert searcher.count == 50
        found = suggestions(searcher, 8)
        assert sorted((choice["seed"], choice["training.lr"]) for choice in found[:6]) == [
            (seed, lr) for seed in (0, 1, 2) for lr in (0.05, 0.1)
        ]
        assert found[6:] == [Searcher.FINISHED, Searcher.FINISHED]

    def test_axes_that_do_not_apply_make_no_new_trial(self, tmp_path: Path) -> None:
        kinds = {"partition.kind": {"grid": ["iid", "dirichlet"]}}
        alphas = {"partition.alpha": {"grid": [0.5, 1], "when": {"partition.kind": "dirichlet"}}}
        found = study(tmp_path, {**kinds, **alphas})
        proposed = suggestions(OptunaSearcher(found), 4)
        assert proposed[3] == Searcher.FINISHED
        assert sorted(found.trial(choice).label for choice in proposed[:3]) == [
            "partition=dirichlet, alpha=0.5",
            "partition=dirichlet, alpha=1",
            "partition=iid",
        ]

    def test_nothing_that_is_on_disk(self, tmp_path: Path) -> None:
        found = study(tmp_path, SIX, {"scheduler": "asha"})
        finished, stopped, begun = (
            found.trial({"seed": seed, "training.lr": lr}) for seed, lr in ((2, 0.1), (1, 0.05), (0, 0.1))
        )
        run(finished, 2)
        run(stopped, 1)
        stopped.record_outcome(Outcome("stopped", 1, "asha"))
        run(begun, 1)
        proposed = suggestions(OptunaSearcher(study(tmp_path, SIX, {"scheduler": "asha"})), 5)
        assert proposed[0] == begun.assignment  # what was begun comes first
        assert sorted((choice["seed"], choice["training.lr"]) for choice in proposed[:4]) == [
            (0, 0.05), (0, 0.1), (1, 0.1), (2, 0.05),
        ]  # fmt: skip
        assert proposed[4] == Searcher.FINISHED

    def test_begun_and_finished_rows_of_zipped_axes_are_told_apart(self, tmp_path: Path) -> None:
        zipped = {"seed": {"zip": [0, 1, 1]}, "training.lr": {"zip": [0.05, 0.1, 0.05]}}
        run(study(tmp_path, zipped).trial({"seed": 1, "training.lr": 0.05}), 1)
        run(study(tmp_path, zipped).trial({"seed": 0, "training.lr": 0.05}), 2)
        proposed = suggestions(OptunaSearcher(study(tmp_path, zipped)), 3)
        assert proposed == [{"seed": 1, "training.lr": 0.05}, {"seed": 1, "training.lr": 0.1}, Searcher.FINISHED]

    def test_a_space_that_was_written_otherwise_since(self, tmp_path: Path) -> None:
        """1 is now 1.0, an axis is new: what is on disk is still what it is."""
        first = study(tmp_path, {"training.lr": {"grid": [1, 2]}})
        run(first.trial({"training.lr": 1}), 1)
        lrs = {"training.lr": {"grid": [1.0, 2.0, 3.0]}}
        now = OptunaSearcher(study(tmp_path, {**lrs, "seed": {"grid": [5, 0]}}))
        assert suggestions(now, 1) == [{"training.lr": 1.0, "seed": 0}]
        fewer = OptunaSearcher(study(tmp_path, {"training.lr": {"grid": [2.0, 3.0]}}))
        assert sorted(choice["training.lr"] for choice in suggestions(fewer, 2)) == [2.0, 3.0]

    def test_it_is_told_what_came_of_finished_trials(self, tmp_path: Path, optuna: Any) -> None:
        lrs = {"training.lr": {"uniform": [0.01, 0.1]}, "strategy": {"grid": [{"name": "fedavg"}]}}
        found = study(tmp_path, lrs)
        choices = [{"training.lr": lr, "strategy": {"name": "fedavg"}} for lr in (0.02, 0.04, 0.08)]
        accuracy = {choice["training.lr"]: run(found.trial(choice), 2) for choice in choices}
        searcher = OptunaSearcher(study(tmp_path, lrs, {"samples": 5}))
        told = searcher._inner._ot_study.trials
        assert {trial.params["training.lr"]: trial.value for trial in told} == accuracy
        assert {trial.state for trial in told} == {optuna.trial.TrialState.COMPLETE}
        assert searcher.count == 2
        assert searcher._inner._ot_study.direction == optuna.study.StudyDirection.MAXIMIZE

    def test_a_trial_that_was_never_evaluated_has_nothing_to_tell(self, tmp_path: Path, optuna: Any) -> None:
        def now() -> Study:
            return study(tmp_path, SIX, {"scheduler": "asha", "metric": "test_loss"}, evaluation={"every": 2})

        stopped = now().trial({"seed": 1, "training.lr": 0.1})
        run(stopped, 1)
        stopped.record_outcome(Outcome("stopped", 1, "asha"))
        searcher = OptunaSearcher(now())
        (told,) = searcher._inner._ot_study.trials
        assert (told.state, told.value) == (optuna.trial.TrialState.FAIL, None)
        assert stopped.assignment not in suggestions(searcher, 5)
        assert searcher._inner._ot_study.direction == optuna.study.StudyDirection.MINIMIZE

    @pytest.mark.parametrize(("samples", "left"), [(6, 5), (3, 2), (1, 2)])
    def test_how_many_are_left(self, tmp_path: Path, samples: int, left: int) -> None:
        """One is finished, and two are begun, which are to be finished in any case."""
        found = study(tmp_path, SIX)
        for number, rounds in enumerate((2, 1, 1)):
            run(found.trial({"seed": number, "training.lr": 0.1}), rounds)
        assert OptunaSearcher(study(tmp_path, SIX, {"samples": samples})).count == left

    def test_the_same_study_is_searched_in_the_same_way_and_goes_on_in_another(self, tmp_path: Path) -> None:
        lrs = {"training.lr": {"uniform": [0.01, 0.1]}}
        first = suggestions(OptunaSearcher(study(tmp_path, lrs)), 3)
        assert suggestions(OptunaSearcher(study(tmp_path, lrs)), 3) == first
        assert suggestions(OptunaSearcher(study(tmp_path, lrs, seed=1)), 3) != first
        run(study(tmp_path, lrs).trial(first[0]), 2)
        (second,) = suggestions(OptunaSearcher(study(tmp_path, lrs)), 1)
        assert second not in first

    def test_it_is_told_what_comes_of_trials_as_they_end(self, tmp_path: Path) -> None:
        searcher = OptunaSearcher(study(tmp_path, SIX))
        suggestions(searcher, 2)
        for _ in range(2):  # a trial that is tried again reports its rounds again
            searcher.on_trial_result("trial 0", {"test_accuracy": 0.25, "training_iteration": 1})
        searcher.on_trial_complete("trial 0", {"test_accuracy": 0.75, "training_iteration": 2})
        searcher.on_trial_complete("trial 1", error=True)
        done = [(trial.state.name, trial.value) for trial in searcher._inner._ot_study.trials]
        assert done == [("COMPLETE", 0.75), ("FAIL", None)]
