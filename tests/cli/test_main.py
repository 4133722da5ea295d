"""The command `fedray`, started as a user does: in its own process."""

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
  training: {rounds: 2, batch_size: 16, optimizer: {lr: 0.05}}
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
    """Run a study serially; returns its folder and the lines that it printed."""
    folder = tmp_path_factory.mktemp("finished")
    write(folder, "serial")
    return folder, fedray("run", "study.yaml", cwd=folder).stdout.splitlines()


def test_help_and_version_import_no_heavy_package(tmp_path: Path) -> None:
    script = (
        "import sys; from fedray.cli.main import app; app(['--version'], standalone_mode=False); print(*sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    version, modules = result.stdout.splitlines()
    assert version.startswith("fedray 0.")
    assert not {"torch", "ray", "pandas", "numpy", "sklearn"} & set(modules.split())
    assert "schema" in fedray("--help", cwd=tmp_path).stdout


def test_schema_prints_json(tmp_path: Path) -> None:
    assert "partition" in json.loads(fedray("schema", cwd=tmp_path).stdout)["$defs"]["Experiment"]["properties"]


def test_space_runs_its_experiments_in_order_and_prints_a_table(finished: tuple[Path, Sequence[str]]) -> None:
    results, lines = finished
    assert [line.split(",")[0] for line in lines[:4]] == [
        "strategy=fedavg: round 1/2",
        "strategy=fedavg: round 2/2",
        "strategy=fedprox mu=0.1: round 1/2",
        "strategy=fedprox mu=0.1: round 2/2",
    ]
    assert all("s/round" in line and "accuracy" in line for line in lines[:4])
    assert ["left" in line for line in lines[:4]] == [False, True, False, True]
    header, first, second, last = lines[4:]
    assert {"strategy", "accuracy", "difference"} <= {*header.split()}
    assert first.split()[0] == "fedavg"
    assert second.split()[0] == "fedprox"
    assert last == "tables: results/study"
    (folder,) = (results / "results/study").glob("strategy=fedavg-*")  # followed by the key
    accuracy = pd.read_csv(folder / "rounds.csv")["test_accuracy"].iloc[-1]
    assert f"{accuracy:.1%}" in first


def test_second_run_skips_finished_experiments(finished: tuple[Path, Sequence[str]]) -> None:
    output = fedray("run", "study.yaml", cwd=finished[0]).stdout
    assert "strategy=fedavg: already finished, skipped" in output


def test_quiet_prints_only_the_table(tmp_path: Path) -> None:
    write(tmp_path, "serial")
    assert len(fedray("run", "study.yaml", "--quiet", cwd=tmp_path).stdout.splitlines()) == 4


def test_results_prints_settings_and_writes_them(finished: tuple[Path, Sequence[str]], tmp_path: Path) -> None:
    study = str(finished[0] / "results" / "study")
    result = fedray("results", study, "--write", "table.csv", "--write", "table.parquet", cwd=tmp_path)
    header, fedavg, fedprox = result.stdout.splitlines()
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
        "clients",
        "worst",
        "clients",
    ]
    table = pd.read_csv(tmp_path / "table.csv")
    assert [line.split()[:4] for line in (fedavg, fedprox)] == [
        [row.strategy, "1", "2", f"{100 * row.test_accuracy:.1f}"] for row in table.itertuples()
    ]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), table)
    refused = fedray("results", study, "--write", "table.xls", cwd=tmp_path, check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "fedray: --write takes a file that ends in .csv or .parquet, not 'table.xls'.\n"


@pytest.mark.ray
def test_ray_gives_the_same_weights_as_the_serial_backend(finished: tuple[Path, Sequence[str]], tmp_path: Path) -> None:
    write(tmp_path, "ray")
    result = fedray("run", "study.yaml", cwd=tmp_path)
    assert "round 2/2" in result.stdout
    assert result.stderr == ""
    serial, parallel = (sorted(folder.glob("results/study/*/model.safetensors")) for folder in (finished[0], tmp_path))
    assert [model.parent.name for model in serial] == [model.parent.name for model in parallel]
    assert [model.parent.name.rpartition("-")[0] for model in serial] == ["strategy=fedavg", "strategy=fedprox_mu=0.1"]
    assert [model.read_bytes() for model in serial] == [model.read_bytes() for model in parallel]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_missing_data_file_is_reported_by_the_driver_actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    write(tmp_path, "ray")
    result = fedray("run", "study.yaml", "data.train=parquet:nowhere.parquet", cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert result.stderr == "fedray: strategy=fedavg: data.train: no file matches 'parquet:nowhere.parquet'.\n"


def test_unreachable_cluster_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    result = fedray("run", "study.yaml", cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:1 (Connection refused)." in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.ray
def test_ctrl_c_saves_rounds_and_prints_how_to_resume(tmp_path: Path) -> None:
    write(tmp_path, "ray")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background shells ignore SIGINT
    command = [sys.executable, "-m", "fedray", "run", "study.yaml", "training.rounds=500"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    interrupted_at = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - interrupted_at < 20
    assert process.returncode == 130
    assert "resume with: fedray run study.yaml training.rounds=500" in errors
    assert "Traceback" not in errors
    (table,) = (tmp_path / "results/study").glob("strategy=fedavg-*/rounds.csv")
    rounds = pd.read_csv(table)["round"].tolist()
    assert rounds == list(range(1, len(rounds) + 1))
    assert len(rounds) >= 3


def test_failed_run_names_the_client_and_advises_no_resume_that_fails_again(tmp_path: Path) -> None:
    write(tmp_path, "serial")
    result = fedray("run", "study.yaml", "training.optimizer.lr=1e9", cwd=tmp_path, check=False)
    assert result.returncode == 1
    assert "fedray: strategy=fedavg: client 0 failed in round 1 on node" in result.stderr
    assert "its update was rejected" in result.stderr
    assert "resume" not in result.stderr
