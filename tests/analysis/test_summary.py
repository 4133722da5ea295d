from pathlib import Path

import pandas as pd
import pytest

from analysis.summary import faults, over_seeds, summary
from fedray.config.experiment import Experiment
from fedray.config.yaml_files import to_yaml
from fedray.errors import SpecError
from fedray.results.loader import load_results
from fedray.results.writer import FAULTS_COLUMNS, ROUNDS_COLUMNS


def write(folder: Path, lam: float | None, accuracy: list[float | None], seed: int = 0) -> None:
    strategy = {"name": "fedavg"} if lam is None else {"name": "fedlpfm", "lam": lam}
    teacher = {"kind": "precomputed", "file": "x"}
    spec = Experiment.model_validate({"seed": seed, "strategy": strategy, "teacher": teacher})
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(to_yaml(spec))
    frame = pd.DataFrame({"round": range(1, len(accuracy) + 1), "test_accuracy": accuracy, "seconds": [9.0, 1.0, 2.0]})
    frame.assign(worst_class_accuracy=0.1, rare_class_accuracy=0.2).reindex(columns=ROUNDS_COLUMNS).to_csv(
        folder / "rounds.csv", index=False
    )


def test_summary_by_hand(tmp_path: Path) -> None:
    write(tmp_path / "a", None, [0.1, 0.3, 0.5])
    write(tmp_path / "b", 0.5, [0.2, 0.8, None])  # evaluated every other round
    write(tmp_path / "c", 0.7, [0.2, 0.8, 0.4])
    table = summary(load_results(tmp_path))
    assert table["strategy"].tolist() == ["fedavg", "fedlpfm", "fedlpfm"]
    assert table["lam"].tolist()[1:] == [0.5, 0.7]
    assert "temperature" not in table
    assert table["round"].tolist() == [3, 2, 3]
    assert table["test_accuracy"].tolist() == [0.5, 0.8, 0.4]
    assert table["difference"].tolist() == pytest.approx([0.0, 0.3, -0.1])
    assert table["last_k_accuracy"].tolist() == [0.5, 0.8, 0.4]
    assert table["round_seconds"].tolist() == [2.0, 2.0, 2.0]


def test_tables_without_a_row_are_one_sentence(tmp_path: Path) -> None:
    """A run in its first round, and a table that was cut after its header."""
    write(tmp_path / "a", None, [0.1, 0.3, 0.5])
    table = tmp_path / "a" / "rounds.csv"
    table.write_text(table.read_text().splitlines(keepends=True)[0])
    for of in (summary, over_seeds):
        with pytest.raises(SpecError, match="no run has an evaluated round yet"):
            of(load_results(tmp_path))


def test_summary_has_the_given_order(tmp_path: Path) -> None:
    write(tmp_path / "a", None, [0.1, 0.3, 0.5])
    write(tmp_path / "b", 0.5, [0.2, 0.8, 0.6])
    table = summary(load_results(tmp_path), ["b", "a"])
    assert table["strategy"].tolist() == ["fedlpfm", "fedavg"]
    assert table["difference"].tolist() == pytest.approx([0.0, -0.1])
    assert len(summary(load_results(tmp_path), ["b"])) == 1


def test_summary_of_a_single_run(tmp_path: Path) -> None:
    write(tmp_path / "a", None, [0.1, 0.3, 0.5])
    table = summary(load_results(tmp_path / "a"))
    assert len(table) == 1
    assert "difference" not in table


def test_over_seeds_by_hand(tmp_path: Path) -> None:
    write(tmp_path / "a", None, [0.1, 0.3, 0.5])
    write(tmp_path / "b", 0.5, [0.2, 0.8, 0.6], seed=0)
    write(tmp_path / "c", 0.5, [0.2, 0.4, 0.2], seed=1)
    table = over_seeds(load_results(tmp_path)).set_index("strategy")
    assert table["seeds"].to_dict() == {"fedavg": 1, "fedlpfm": 2}
    assert table.loc["fedlpfm", "test_accuracy"] == pytest.approx(0.4)
    assert table.loc["fedlpfm", "test_accuracy_std"] == pytest.approx(0.08**0.5)  # of 0.6 and 0.2
    assert table.loc["fedlpfm", "last_k_accuracy"] == pytest.approx(0.4)
    assert pd.isna(table.loc["fedavg", "test_accuracy_std"])


def test_over_seeds_of_one_setting(tmp_path: Path) -> None:
    write(tmp_path / "a", 0.5, [0.1, 0.3, 0.5], seed=0)
    write(tmp_path / "b", 0.5, [0.1, 0.3, 0.7], seed=1)
    (row,) = over_seeds(load_results(tmp_path)).itertuples(index=False)
    assert (row.seeds, row.round, row.test_accuracy) == (2, 3, pytest.approx(0.6))


def test_over_seeds_distinguishes_null_from_a_value(tmp_path: Path) -> None:
    for name, limit, accuracy in (("a", None, 0.6), ("b", 100, 0.2)):
        write(tmp_path / name, 0.5, [0.1, 0.1, accuracy])
        spec = (tmp_path / name / "spec.yaml").read_text()
        changed = spec.replace("train_limit: null", f"train_limit: {'null' if limit is None else limit}")
        (tmp_path / name / "spec.yaml").write_text(changed)
    table = over_seeds(load_results(tmp_path))
    assert table["seeds"].tolist() == [1, 1]
    assert dict(zip(table["train_limit"].fillna(0), table["test_accuracy"], strict=True)) == {100: 0.2, 0: 0.6}


def test_over_seeds_uses_the_last_common_round(tmp_path: Path) -> None:
    write(tmp_path / "a", 0.5, [0.2, 0.4, 0.9], seed=0)
    write(tmp_path / "b", 0.5, [0.4, 0.6, None], seed=1)
    results = load_results(tmp_path)
    (row,) = over_seeds(results).to_dict("records")
    assert (row["round"], row["seeds"]) == (2, 2)
    assert row["test_accuracy"] == pytest.approx(0.5)
    assert (row["last_k_accuracy"], row["k"]) == (pytest.approx(0.5), 1)
    assert results.unfinished == ("a", "b")  # 3 rounds of 10


def test_faults_are_counted_by_kind(tmp_path: Path) -> None:
    for name, kinds in (("a", ["node lost", "worker lost", "worker lost"]), ("b", [])):
        write(tmp_path / name, 0.5, [0.1, 0.2, 0.3])
        rows = [{"round": 1, "fault": kind} for kind in kinds]
        pd.DataFrame(rows, columns=list(FAULTS_COLUMNS)).to_csv(tmp_path / name / "faults.csv", index=False)
    results = load_results(tmp_path)
    assert faults(results, ["a", "b"]) == "recovered faults: 3 (worker lost 2, node lost 1)"
    assert faults(results, ["b"]) == ""


def test_faults_without_a_file_are_empty(tmp_path: Path) -> None:
    write(tmp_path / "a", 0.5, [0.1, 0.2, 0.3])
    assert faults(load_results(tmp_path), ["a"]) == ""
