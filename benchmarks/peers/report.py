"""From runs to the table: medians with their range, and ratios to the floor, pass by pass."""

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from measure import Measured
from tools import is_taught

REFERENCE = "floor"


@dataclass(frozen=True)
class Run:
    """What one tool made of one workload."""

    workload: str
    tool: str
    rounds: int  # that the workload has; fewer may have been run
    measured: Measured

    @property
    def per_round(self) -> float:
        """Seconds from the end of one round to the end of the next, the median; NaN where one round was run."""
        ends = self.measured.ends
        between = [later - earlier for earlier, later in itertools.pairwise(ends)]
        return statistics.median(between) if between else math.nan

    @property
    def around(self) -> float:
        """Seconds of the command that are not rounds: start-up, what makes the first round longer, exit."""
        return self.measured.wall - len(self.measured.ends) * self.per_round

    @property
    def whole(self) -> float:
        """Seconds of the command; where fewer rounds were run, with the missing ones added."""
        missing = self.rounds - len(self.measured.ends)
        return self.measured.wall + (missing * self.per_round if missing else 0)

    @property
    def megabytes(self) -> float:
        return self.measured.peak_pss / 1e6


HEADER = (
    "tool", "runs", "whole command, s", "s/round", "start-up and exit, s", "CPU, s", "peak PSS, MB",
    "last accuracy", "last loss", "curves differ by", "others, cores",
)  # fmt: skip


def table(runs: Sequence[Run]) -> str:
    """Markdown: a row for each tool of one workload."""
    tools = list(dict.fromkeys(run.tool for run in runs))
    of = {tool: [number for number, run in enumerate(runs) if run.tool == tool] for tool in tools}
    beside = floors(runs)
    rows = [HEADER, ["---"] * len(HEADER)]
    for tool, numbers in of.items():
        theirs = runs[of[like(tool, tools)][0]]
        rows.append(row([runs[n] for n in numbers], [beside[n] for n in numbers] if beside else [], theirs))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def floors(runs: Sequence[Run]) -> list[Run]:
    """For each run, the floor's of its pass: the last one before it, or else the first; none where there is none."""
    found = [run for run in runs if run.tool == REFERENCE]
    passed = itertools.accumulate(run.tool == REFERENCE for run in runs)
    return [found[max(number, 1) - 1] for number in passed] if found else []


def like(tool: str, tools: Sequence[str]) -> str:
    """Whose curve a tool's is compared with: the first one that has its objective, the floor where it can be."""
    same = [other for other in tools if is_taught(other) == is_taught(tool)]
    return REFERENCE if REFERENCE in same else same[0]


def row(runs: Sequence[Run], floor: Sequence[Run], like: Run) -> list[str]:
    """Of one tool, beside the floor's runs and one with the curve that its own must follow."""
    projected = " (projected)" if any(len(run.measured.ends) < run.rounds for run in runs) else ""
    return [
        runs[0].tool,
        str(len(runs)),
        spread(runs, floor, lambda run: run.whole) + projected,
        spread(runs, floor, lambda run: run.per_round),
        spread(runs, (), lambda run: run.around),
        spread(runs, floor, lambda run: run.measured.cpu),
        spread(runs, floor, lambda run: run.megabytes),
        spread(runs, (), lambda run: run.measured.accuracy[-1]),
        spread(runs, (), lambda run: run.measured.loss[-1]),
        differences(runs[0], like),
        spread(runs, (), lambda run: run.measured.others),
    ]


def spread(runs: Sequence[Run], floor: Sequence[Run], value: Callable[[Run], float]) -> str:
    """`9.31 [9.25-9.40] x1.02 [1.01-1.03]`: the median and range, and those of the ratios to the floor's same pass."""
    ratios = [value(run) / value(base) for run, base in zip(runs, floor, strict=bool(floor))]
    return _spread([value(run) for run in runs]) + (f" x{_spread(ratios)}" if ratios else "")


def _spread(values: Sequence[float]) -> str:
    middle, low, high = (f"{each:.4g}" for each in (statistics.median(values), min(values), max(values)))
    return middle if low == high else f"{middle} [{low}-{high}]"


def differences(run: Run, other: Run) -> str:
    """How far two curves are apart where they are farthest: nats of loss, and points of accuracy."""
    mine, theirs = run.measured, other.measured
    loss, accuracy = farthest(mine.loss, theirs.loss), farthest(mine.accuracy, theirs.accuracy)
    return f"{loss:.4f}, {100 * accuracy:.2f} ({other.tool})"


def farthest(one: Sequence[float], other: Sequence[float]) -> float:
    """NaN stands for what a tool does not say."""
    apart = [abs(a - b) for a, b in zip(one, other, strict=False)]
    return max((each for each in apart if not math.isnan(each)), default=math.nan)
