from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import fedray
from fedray.config.experiment import Experiment
from fedray.config.loader import load
from fedray.errors import SpecError
from fedray.results.loader import load_results
from fedray.results.run_folder import RunFolder
from fedray.results.writer import CsvTable
from fedray.study.session import run

Make = Callable[..., Experiment]


def test_rows_are_on_disk_at_once(tmp_path: Path) -> None:
    table = CsvTable(tmp_path / "t.csv", ("round", "a", "b"))
    table.write([{"round": 1, "b": 2.5}])
    assert (tmp_path / "t.csv").read_text() == "round,a,b\n1,,2.5\n"
    table.close()


def test_reopening_drops_rows_after_the_checkpoint_and_a_torn_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("round,a\n1,x\n2,x\n2,y\n3,x\n")
    CsvTable(tmp_path / "t.csv", ("round", "a"), after_round=2).close()
    assert pd.read_csv(tmp_path / "t.csv").to_numpy().tolist() == [[1, "x"], [2, "x"], [2, "y"]]


def test_the_spec_that_is_saved_repeats_the_run(small: Make, tmp_path: Path) -> None:
    experiment = small(strategy={"name": "fedlpfm", "lam": 0.3})
    list(run(experiment, tmp_path / "first"))
    (saved,) = load(tmp_path / "first" / "spec.yaml")
    assert saved.experiment == experiment
    list(run(saved.experiment, tmp_path / "second"))
    assert (tmp_path / "first" / "model.safetensors").read_bytes() == (
        tmp_path / "second" / "model.safetensors"
    ).read_bytes()


def test_a_finished_run_is_left_as_it_is(small: Make, tmp_path: Path) -> None:
    list(run(small(), tmp_path / "run"))
    before = (tmp_path / "run" / "rounds.csv").stat().st_mtime_ns
    assert list(run(small(), tmp_path / "run")) == []
    assert (tmp_path / "run" / "rounds.csv").stat().st_mtime_ns == before


def test_an_unfinished_run_wants_resume_and_then_goes_on(small: Make, tmp_path: Path) -> None:
    rounds = run(small(), tmp_path / "run")
    next(rounds)
    rounds.close()
    with pytest.raises(SpecError, match="unfinished run of this spec; add --resume"):
        list(run(small(), tmp_path / "run"))
    assert [result.round for result in run(small(), tmp_path / "run", resume=True)] == [2, 3]


def test_resources_may_differ_on_resume(small: Make, tmp_path: Path) -> None:
    next(run(small(), tmp_path / "run"))
    RunFolder(tmp_path / "run").check(small(resources={"clients_per_actor": 2}, checkpoint={"every": 3}), resume=True)
    with pytest.raises(SpecError, match=r"another spec \(training.lr is 0.05 there and 0.01 here\)"):
        RunFolder(tmp_path / "run").check(small(training={"lr": 0.01}), resume=True)


def test_load_results_of_a_tree_has_the_varied_fields_typed(small: Make, tmp_path: Path) -> None:
    for name, strategy in {"a": {"name": "fedavg"}, "b": {"name": "fedlpfm", "lam": 0.25}}.items():
        list(run(small(strategy=strategy, seed=4, training={"rounds": 2}), tmp_path / "study" / name))
    results = fedray.load_results(tmp_path / "study")
    assert {"strategy.name", "strategy.lam", "strategy.loss.name"} <= set(results.varied.columns)
    assert all(column.startswith("strategy.") for column in results.varied.columns)
    rounds = results.rounds
    assert rounds["run"].tolist() == ["a", "a", "b", "b"]
    assert rounds["strategy.name"].tolist() == ["fedavg", "fedavg", "fedlpfm", "fedlpfm"]
    assert rounds["strategy.lam"].dtype == float
    assert rounds["strategy.lam"].tolist()[2:] == [0.25, 0.25]
    assert len(results.clients) == 2 * 2 * 4
    assert len(results.classes) == 2 * 2 * 10
    assert results.partition["examples"].sum() == 2 * 160
    assert results.clients.query("run == 'b'")["loss_kd"].notna().all()


def test_load_results_of_one_run_has_no_varied_fields(small: Make, tmp_path: Path) -> None:
    list(run(small(), tmp_path / "run"))
    results = load_results(tmp_path / "run")
    assert results.rounds["run"].unique().tolist() == ["."]
    assert results.varied.empty


def test_load_results_where_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="holds no results"):
        load_results(tmp_path)
