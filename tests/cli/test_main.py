"""The command as its user starts it: in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

SPEC = """
base:
  data: {train: digits, test: digits, train_limit: 200, test_limit: 60}
  partition: {kind: iid, clients: 3}
  training: {rounds: 2, batch_size: 16, lr: 0.05}
  resources: {backend: BACKEND}
space:
  strategy: {grid: [{name: fedavg}, {name: fedprox, mu: 0.1}]}
"""


def fedray(*arguments: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedray", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=check, timeout=240)


def write(tmp_path: Path, backend: str) -> None:
    (tmp_path / "study.yaml").write_text(SPEC.replace("BACKEND", backend))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sequence[str]]:
    """Where a study was run in one process, and the lines that it printed."""
    folder = tmp_path_factory.mktemp("finished")
    write(folder, "serial")
    return folder, fedray("run", "study.yaml", cwd=folder).stdout.splitlines()


def test_help_and_version_answer_without_importing_what_they_do_not_need(tmp_path: Path) -> None:
    script = (
        "import sys; from fedray.cli.main import app; app(['--version'], standalone_mode=False); print(*sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    version, modules = said.stdout.splitlines()
    assert version.startswith("fedray 0.")
    assert not {"torch", "ray", "pandas", "numpy", "sklearn"} & set(modules.split())
    assert "schema" in fedray("--help", cwd=tmp_path).stdout


def test_schema_is_json(tmp_path: Path) -> None:
    assert "partition" in json.loads(fedray("schema", cwd=tmp_path).stdout)["$defs"]["Experiment"]["properties"]


def test_a_space_runs_one_experiment_after_another_and_ends_in_a_table(finished: tuple[Path, Sequence[str]]) -> None:
    results, said = finished
    assert [line.split(",")[0] for line in said[:4]] == [
        "strategy=fedavg: round 1/2",
        "strategy=fedavg: round 2/2",
        "strategy=fedprox mu=0.1: round 1/2",
        "strategy=fedprox mu=0.1: round 2/2",
    ]
    assert all("s/round" in line and "accuracy" in line for line in said[:4])
    assert ["left" in line for line in said[:4]] == [False, True, False, True]
    header, first, second, where = said[4:]
    assert {"strategy", "accuracy", "difference"} <= {*header.split()}
    assert first.split()[0] == "fedavg"
    assert second.split()[0] == "fedprox"
    assert where == "tables: results/study"
    (folder,) = (results / "results/study").glob("strategy=fedavg-*")  # and what it is known by
    accuracy = pd.read_csv(folder / "rounds.csv")["test_accuracy"].iloc[-1]
    assert f"{accuracy:.1%}" in first


def test_again_keeps_what_is_finished(finished: tuple[Path, Sequence[str]]) -> None:
    said = fedray("run", "study.yaml", cwd=finished[0]).stdout
    assert "strategy=fedavg: already finished, skipped" in said


def test_quiet_prints_the_table_only(tmp_path: Path) -> None:
    write(tmp_path, "serial")
    assert len(fedray("run", "study.yaml", "--quiet", cwd=tmp_path).stdout.splitlines()) == 4


def test_results_prints_each_setting_and_writes_it(finished: tuple[Path, Sequence[str]], tmp_path: Path) -> None:
    study = str(finished[0] / "results" / "study")
    said = fedray("results", study, "--write", "table.csv", "--write", "table.parquet", cwd=tmp_path)
    header, fedavg, fedprox = said.stdout.splitlines()
    assert header.split() == [
        "strategy",
        "seeds",
        "round",
        "accuracy",
        "last",
        "1",
        "worst",
        "class",
        "rare",
        "classes",
    ]
    table = pd.read_csv(tmp_path / "table.csv")
    assert [line.split()[:4] for line in (fedavg, fedprox)] == [
        [row.strategy, "1", "2", f"{100 * row.test_accuracy:.1f}"] for row in table.itertuples()
    ]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), table)
    wrong = fedray("results", study, "--write", "table.xls", cwd=tmp_path, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "fedray: --write takes a file that ends in .csv or .parquet, not 'table.xls'.\n"


@pytest.mark.ray
def test_ray_gives_the_same_model_through_a_driver_actor(finished: tuple[Path, Sequence[str]], tmp_path: Path) -> None:
    write(tmp_path, "ray")
    said = fedray("run", "study.yaml", cwd=tmp_path)
    assert "round 2/2" in said.stdout
    assert said.stderr == ""
    here, there = (sorted(side.glob("results/study/*/model.safetensors")) for side in (finished[0], tmp_path))
    assert [model.parent.name for model in here] == [model.parent.name for model in there]
    assert [model.parent.name.rpartition("-")[0] for model in here] == ["strategy=fedavg", "strategy=fedprox_mu=0.1"]
    assert [model.read_bytes() for model in here] == [model.read_bytes() for model in there]


@pytest.mark.ray
def test_a_bad_file_found_by_the_driver_actor_is_one_sentence(tmp_path: Path) -> None:
    write(tmp_path, "ray")
    said = fedray("run", "study.yaml", "data.train=parquet:nowhere.parquet", cwd=tmp_path, check=False)
    assert said.returncode == 2
    assert said.stderr == "fedray: strategy=fedavg: data.train: no file matches 'parquet:nowhere.parquet'.\n"


def test_a_cluster_that_does_not_answer_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    said = fedray("run", "study.yaml", cwd=tmp_path, check=False)
    assert said.returncode == 2
    assert "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:1 (Connection refused)." in said.stderr
    assert "Traceback" not in said.stderr


@pytest.mark.ray
def test_ctrl_c_stops_soon_keeps_rounds_and_says_how_to_resume(tmp_path: Path) -> None:
    write(tmp_path, "ray")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, and by its children, where tests run behind a &
    command = [sys.executable, "-m", "fedray", "run", "study.yaml", "training.rounds=500"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    asked = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - asked < 20
    assert process.returncode == 130
    assert "resume with: fedray run study.yaml training.rounds=500 --resume" in said
    assert "Traceback" not in said
    (table,) = (tmp_path / "results/study").glob("strategy=fedavg-*/rounds.csv")
    rounds = pd.read_csv(table)["round"].tolist()
    assert rounds == list(range(1, len(rounds) + 1))
    assert len(rounds) >= 3


def test_a_run_that_fails_says_which_client_and_how_to_go_on(tmp_path: Path) -> None:
    write(tmp_path, "serial")
    said = fedray("run", "study.yaml", "training.lr=1e9", cwd=tmp_path, check=False)
    assert said.returncode == 1
    assert "fedray: strategy=fedavg: client 0 failed in round 1 on node" in said.stderr
    assert "its update is refused" in said.stderr
    assert "resume with: fedray run study.yaml training.lr=1e9 --resume" in said.stderr
