"""Progress of `fedray sweep`, on a terminal and elsewhere."""

import io
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from fedray.cli.sweep_progress import STATUS_INTERVAL_S, SweepProgress
from fedray.config.search import Search
from fedray.study.tune.display import SweepSize


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = time.monotonic()  # trials start at the real time

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that rich takes for a terminal."""

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
def make_progress(clock: Clock, out: io.StringIO) -> Make:  # noqa: ARG001  the display reads the clock
    def make(total: int = 3, finished: int = 0, rounds: int = 12, quiet: bool = False, **search: Any) -> SweepProgress:
        section = Search.model_validate(search)
        return SweepProgress("study", section, SweepSize(total, finished, rounds), quiet=quiet, out=out)

    return make


def row(number: int, **metrics: float) -> dict[str, Any]:
    return {"round": number, "seconds": 0.25, **metrics}


def test_one_line_per_ended_trial(make_progress: Make, clock: Clock, out: io.StringIO) -> None:
    progress = make_progress(total=5, finished=1, rounds=16)
    for name in "abcd":
        progress.start(name, f"lam={name}", 4, 0)
    clock.now += 65
    for number in (1, 2, 3, 4):
        progress.round("a", row(number, test_accuracy=number / 8))
    progress.round("b", row(1, test_accuracy=0.75))
    progress.end("a", "finished")
    progress.end("b", "stopped", "asha")
    progress.retry("c", "a client sent NaN")
    progress.start("c", "lam=c", 4, 0)
    progress.end("c", "failed", "a client sent NaN")
    progress.round("d", row(1))  # not evaluated yet
    progress.end("d", "finished")
    assert out.getvalue().splitlines() == [
        "[2/5] lam=a: test accuracy 50.0% after 4 rounds, 1 min 05 s",
        "[3/5] lam=b: stopped by asha, test accuracy 75.0% after 1 rounds, 1 min 05 s",
        "[3/5] lam=c: failed, will be retried: a client sent NaN",
        "[4/5] lam=c: failed: a client sent NaN",
        "[5/5] lam=d: no test_accuracy after 1 rounds, 1 min 05 s",
    ]
    assert progress.headline() == "study: 5 of 5 trials, 1 stopped, 1 failed, best test accuracy 75.0% (lam=b)"


def test_label_that_starts_like_the_study_is_kept(make_progress: Make, out: io.StringIO) -> None:
    progress = make_progress(total=1)
    progress.start("a", "study=1", 4, 0)
    progress.end("a", "failed", "it broke")
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
def test_best_trial_follows_metric_and_direction(make_progress: Make, search: dict[str, Any], best: str) -> None:
    progress = make_progress(total=5, **search)
    metrics: dict[str, dict[str, float]] = {
        "a": {"test_accuracy": 0.25, "test_loss": 2.0, "last_k_accuracy": 0.2},
        "b": {"test_accuracy": 0.5, "test_loss": 3.0, "last_k_accuracy": 0.3},
        "c": {"test_accuracy": 0.375, "test_loss": 1.25, "last_k_accuracy": 0.4},
        "d": {"test_accuracy": float("nan"), "test_loss": float("nan"), "last_k_accuracy": float("nan")},
    }
    for name, values in metrics.items():
        progress.start(name, name, 4, 0)
        progress.round(name, row(1, **values, worst_class_accuracy=float("nan")))
        progress.end(name, "finished")
    progress.start("e", "e", 4, 0)
    progress.round("e", row(1, test_accuracy=0.99, test_loss=9.0, last_k_accuracy=0.99))
    progress.end("e", "failed", "it broke")  # a failed trial is never the best
    assert progress.headline() == ", ".join(part for part in ("study: 5 of 5 trials, 1 failed", best) if part)


def test_trials_of_earlier_sweeps_count_for_the_best(make_progress: Make) -> None:
    progress = make_progress(total=4, finished=2)
    progress.known("a", {"test_accuracy": 0.625})
    progress.known("b", {"test_accuracy": float("nan")})
    assert progress.headline() == "study: 2 of 4 trials, best test accuracy 62.5% (a)"
    for name, value in (("c", 0.5), ("d", 0.75)):
        progress.start(name, name, 4, 0)
        progress.round(name, row(1, test_accuracy=value))
        progress.end(name, "finished")
        assert (
            "best test accuracy 62.5% (a)" if name == "c" else "best test accuracy 75.0% (d)"
        ) in progress.headline()


def test_time_left_is_estimated_from_the_rounds_of_this_sweep(make_progress: Make, clock: Clock) -> None:
    """An earlier sweep finished two of the 20 rounds, so 18 are left."""
    progress = make_progress(total=4, finished=0, rounds=18)
    progress.start("a", "a", 5, 2)
    progress.start("b", "b", 5, 0)
    clock.now += 8
    progress.round("a", row(1))  # rounds of the earlier sweep
    progress.round("a", row(2))
    progress.round("a", row(3))
    assert progress.headline() == "study: 0 of 4 trials, 2 running"  # one round gives no estimate
    progress.round("b", row(1))
    assert progress.headline().endswith("2 running, 1 min 04 s left")  # 16 rounds, 8 s for two
    clock.now += 2
    progress.round("b", row(2))
    progress.round("b", row(3))
    assert progress.headline().endswith("2 running, 35 s left")  # 14 rounds, 10 s for four
    progress.end("b", "stopped", "asha")  # so its last two rounds are dropped
    assert progress.headline().endswith("1 running, 30 s left")
    progress.round("a", row(4))
    progress.round("a", row(5))
    progress.end("a", "finished")
    assert progress.headline() == "study: 2 of 4 trials, 1 stopped, 17 s left"  # 10 rounds, 10 s for six
    for name in ("c", "d"):
        progress.start(name, name, 5, 0)
        progress.end(name, "failed", "it broke")
    assert progress.headline() == "study: 4 of 4 trials, 1 stopped, 2 failed"


def test_status_line_is_printed_at_intervals(make_progress: Make, clock: Clock, out: io.StringIO) -> None:
    progress = make_progress(total=7, rounds=42)
    for name in "abcde":
        progress.start(name, name, 6, 0)
    progress.round("b", row(1, test_accuracy=0.5))
    progress.note("c", "teacher: 10 of 20 outputs")
    progress.note("z", "unknown trial")
    clock.now += STATUS_INTERVAL_S - 1
    progress.tick()
    assert out.getvalue() == ""
    clock.now += 2
    progress.tick()
    progress.tick()
    trials = "a 0/6 (starting); b 1/6; c 0/6 (teacher: 10 of 20 outputs); d 0/6 (starting)"
    assert out.getvalue() == f"study: 0 of 7 trials, 5 running; {trials}\n"
    progress.round("c", row(1))
    clock.now += STATUS_INTERVAL_S + 1
    progress.tick()
    _, second = out.getvalue().splitlines()
    assert "; c 1/6; d" in second


def test_quiet_prints_nothing(make_progress: Make, clock: Clock, out: io.StringIO) -> None:
    with make_progress(total=1, quiet=True) as progress:
        progress.start("a", "a", 4, 0)
        clock.now += STATUS_INTERVAL_S + 1
        progress.tick()
        progress.end("a", "failed", "it broke")
    assert out.getvalue() == ""


@pytest.mark.parametrize(("height", "trials"), [(25, 200), (40, 200), (25, 21), (25, 22), (5, 3), (24, 0)])
def test_live_table_fits_into_the_terminal(monkeypatch: pytest.MonkeyPatch, height: int, trials: int) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", str(height))
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    progress = SweepProgress("study", Search(), SweepSize(300, 100, 800), out=out)
    with progress:
        for number in range(trials):
            progress.start(f"{number}", f"lam={number / 200}, alpha=0.05, teacher=ViT-B-32, seed={number}", 4, 0)
        for number in range(0, trials, 2):
            progress.round(f"{number}", row(1, test_accuracy=number / 400))
        progress.tick()
        rendered = progress._console.render_lines(progress.render())
        lines = [text for line in rendered if (text := "".join(segment.text for segment in line).rstrip())]
    assert len(rendered) <= height
    assert all(len(line) <= 100 for line in lines)
    assert lines[0].startswith(f"study: 100 of 300 trials, {trials} running" if trials else "study: 100 of 300 trials")
    max_trials = height - 4 if height > 6 else 3
    assert len(lines) == 1 + min(trials, max_trials) + (trials > max_trials)
    if trials > max_trials:
        assert lines[-1].strip() == f"and {trials - max_trials} more"
    if trials:
        assert re.fullmatch(
            r"  lam=0.0, alpha=0.05, teacher=ViT-B-32, seed=0 +1/4 +test accuracy 0.0% +0.25 s/round", lines[1]
        )
        assert lines[2].split()[-2:] == ["0/4", "starting"]
    assert "study: 100 of 300 trials" in out.getvalue()


def test_long_headline_fits_into_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "20")
    progress = SweepProgress("study", Search(), SweepSize(300, 0, 800), out=Terminal())
    label = ", ".join(f"teacher.teachers.{number}.backbone.model=ViT-B-32" for number in range(5))
    for number in range(200):
        progress.start(f"{number}", label, 4, 0)
    progress.round("0", row(1, test_accuracy=0.5))
    progress.end("0", "finished")
    assert len(progress._console.render_lines(progress.render())) <= 20
