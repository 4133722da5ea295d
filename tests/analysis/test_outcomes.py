import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.studies import write_run, write_study

from analysis.labels import name_runs
from analysis.outcomes import comparable, outcomes, rounds_to, spent
from analysis.records import load

LPFM = {"name": "fedlpfm", "lam": 0.5}


def study(tmp_path: Path, runs: Mapping[str, Mapping[str, Any]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write a study and returns its labelled runs and their rounds."""
    for name, spec in runs.items():
        write_run(tmp_path / "s" / name, **spec)
    records = load(tmp_path / "s")
    return name_runs(records.runs), records.rounds


def outcome(tmp_path: Path, last: int | None = None, **spec: Any) -> pd.Series:
    runs, rounds, _ = comparable(*study(tmp_path, {"a": spec}))
    return outcomes(runs, rounds, last).loc["a"]


def test_outcomes_by_hand(tmp_path: Path) -> None:
    """Rounds 2 and 5 are not evaluated; the last two evaluated rounds are 4 and 6."""
    curve = [0.1, None, 0.5, 0.4, None, 0.2]
    per_round = {
        "update_norm": [1, 9, 1, 2, 9, 4],
        "update_drift": [1, 9, 1, 3, 9, 6],
        "update_cosine": [0.9, 0, 0.9, 0.5, 0, 0.3],
    }
    row = outcome(tmp_path, last=2, accuracy=curve, per_round=per_round)
    assert (row["rounds_done"], row["first"], row["final"], row["best"]) == (6, 0.1, 0.2, 0.5)
    assert row["last"] == pytest.approx(0.3)
    assert row["swing"] == pytest.approx(0.02**0.5)  # of 0.4 and 0.2
    assert row["worst_class"] == pytest.approx(0.15)  # half of the accuracy
    assert row["rare_classes"] == pytest.approx(0.225)  # three quarters
    assert row["cosine"] == pytest.approx(0.4)
    assert row["drift"] == pytest.approx(4.5 / 3)
    assert math.isnan(row["gain"])  # a third of four rounds is one round


def test_gain_compares_the_last_two_thirds(tmp_path: Path) -> None:
    curve = [0.0, 0.9, 0.9, 0.3, 0.5, 0.6, 0.8]  # seven rounds: thirds of two rounds
    assert outcome(tmp_path, accuracy=curve)["gain"] == pytest.approx((0.6 + 0.8) / 2 - (0.3 + 0.5) / 2)


def test_outcomes_of_one_round(tmp_path: Path) -> None:
    row = outcome(tmp_path, accuracy=[0.25])
    assert (row["final"], row["best"], row["last"]) == (0.25, 0.25, 0.25)
    assert math.isnan(row["swing"])


def test_last_k_is_a_fifth_of_the_rounds(tmp_path: Path) -> None:
    assert outcome(tmp_path, accuracy=[0.9, *[0.5] * 9, 0.7])["last"] == pytest.approx(0.6)


def test_spent_sums_all_rounds(tmp_path: Path) -> None:
    per_round = {"seconds": [1, 2, 4], "bytes_down": [10, 20, 30], "bytes_up": [1, 2, 3], "failed_clients": [0, 1, 2]}
    runs = {
        "a": {"accuracy": [0.1, None, 0.3], "per_round": per_round, "strategy": LPFM},
        "b": {"accuracy": [0.1, None, 0.3]},
        "c": {"accuracy": []},
    }
    table = spent(study(tmp_path, runs)[1])
    assert table.loc["a"].to_dict() == {
        "seconds": 7, "bytes": 66, "teacher_flops": 9_000_000, "teacher_outputs_used": 900, "failed_clients": 3,
    }  # fmt: skip
    assert table.at["b", "teacher_outputs_used"] == 0
    assert "c" not in table.index


def test_rounds_to_is_the_first_round_at_the_target(tmp_path: Path) -> None:
    runs, rounds, _ = comparable(*study(tmp_path, {
        "a": {"accuracy": [0.1, None, 0.5, 0.4, 0.6]}, "b": {"accuracy": [0.4, 0.3, 0.3, 0.3, 0.3], "seed": 1},
        "c": {"accuracy": [0.1, 0.1, 0.1, 0.1, 0.1], "seed": 2}, "d": {"accuracy": [0.9] * 5, "seed": 3},
    }))  # fmt: skip
    assert len(runs) == 4
    targets = pd.Series({"a": 0.45, "b": 0.4, "c": 0.2, "d": math.nan})
    reached = rounds_to(rounds, targets)
    assert reached.to_dict() == pytest.approx({"a": 3, "b": 1, "c": math.nan, "d": math.nan}, nan_ok=True)


def curves(rounds: pd.DataFrame) -> dict[str, list[float]]:
    return {str(run): own["test_accuracy"].tolist() for run, own in rounds.groupby("run", observed=True)}


def test_comparable_takes_finished_runs(tmp_path: Path) -> None:
    runs, rounds, notes = comparable(*study(tmp_path, {
        "a": {"accuracy": [0.1, None, 0.3]},
        "b": {"accuracy": [0.1, 0.2, 0.3], "seed": 1},
        "c": {"accuracy": [0.1, 0.2], "seed": 2, "training": {"rounds": 3}},
    }))  # fmt: skip
    assert runs.index.tolist() == ["a", "b"]
    assert curves(rounds) == {"a": [0.1, 0.3], "b": [0.1, 0.2, 0.3]}
    assert rounds["run"].cat.categories.tolist() == ["a", "b"]
    assert notes == "1 of 3 runs has not reached the last round and is left out."


def test_comparable_takes_finished_runs_of_different_lengths(tmp_path: Path) -> None:
    runs, _, notes = comparable(*study(tmp_path, {"a": {"accuracy": [0.1]}, "b": {"accuracy": [0.1, 0.2, 0.3]}}))
    assert runs.index.tolist() == ["a", "b"]
    assert notes == ""


def test_comparable_cuts_unfinished_runs_at_a_common_round(tmp_path: Path) -> None:
    unfinished = {"training": {"rounds": 9}}
    runs, rounds, notes = comparable(*study(tmp_path, {
        "a": {"accuracy": [0.1, 0.2, 0.3, 0.4]} | unfinished,
        "b": {"accuracy": [0.5, None, 0.6, None], "seed": 1} | unfinished,
        "c": {"accuracy": [], "seed": 2} | unfinished,
    }))  # fmt: skip
    assert runs.index.tolist() == ["a", "b"]
    assert curves(rounds) == {"a": [0.1, 0.2, 0.3], "b": [0.5, 0.6]}
    assert notes == "No run has reached its last round yet: 2 started runs are compared at round 3."


@pytest.mark.parametrize("accuracy", [[], [None, None]])
def test_comparable_without_evaluated_rounds_is_empty(tmp_path: Path, accuracy: Sequence[float | None]) -> None:
    runs, rounds, notes = comparable(*study(tmp_path, {"a": {"accuracy": accuracy, "training": {"rounds": 9}}}))
    assert notes == "No run has evaluated a round yet."
    assert rounds.empty
    table = outcomes(runs, rounds)
    assert table.empty
    assert {"final", "last", "gain", "setting"} <= {*table.columns}


def test_comparable_drops_repeated_runs(tmp_path: Path) -> None:
    """Of a baseline in two studies, the run with more rounds is used."""

    def accuracy(strategy: Mapping[str, Any], _: float, seed: int) -> list[float]:
        return [0.2] * (1 if seed == 1 and strategy["name"] == "fedavg" else 3)

    shared: dict[str, Any] = {"alphas": [0.1], "seeds": [0, 1], "training": {"rounds": 3}}
    write_study(tmp_path / "s", [{"name": "fedavg"}], **shared)
    write_study(tmp_path / "t", [{"name": "fedavg"}, LPFM], accuracy=accuracy, **shared)
    records = load(tmp_path / "s", tmp_path / "t")
    runs, _, notes = comparable(name_runs(records.runs), records.rounds)
    assert runs.index.tolist() == [
        "s/name=fedavg,alpha=0.1,seed=0", "s/name=fedavg,alpha=0.1,seed=1",
        "t/name=fedlpfm,lam=0.5,alpha=0.1,seed=0", "t/name=fedlpfm,lam=0.5,alpha=0.1,seed=1",
    ]  # fmt: skip
    assert notes == (
        "2 of 6 runs repeat the setting, condition and seed of another run "
        "(left out: t/name=fedavg,alpha=0.1,seed=0, t/name=fedavg,alpha=0.1,seed=1)."
    )


def test_comparable_describes_repeated_and_unfinished_runs(tmp_path: Path) -> None:
    unfinished = {"training": {"rounds": 3}, "accuracy": [0.1]}
    _, _, notes = comparable(
        *study(tmp_path, {"a": {}, "b": {}, "c": unfinished | {"seed": 1}, "d": unfinished | {"seed": 2}})
    )
    assert notes == (
        "1 of 4 runs repeats the setting, condition and seed of another run (left out: b). "
        "2 of 3 runs have not reached the last round and are left out."
    )
