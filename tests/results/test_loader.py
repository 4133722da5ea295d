import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.studies import write_run, write_table

import fedray
from analysis.summary import CLIENT_METRICS, over_seeds
from fedray.config.experiment import Experiment
from fedray.config.loader import load
from fedray.errors import SpecError
from fedray.results.loader import last_k, last_k_accuracy, load_results, read_rows, read_table
from fedray.results.run_folder import RunFolder
from fedray.results.specs import read_spec
from fedray.results.writer import ACCURACIES_COLUMNS
from fedray.study.session import rounds as run

Make = Callable[..., Experiment]


def test_saved_spec_repeats_the_run(small: Make, tmp_path: Path) -> None:
    experiment = small(strategy={"name": "fedlpfm", "lam": 0.3})
    list(run(experiment, tmp_path / "first"))
    (saved,) = load(tmp_path / "first" / "spec.yaml")
    assert saved.experiment == experiment
    list(run(saved.experiment, tmp_path / "second"))
    assert (tmp_path / "first" / "model.safetensors").read_bytes() == (
        tmp_path / "second" / "model.safetensors"
    ).read_bytes()


def test_finished_run_is_not_changed(small: Make, tmp_path: Path) -> None:
    list(run(small(), tmp_path / "run"))
    before = (tmp_path / "run" / "rounds.csv").stat().st_mtime_ns
    assert list(run(small(), tmp_path / "run")) == []
    assert (tmp_path / "run" / "rounds.csv").stat().st_mtime_ns == before


def test_unfinished_run_is_continued_unless_that_is_refused(small: Make, tmp_path: Path) -> None:
    rounds = run(small(), tmp_path / "run")
    next(rounds)
    rounds.close()
    with pytest.raises(SpecError, match="unfinished run of this spec; leave out --no-resume"):
        list(run(small(), tmp_path / "run", resume=False))
    assert [result.round for result in run(small(), tmp_path / "run")] == [2, 3]


def test_a_run_continues_with_other_resources_but_no_other_spec(small: Make, tmp_path: Path) -> None:
    next(run(small(), tmp_path / "run"))
    folder = RunFolder(tmp_path / "run")
    folder.check(small(resources={"clients_per_actor": 2}, checkpoint={"every": 3}))
    with pytest.raises(SpecError, match=r"another spec \(training.optimizer.lr is 0.05 there and 0.01 here\)"):
        folder.check(small(training={"optimizer": {"lr": 0.01}}))
    others = {"optimizer": {"lr": 0.01, "momentum": 0.1}, "batch_size": 7, "clip_norm": 5}
    with pytest.raises(SpecError, match=r"and 7 here, .* 1 more\)"):
        folder.check(small(training=others))


def test_load_results_has_typed_columns_of_varied_fields(small: Make, tmp_path: Path) -> None:
    weights = {"a": 0.0, "b": 0.25}
    for name, strategy in {name: {"name": "fedlpfm", "lam": lam} for name, lam in weights.items()}.items():
        list(run(small(strategy=strategy, seed=4, training={"rounds": 2}), tmp_path / "study" / name))
    results = fedray.load_results(tmp_path / "study")
    assert results.varied["strategy.lam"].to_dict() == weights
    assert results.varied.columns.tolist() == ["strategy.lam"]
    rounds = results.rounds
    assert rounds["run"].tolist() == ["a", "a", "b", "b"]
    assert rounds["strategy.lam"].dtype == float
    assert rounds["strategy.lam"].tolist() == [0, 0, 0.25, 0.25]
    assert len(results.clients) == 2 * 2 * 4
    assert len(results.classes) == 2 * 2 * 10
    assert results.partition["examples"].sum() == 2 * 160
    assert results.clients.query("run == 'b'")["loss_kd"].notna().all()


def test_load_results_of_one_run_has_no_varied_fields(small: Make, tmp_path: Path) -> None:
    list(run(small(), tmp_path / "run"))
    results = load_results(tmp_path / "run")
    assert results.rounds["run"].unique().tolist() == ["."]
    assert results.varied.empty


def test_load_results_without_runs_raises(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="holds no results"):
        load_results(tmp_path)


def table_of(tmp_path: Path, content: str | bytes, **options: Any) -> tuple[pd.DataFrame | None, list[str]]:
    """Return a table `rounds.csv` with this content, and the problems that reading it reports, without the path."""
    path, problems = tmp_path / "rounds.csv", list[str]()
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    table = read_table(path, problems, **options)
    return table, [problem.replace(f"'{path}'", "the file") for problem in problems]


def test_read_table_has_typed_columns(tmp_path: Path) -> None:
    table, problems = table_of(tmp_path, 'round,test_accuracy,retried\n1,,"a, b"\n2,nan,\n3,0.5,c\n')
    assert table is not None
    assert table["round"].tolist() == [1, 2, 3]
    assert table["round"].dtype == "int64"
    assert table["test_accuracy"].isna().tolist() == [True, True, False]
    assert table["retried"].tolist() == ["a, b", "", "c"]
    assert problems == []


@pytest.mark.parametrize(
    ("row", "example"),
    [
        ("2,half", "test_accuracy is half"),
        ("2,1.7", "test_accuracy is 1.7"),
        ("2,-0.1", "test_accuracy is -0.1"),
        ("2,inf", "test_accuracy is inf"),
        ("1.5,0.5", "round is 1.5"),
        ("-1,0.5", "round is -1"),
        (",0.5", "round is nan"),
        ("inf,0.5", "round is inf"),
    ],
)
def test_read_table_leaves_invalid_rows_out(tmp_path: Path, row: str, example: str) -> None:
    table, problems = table_of(tmp_path, f"round,test_accuracy\n1,0.25\n{row}\n3,0.5\n")
    assert table is not None
    assert table.to_numpy().tolist() == [[1, 0.25], [3, 0.5]]
    assert table["round"].dtype == "int64"
    assert problems == [f"the file has invalid values ({example}); 1 of 3 rows are left out."]


def test_read_table_leaves_an_incomplete_last_line_out(tmp_path: Path) -> None:
    for end in (b"3,0.", b"\0" * 3000):
        table, problems = table_of(tmp_path, b"round,test_accuracy\n1,0.25\n" + end)
        assert table is not None
        assert table.to_numpy().tolist() == [[1, 0.25]]
        assert problems == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "the file is damaged (No columns to parse from file)."),
        ("round,test_accuracy\n1,0.5\n2,0.5,0.5\n", "the file is damaged (Error tokenizing data. C error: Expected 2"),
        ("test_accuracy\n0.5\n", "the file has no column round."),
        (b"\xff,\xfe\n1,2\n", "the file has no column round, test_accuracy."),
    ],
)
def test_read_table_of_a_damaged_file_is_none(tmp_path: Path, content: str | bytes, problem: str) -> None:
    table, (message,) = table_of(tmp_path, content, columns=("round", "test_accuracy"))
    assert table is None
    assert message.startswith(problem)


def test_read_table_without_a_file(tmp_path: Path) -> None:
    problems: list[str] = []
    assert read_table(tmp_path / "none.csv", problems) is None
    assert problems == [f"'{tmp_path / 'none.csv'}' cannot be read (No such file or directory)."]


def test_read_table_fills_missing_columns(tmp_path: Path) -> None:
    table, problems = table_of(tmp_path, "round\n1\n", columns=("round", "test_accuracy", "retried"))
    assert table is not None
    assert table["test_accuracy"].isna().all()
    assert table["retried"].tolist() == [""]
    assert problems == ["the file has no column test_accuracy, retried."]


def test_read_table_of_one_round(tmp_path: Path) -> None:
    content = "round,client\n" + "".join(f"{number},{client}\n" for number in (1, 2, 11, 12) for client in (0, 1))
    for number in (1, 2, 11, 12):
        table, _ = table_of(tmp_path, content, number=number)
        assert table is not None
        assert table.to_numpy().tolist() == [[number, 0], [number, 1]]
    table, problems = table_of(tmp_path, content, number=3)
    assert table is not None
    assert table.empty
    assert problems == []


def test_read_rows_has_numbers_without_empty_cells(tmp_path: Path) -> None:
    path = tmp_path / "rounds.csv"
    path.write_text("round,test_accuracy,retried\n1,,7\n2,0.5,\n3,0.")
    assert read_rows(path) == [{"round": 1, "retried": "7"}, {"round": 2, "test_accuracy": 0.5}]
    assert read_rows(tmp_path / "none.csv") == []


def test_last_k_is_a_fifth_from_1_to_10() -> None:
    assert [last_k(rounds) for rounds in (0, 1, 9, 10, 49, 50, 1000)] == [1, 1, 1, 2, 9, 10, 10]
    assert last_k_accuracy([0.1] * 8 + [0.2, 0.4]) == pytest.approx(0.3)
    assert math.isnan(last_k_accuracy([]))


def test_equal_floats_of_a_spec_are_one_setting(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(
        "training: {optimizer: {lr: 0.30000000000000004}, rounds: 1e1}\nresources: {backend: ray}\n"
    )
    assert read_spec(tmp_path) == {"training.optimizer.lr": 0.3, "training.rounds": 10, "resources.backend": "ray"}


def test_accuracy_of_clients_is_read_and_runs_without_it_are_too(tmp_path: Path) -> None:
    """Runs of earlier versions have neither the columns nor the table."""
    added = {"client_accuracy": 0.5, "client_accuracy_std": 0.1, "client_accuracy_worst_tenth": 0.3}
    write_run(tmp_path / "new", per_round={**added, "evaluated_model": "client"})
    write_table(
        tmp_path / "new" / "client_accuracy.csv",
        ACCURACIES_COLUMNS,
        [{"round": 1, "client": 3, "test_accuracy": 0.25}, {"round": 1, "client": 4, "test_accuracy": float("nan")}],
    )
    old = load_results(write_run(tmp_path / "old", seed=1))
    assert old.rounds["client_accuracy"].isna().all()
    assert set(old.rounds["evaluated_model"]) == {""}
    assert old.client_accuracy.empty
    both = load_results(tmp_path)
    assert both.problems == old.problems == []
    new = both.rounds[both.rounds["run"] == "new"]
    assert new[list(added)].to_numpy().tolist() == [[0.5, 0.1, 0.3]] * 3
    assert set(new["evaluated_model"]) == {"client"}
    assert both.client_accuracy["client"].tolist() == [3, 4]
    assert both.client_accuracy["test_accuracy"].isna().tolist() == [False, True]
    assert not {*CLIENT_METRICS} & {*over_seeds(old)}
    row = over_seeds(load_results(tmp_path / "new")).iloc[0]
    assert (row["client_accuracy"], row["client_accuracy_worst_tenth"]) == (0.5, 0.3)


def test_accuracies_of_clients_out_of_range_are_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "run", per_round={"client_accuracy_worst_tenth": [0.5, 1.5, 0.5]})
    results = load_results(tmp_path / "run")
    assert results.rounds["round"].tolist() == [1, 3]
    assert "client_accuracy_worst_tenth is 1.5" in results.problems[0]
