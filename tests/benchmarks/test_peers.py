"""The floor that fedray is measured against makes fedray's own steps, and the measuring sees all processes."""

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
    """Random colour images of ten classes, each with a tint of its own."""
    random = np.random.default_rng(count)
    rows = []
    for label in np.arange(count) % 10:
        picture = io.BytesIO()
        pixels = random.integers(0, 128, (32, 32, 3)) + label * 12
        Image.fromarray(pixels.astype(np.uint8)).save(picture, "PNG")
        rows.append({"bytes": picture.getvalue(), "path": None})
    pq.write_table(pa.table({"img": rows, "label": np.arange(count) % 10}), file)


@pytest.mark.slow
def test_the_floor_and_fedray_end_in_the_same_losses(tmp_path: Path) -> None:
    write_images(tmp_path / "train-0.parquet", 200)
    write_images(tmp_path / "test-0.parquet", 100)
    overrides = [
        *(f"data.{side}=parquet:{tmp_path}/{side}-*.parquet" for side in ("train", "test")),
        "data.train_limit=200", "data.test_limit=100", "partition.clients=4", "training.rounds=3",
        "training.participation=0.5", "resources.backend=serial", *PLAIN,
    ]  # fmt: skip
    (found,) = loader.load(PEERS / "W1.yaml", overrides)
    rows = [result.row for result in fedray.run(found.experiment, tmp_path / "run")]
    prepare(found.experiment, tmp_path / "prepared")
    words = [sys.executable, str(PEERS / "floor.py"), str(tmp_path / "prepared"), "3"]
    lines = Lines(0.0)
    lines.read(io.StringIO(subprocess.run(words, check=True, capture_output=True, text=True).stdout))
    assert lines.loss == pytest.approx([row["loss"] for row in rows], abs=1e-4)
    assert lines.accuracy == pytest.approx([row["accuracy"] for row in rows], abs=0.011)
    assert lines.loss[0] > lines.loss[-1]


DAEMON = """
import os, subprocess, sys, time
kept = b"x" * 50_000_000
child = "import time; kept = b'x' * 100_000_000; print('up', flush=True); time.sleep(600)"
daemon = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, start_new_session=True)
daemon.stdout.readline()
print("round 1/2, loss 2.5, accuracy 0.25", flush=True)
time.sleep(2.5)
print("label: round 2/2, accuracy 30.0%, 1.50 s/round, 0 s left", flush=True)
sys.exit(3)
"""


def test_a_daemon_that_left_the_session_is_seen_and_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measure, "GRACE", 0.5)
    found = measure.measure([sys.executable, "-c", DAEMON], {}, limit=60)
    assert (found.code, found.processes, found.left) == (3, 2, 1)
    assert 150_000_000 < found.peak_pss < 250_000_000
    assert len(found.ends) == 2
    assert found.ends[0] < found.ends[1] < found.wall
    assert (list(found.loss), list(found.accuracy)) == ([2.5], [0.25])
    compare.write(tmp_path / "log", Run("W1", "floor", 2, found))
    compare.write(tmp_path / "log", Run("W2", "floor", 2, found))
    assert compare.read(tmp_path / "log", "W1") == [Run("W1", "floor", 2, found)]


def test_a_command_that_takes_too_long_is_ended() -> None:
    assert measure.measure([sys.executable, "-c", "import time; time.sleep(600)"], {}, limit=0.5).code == -9


def run(tool: str, ends: list[float], wall: float, loss: list[float], rounds: int) -> Run:
    found = Measured(0, wall, ends, loss, [each / 10 for each in loss], 2_000_000, 1, 1.0, 0.0, 0, ())
    return Run("W1", tool, rounds, found)


def test_what_is_not_rounds_is_start_up_and_exit() -> None:
    one = run("floor", [7.0, 9.0, 12.0, 14.0], 15.0, [1.0], 4)
    assert (one.per_round, one.around, one.whole, one.megabytes) == (2.0, 7.0, 15.0, 2.0)


def test_rounds_that_were_left_out_are_added_at_the_same_pace() -> None:
    assert run("floor", [7.0, 9.0, 11.0], 12.0, [1.0], 20).whole == 12 + 17 * 2


def test_a_run_stands_beside_the_floor_of_its_pass() -> None:
    runs = [run(tool, [], wall, [1.0], 0) for wall, tool in enumerate(("flower", "floor", "pfl", "floor", "flower"))]
    assert [floor.measured.wall for floor in floors(runs)] == [1, 1, 1, 3, 3]
    assert floors(runs[:1]) == []


def test_ratios_are_taken_pass_by_pass() -> None:
    floor = [run("floor", [], wall, [1.0], 0) for wall in (10.0, 20.0, 40.0)]
    other = [run("fedray", [], wall, [1.0], 0) for wall in (20.0, 30.0, 40.0)]
    assert spread(other, floor, lambda one: one.measured.wall) == "30 [20-40] x1.5 [1-2]"


def test_curves_are_compared_where_they_are_farthest_apart() -> None:
    theirs = run("b", [], 1, [2.1, 1.5], 2)
    assert differences(run("a", [], 1, [2.0, 1.0], 2), theirs) == "0.5000, 5.00 (b)"
    assert differences(run("a", [], 1, [math.nan, 1.4], 2), theirs) == "0.1000, 1.00 (b)"


def test_a_taught_curve_is_compared_with_a_taught_one() -> None:
    tools = ("fedray-cached", "floor", "fedray", "fedray-online")
    rows = table([run(tool, [1.0, 2.0], 3.0, [float(len(tool))] * 2, 2) for tool in tools]).splitlines()[2:]
    assert [row.split(" | ")[9] for row in rows] == [
        "0.0000, 0.00 (fedray-cached)",
        "0.0000, 0.00 (floor)",
        "1.0000, 10.00 (floor)",
        "0.0000, 0.00 (fedray-cached)",
    ]  # fmt: skip
