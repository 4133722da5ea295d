"""The table of runs: medians with their range, and ratios to the floor of the same pass."""

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from measure import Measured
from tools import has_teacher

REFERENCE = "floor"


@dataclass(frozen=True)
class Run:
    """One run of a workload with a tool."""

    workload: str
    tool: str
    rounds: int  # of the workload; the run may have had fewer
    measured: Measured

    @property
    def per_round(self) -> float:
        """Median seconds from the end of a round to the end of the next; NaN after a single round."""
        ends = self.measured.ends
        between = [later - earlier for earlier, later in itertools.pairwise(ends)]
        return statistics.median(between) if between else math.nan

    @property
    def around(self) -> float:
        """Seconds of the command outside its rounds: start-up, the excess of the first round, exit."""
        return self.measured.wall - len(self.measured.ends) * self.per_round

    @property
    def whole(self) -> float:
        """Seconds of the command, with missing rounds added at the median's pace."""
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
    """Return a Markdown table with a row per tool."""
    tools = list(dict.fromkeys(run.tool for run in runs))
    indices = {tool: [number for number, run in enumerate(runs) if run.tool == tool] for tool in tools}
    bases = floors(runs)
    rows = [HEADER, ["---"] * len(HEADER)]
    for tool, numbers in indices.items():
        reference = runs[indices[curve_reference(tool, tools)][0]]
        rows.append(row([runs[n] for n in numbers], [bases[n] for n in numbers] if bases else [], reference))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def floors(runs: Sequence[Run]) -> list[Run]:
    """Return the floor's run of the same pass for each run: the last one before it, else the first; [] without any."""
    references = [run for run in runs if run.tool == REFERENCE]
    passed = itertools.accumulate(run.tool == REFERENCE for run in runs)
    return [references[max(number, 1) - 1] for number in passed] if references else []


def curve_reference(tool: str, tools: Sequence[str]) -> str:
    """Return the tool with the curve to compare with: the floor, or the first tool with the same objective."""
    same = [other for other in tools if has_teacher(other) == has_teacher(tool)]
    return REFERENCE if REFERENCE in same else same[0]


def row(runs: Sequence[Run], floor: Sequence[Run], reference: Run) -> list[str]:
    """Return the cells of one tool, with ratios to the floor's runs and the distance to the reference's curve."""
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
        differences(runs[0], reference),
        spread(runs, (), lambda run: run.measured.others),
    ]


def spread(runs: Sequence[Run], floor: Sequence[Run], value: Callable[[Run], float]) -> str:
    """Return `9.31 [9.25-9.40] x1.02 [1.01-1.03]`: median and range, then those of the ratios to the floor."""
    ratios = [value(run) / value(base) for run, base in zip(runs, floor, strict=bool(floor))]
    return _spread([value(run) for run in runs]) + (f" x{_spread(ratios)}" if ratios else "")


def _spread(values: Sequence[float]) -> str:
    middle, low, high = (f"{value:.4g}" for value in (statistics.median(values), min(values), max(values)))
    return middle if low == high else f"{middle} [{low}-{high}]"


def differences(run: Run, other: Run) -> str:
    """Return the largest distance between two curves: nats of loss, and percentage points of accuracy."""
    left, right = run.measured, other.measured
    loss, accuracy = max_distance(left.loss, right.loss), max_distance(left.accuracy, right.accuracy)
    return f"{loss:.4f}, {100 * accuracy:.2f} ({other.tool})"


def max_distance(left: Sequence[float], right: Sequence[float]) -> float:
    """Return the largest distance; NaN marks values that a tool does not report."""
    distances = [abs(a - b) for a, b in zip(left, right, strict=False)]
    return max((distance for distance in distances if not math.isnan(distance)), default=math.nan)
