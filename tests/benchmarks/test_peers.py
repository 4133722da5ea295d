"""benchmarks/peers: the floor takes the same steps as fedray, and measurements include all processes."""

import io
import math
import subprocess
import sys
from pathlib import Path

import compare
import measure
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from measure import Lines, Measured
from PIL import Image
from prepare import prepare
from report import Run, differences, floors, spread, table
from tools import PLAIN

import fedray
from fedray.config import loader

PEERS = Path(measure.__file__).parent


def write_images(file: Path, count: int) -> None:
    """Write random colour images of ten classes, each with its own tint."""
    random = np.random.default_rng(count)
    rows = []
    for label in np.arange(count) % 10:
        picture = io.BytesIO()
        pixels = random.integers(0, 128, (32, 32, 3)) + label * 12
        Image.fromarray(pixels.astype(np.uint8)).save(picture, "PNG")
        rows.append({"bytes": picture.getvalue(), "path": None})
    pq.write_table(pa.table({"img": rows, "label": np.arange(count) % 10}), file)


@pytest.mark.slow
def test_floor_and_fedray_have_the_same_loss_curve(tmp_path: Path) -> None:
    write_images(tmp_path / "train-0.parquet", 200)
    write_images(tmp_path / "test-0.parquet", 100)
    overrides = [
        *(f"data.{side}=parquet:{tmp_path}/{side}-*.parquet" for side in ("train", "test")),
        "data.train_limit=200", "data.test_limit=100", "partition.clients=4", "training.rounds=3",
        "training.participation=0.5", "resources.backend=serial", *PLAIN,
    ]  # fmt: skip
    (loaded,) = loader.load(PEERS / "W1.yaml", overrides)
    rows = [result.row for result in fedray.rounds(loaded.experiment, tmp_path / "run")]
    prepare(loaded.experiment, tmp_path / "prepared")
    words = [sys.executable, str(PEERS / "floor.py"), str(tmp_path / "prepared"), "3"]
    lines = Lines(0.0)
    lines.read(io.StringIO(subprocess.run(words, check=True, capture_output=True, text=True).stdout))
    assert lines.loss == pytest.approx([row["test_loss"] for row in rows], abs=1e-4)
    assert lines.accuracy == pytest.approx([row["test_accuracy"] for row in rows], abs=0.011)
    assert lines.loss[0] > lines.loss[-1]


DAEMON = """
import os, subprocess, sys, time
block = b"x" * 50_000_000
child = "import time; block = b'x' * 100_000_000; print('up', flush=True); time.sleep(600)"
daemon = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, start_new_session=True)
daemon.stdout.readline()
print("round 1/2, loss 2.5, accuracy 0.25", flush=True)
time.sleep(1.5)
print("label: round 2/2, accuracy 30.0%, 1.50 s/round, 0 s left", flush=True)
sys.exit(3)
"""


def test_daemon_outside_the_session_is_measured_and_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measure, "EXIT_GRACE_S", 0.5)
    measured = measure.measure([sys.executable, "-c", DAEMON], {}, limit=60, interval=0.1)
    assert (measured.code, measured.processes, measured.left) == (3, 2, 1)
    assert 150_000_000 < measured.peak_pss < 250_000_000
    assert len(measured.ends) == 2
    assert measured.ends[0] < measured.ends[1] < measured.wall
    assert (list(measured.loss), list(measured.accuracy)) == ([2.5], [0.25])
    compare.write(tmp_path / "log", Run("W1", "floor", 2, measured))
    compare.write(tmp_path / "log", Run("W2", "floor", 2, measured))
    assert compare.read(tmp_path / "log", "W1") == [Run("W1", "floor", 2, measured)]


def test_command_over_its_time_limit_is_killed() -> None:
    assert measure.measure([sys.executable, "-c", "import time; time.sleep(600)"], {}, limit=0.5).code == -9


def run(tool: str, ends: list[float], wall: float, loss: list[float], rounds: int) -> Run:
    measured = Measured(0, wall, ends, loss, [value / 10 for value in loss], 2_000_000, 1, 1.0, 0.0, 0, ())
    return Run("W1", tool, rounds, measured)


def test_time_outside_rounds_is_start_up_and_exit() -> None:
    one = run("floor", [7.0, 9.0, 12.0, 14.0], 15.0, [1.0], 4)
    assert (one.per_round, one.around, one.whole, one.megabytes) == (2.0, 7.0, 15.0, 2.0)


def test_missing_rounds_are_added_at_the_same_pace() -> None:
    assert run("floor", [7.0, 9.0, 11.0], 12.0, [1.0], 20).whole == 12 + 17 * 2


def test_run_is_compared_with_the_floor_of_its_pass() -> None:
    runs = [run(tool, [], wall, [1.0], 0) for wall, tool in enumerate(("flower", "floor", "pfl", "floor", "flower"))]
    assert [floor.measured.wall for floor in floors(runs)] == [1, 1, 1, 3, 3]
    assert floors(runs[:1]) == []


def test_ratios_are_taken_per_pass() -> None:
    floor = [run("floor", [], wall, [1.0], 0) for wall in (10.0, 20.0, 40.0)]
    other = [run("fedray", [], wall, [1.0], 0) for wall in (20.0, 30.0, 40.0)]
    assert spread(other, floor, lambda run: run.measured.wall) == "30 [20-40] x1.5 [1-2]"


def test_curves_are_compared_by_their_largest_distance() -> None:
    other = run("b", [], 1, [2.1, 1.5], 2)
    assert differences(run("a", [], 1, [2.0, 1.0], 2), other) == "0.5000, 5.00 (b)"
    assert differences(run("a", [], 1, [math.nan, 1.4], 2), other) == "0.1000, 1.00 (b)"


def test_curve_with_teacher_is_compared_with_one_with_teacher() -> None:
    tools = ("fedray-cached", "floor", "fedray", "fedray-online")
    rows = table([run(tool, [1.0, 2.0], 3.0, [float(len(tool))] * 2, 2) for tool in tools]).splitlines()[2:]
    assert [row.split(" | ")[9] for row in rows] == [
        "0.0000, 0.00 (fedray-cached)",
        "0.0000, 0.00 (floor)",
        "1.0000, 10.00 (floor)",
        "0.0000, 0.00 (fedray-cached)",
    ]  # fmt: skip
