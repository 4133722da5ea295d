"""What `fedray sweep` shows, on a terminal and where there is none."""

import io
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from fedray.cli.sweep_progress import STATUS_INTERVAL_S, SweepProgress
from fedray.config.search import Search


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = time.monotonic()  # trials begin at the real time

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """What rich takes for a terminal."""

    def isatty(self) -> bool:
        return True


Make = Callable[..., SweepProgress]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def board(clock: Clock, out: io.StringIO) -> Make:  # noqa: ARG001  the clock must be there before the board
    def make(total: int = 3, finished: int = 0, rounds: int = 12, quiet: bool = False, **search: Any) -> SweepProgress:
        found = Search.model_validate(search)
        return SweepProgress("study", found, total=total, finished=finished, rounds=rounds, quiet=quiet, out=out)

    return make


def row(number: int, **figures: float) -> dict[str, Any]:
    return {"round": number, "seconds": 0.25, **figures}


def test_a_line_for_each_trial_that_ends(board: Make, clock: Clock, out: io.StringIO) -> None:
    shown = board(total=5, finished=1, rounds=16)
    for name in "abcd":
        shown.start(name, f"lam={name}", 4, 0)
    clock.now += 65
    for number in (1, 2, 3, 4):
        shown.round("a", row(number, test_accuracy=number / 8))
    shown.round("b", row(1, test_accuracy=0.75))
    shown.end("a", "finished")
    shown.end("b", "stopped", "asha")
    shown.again("c", "a client sent NaN")
    shown.start("c", "lam=c", 4, 0)
    shown.end("c", "failed", "a client sent NaN")
    shown.round("d", row(1))  # not evaluated yet
    shown.end("d", "finished")
    assert out.getvalue().splitlines() == [
        "[2/5] lam=a: test accuracy 50.0% after 4 rounds, 1 min 05 s",
        "[3/5] lam=b: stopped by asha, test accuracy 75.0% after 1 rounds, 1 min 05 s",
        "[3/5] lam=c: failed, will be retried: a client sent NaN",
        "[4/5] lam=c: failed: a client sent NaN",
        "[5/5] lam=d: no test_accuracy after 1 rounds, 1 min 05 s",
    ]
    assert shown.headline() == "study: 5 of 5 trials, 1 stopped, 1 failed, best test accuracy 75.0% (lam=b)"


def test_a_label_that_begins_like_the_study_is_a_label_still(board: Make, out: io.StringIO) -> None:
    shown = board(total=1)
    shown.start("a", "study=1", 4, 0)
    shown.end("a", "failed", "it broke")
    assert out.getvalue() == "[1/1] study=1: failed: it broke\n"


@pytest.mark.parametrize(
    ("search", "best"),
    [
        ({}, "best test accuracy 50.0% (b)"),
        ({"mode": "min"}, "best test accuracy 25.0% (a)"),
        ({"metric": "test_loss"}, "best test loss 1.2500 (c)"),
        ({"metric": "test_loss", "mode": "max"}, "best test loss 3.0000 (b)"),
        ({"metric": "last_k_accuracy"}, "best last k accuracy 40.0% (c)"),
        ({"metric": "worst_class_accuracy"}, ""),
    ],
    ids=str,
)
def test_the_best_is_by_the_metric_and_its_way(board: Make, search: dict[str, Any], best: str) -> None:
    shown = board(total=5, **search)
    figures: dict[str, dict[str, float]] = {
        "a": {"test_accuracy": 0.25, "test_loss": 2.0, "last_k_accuracy": 0.2},
        "b": {"test_accuracy": 0.5, "test_loss": 3.0, "last_k_accuracy": 0.3},
        "c": {"test_accuracy": 0.375, "test_loss": 1.25, "last_k_accuracy": 0.4},
        "d": {"test_accuracy": float("nan"), "test_loss": float("nan"), "last_k_accuracy": float("nan")},
    }
    for name, values in figures.items():
        shown.start(name, name, 4, 0)
        shown.round(name, row(1, **values, worst_class_accuracy=float("nan")))
        shown.end(name, "finished")
    shown.start("e", "e", 4, 0)
    shown.round("e", row(1, test_accuracy=0.99, test_loss=9.0, last_k_accuracy=0.99))
    shown.end("e", "failed", "it broke")  # what fails is never the best
    assert shown.headline() == ", ".join(part for part in ("study: 5 of 5 trials, 1 failed", best) if part)


def test_what_earlier_sweeps_have_finished_is_compared_too(board: Make) -> None:
    shown = board(total=4, finished=2)
    shown.known("a", {"test_accuracy": 0.625})
    shown.known("b", {"test_accuracy": float("nan")})
    assert shown.headline() == "study: 2 of 4 trials, best test accuracy 62.5% (a)"
    for name, value in (("c", 0.5), ("d", 0.75)):
        shown.start(name, name, 4, 0)
        shown.round(name, row(1, test_accuracy=value))
        shown.end(name, "finished")
        assert ("best test accuracy 62.5% (a)" if name == "c" else "best test accuracy 75.0% (d)") in shown.headline()


def test_the_time_left_follows_from_the_rounds_of_this_sweep(board: Make, clock: Clock) -> None:
    """Of 20 rounds, two are done before and so are not counted among those that are left."""
    shown = board(total=4, finished=0, rounds=18)
    shown.start("a", "a", 5, 2)
    shown.start("b", "b", 5, 0)
    clock.now += 8
    shown.round("a", row(1))  # these it had from earlier
    shown.round("a", row(2))
    shown.round("a", row(3))
    assert shown.headline() == "study: 0 of 4 trials, 2 running"  # one round is too little to tell
    shown.round("b", row(1))
    assert shown.headline().endswith("2 running, 1 min 04 s left")  # 16 rounds, 8 s for two
    clock.now += 2
    shown.round("b", row(2))
    shown.round("b", row(3))
    assert shown.headline().endswith("2 running, 35 s left")  # 14 rounds, 10 s for four
    shown.end("b", "stopped", "asha")  # and so it has not two more to go
    assert shown.headline().endswith("1 running, 30 s left")
    shown.round("a", row(4))
    shown.round("a", row(5))
    shown.end("a", "finished")
    assert shown.headline() == "study: 2 of 4 trials, 1 stopped, 17 s left"  # 10 rounds, 10 s for six
    for name in ("c", "d"):
        shown.start(name, name, 5, 0)
        shown.end(name, "failed", "it broke")
    assert shown.headline() == "study: 4 of 4 trials, 1 stopped, 2 failed"


def test_now_and_then_a_line_says_how_far_it_is(board: Make, clock: Clock, out: io.StringIO) -> None:
    shown = board(total=7, rounds=42)
    for name in "abcde":
        shown.start(name, name, 6, 0)
    shown.round("b", row(1, test_accuracy=0.5))
    shown.note("c", "teacher: 10 of 20 answers")
    shown.note("z", "of no trial that runs")
    clock.now += STATUS_INTERVAL_S - 1
    shown.tick()
    assert out.getvalue() == ""
    clock.now += 2
    shown.tick()
    shown.tick()
    where = "a 0/6 (starting); b 1/6; c 0/6 (teacher: 10 of 20 answers); d 0/6 (starting)"
    assert out.getvalue() == f"study: 0 of 7 trials, 5 running; {where}\n"
    shown.round("c", row(1))
    clock.now += STATUS_INTERVAL_S + 1
    shown.tick()
    _, second = out.getvalue().splitlines()
    assert "; c 1/6; d" in second


def test_quiet_is_quiet(board: Make, clock: Clock, out: io.StringIO) -> None:
    with board(total=1, quiet=True) as shown:
        shown.start("a", "a", 4, 0)
        clock.now += STATUS_INTERVAL_S + 1
        shown.tick()
        shown.end("a", "failed", "it broke")
    assert out.getvalue() == ""


@pytest.mark.parametrize(("height", "trials"), [(25, 200), (40, 200), (25, 21), (25, 22), (5, 3), (24, 0)])
def test_the_live_table_stays_within_the_terminal(monkeypatch: pytest.MonkeyPatch, height: int, trials: int) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", str(height))
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    shown = SweepProgress("study", Search(), total=300, finished=100, rounds=800, out=out)
    with shown:
        for number in range(trials):
            shown.start(f"{number}", f"lam={number / 200}, alpha=0.05, teacher=ViT-B-32, seed={number}", 4, 0)
        for number in range(0, trials, 2):
            shown.round(f"{number}", row(1, test_accuracy=number / 400))
        shown.tick()
        rendered = shown._console.render_lines(shown.render())
        lines = [text for line in rendered if (text := "".join(segment.text for segment in line).rstrip())]
    assert len(rendered) <= height
    assert all(len(line) <= 100 for line in lines)
    assert lines[0].startswith(f"study: 100 of 300 trials, {trials} running" if trials else "study: 100 of 300 trials")
    room = height - 4 if height > 6 else 3
    assert len(lines) == 1 + min(trials, room) + (trials > room)
    if trials > room:
        assert lines[-1].strip() == f"and {trials - room} more"
    if trials:
        assert re.fullmatch(
            r"  lam=0.0, alpha=0.05, teacher=ViT-B-32, seed=0 +1/4 +test accuracy 0.0% +0.25 s/round", lines[1]
        )
        assert lines[2].split()[-2:] == ["0/4", "starting"]
    assert "study: 100 of 300 trials" in out.getvalue()


def test_a_long_headline_pushes_nothing_out_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "20")
    shown = SweepProgress("study", Search(), total=300, finished=0, rounds=800, out=Terminal())
    label = ", ".join(f"teacher.teachers.{number}.backbone.model=ViT-B-32" for number in range(5))
    for number in range(200):
        shown.start(f"{number}", label, 4, 0)
    shown.round("0", row(1, test_accuracy=0.5))
    shown.end("0", "finished")
    assert len(shown._console.render_lines(shown.render())) <= 20
