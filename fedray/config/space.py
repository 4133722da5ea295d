"""The axes of a space: which values each field takes, in which combinations.

strategy.lam: {grid: [0, 0.5, 1]}             every value, with every value of the other axes
proxy.name: {zip: [cnn, resnet18]}            all axes that are zipped advance together
partition.alpha: {loguniform: [0.01, 1]}      drawn `samples` times; also uniform, randint and choice
strategy.mu: {grid: [0.01, 0.1], when: {strategy.name: fedprox}}    only if another field has this value
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from fedray.config.values import same_value
from fedray.errors import SpecError, nearest
from fedray.seeding import numpy_rng

Assignment: TypeAlias = dict[str, object]
"""One value for each active axis, by field."""
Draw: TypeAlias = Callable[[np.random.Generator, float, float], float]

RANGES: Mapping[str, Draw] = {
    "uniform": lambda rng, low, high: float(rng.uniform(low, high)),
    "loguniform": lambda rng, low, high: float(math.exp(rng.uniform(math.log(low), math.log(high)))),
    "randint": lambda rng, low, high: int(rng.integers(int(low), int(high) + 1)),
}
"""Functions that draw a number between two bounds, which are included, by kind of axis."""
MAX_TRIALS = 100_000
"""Combinations of the values of a space, equal ones counted each time."""
RANDOM_KINDS = ("choice", *RANGES)
AXIS_KINDS = ("grid", "zip", *RANDOM_KINDS)


@dataclass(frozen=True)
class Axis:
    """One field and the values that it takes."""

    field: str
    kind: str
    values: Sequence[object]
    """Its values; for uniform, loguniform and randint the two bounds."""
    when: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """Values, or lists of values, that other fields must have for the axis to be active."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of an axis with a range."""
        low, high = self.values
        assert isinstance(low, int | float), "parse_axes checks the bounds"
        assert isinstance(high, int | float), "parse_axes checks the bounds"
        return low, high

    def draw(self, seed: int, sample: int) -> object:
        """Return a random value that depends on (seed, field, sample) alone, not on other axes."""
        rng = numpy_rng(seed, "space", self.field, sample)
        return RANGES[self.kind](rng, *self.bounds) if self.kind in RANGES else _choose(rng, self.values)

    def accepts(self, value: object) -> bool:
        """Whether the axis can take this value."""
        if self.kind in RANGES:
            low, high = self.bounds
            return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        return any(same_value(value, own) for own in self.values)


def parse_axes(space: object, source: str) -> list[Axis]:
    """Parse the `space` section of a file. Raises SpecError that starts with `source`."""
    if not isinstance(space, dict):
        raise SpecError(f"{source}: space must map fields to axes, such as 'strategy.lam: {{grid: [0, 0.5, 1]}}'.")
    axes = [_axis(str(name), axis, source) for name, axis in space.items()]
    lengths = {axis.field: len(axis.values) for axis in axes if axis.kind == "zip"}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{field} has {length}" for field, length in lengths.items())
        raise SpecError(f"{source}: zipped axes advance together and must be equally long, but {counts} values.")
    _check_overlaps({axis.field for axis in axes}, source)
    return axes


def check_count(axes: Sequence[Axis], samples: int, source: str) -> None:
    """Raise SpecError if the axes have more than MAX_TRIALS combinations."""
    zipped = [len(axis.values) for axis in axes if axis.kind == "zip"][:1]
    draws = [samples] if any(axis.kind in RANDOM_KINDS for axis in axes) else []
    count = 1
    for factor in (*(len(axis.values) for axis in axes if axis.kind == "grid"), *zipped, *draws):
        count *= factor
        if count > MAX_TRIALS:  # stops early: the full product may have thousands of digits
            raise SpecError(
                f"{source}: the space has more than {MAX_TRIALS:,} combinations, the most that a study may have."
            )


def combinations(axes: Sequence[Axis], samples: int, seed: int) -> list[Assignment]:
    """Return every combination, the last axis varying fastest, once for each of `samples` random draws.

    A draw has the same values in every combination, so that two trials of a draw differ by the grid alone. Raising
    `samples` does not change the earlier draws.
    """
    grids = [[{axis.field: value} for value in axis.values] for axis in axes if axis.kind == "grid"]
    zipped = [axis for axis in axes if axis.kind == "zip"]
    if zipped:
        rows = zip(*(axis.values for axis in zipped), strict=True)
        grids.append([dict(zip((axis.field for axis in zipped), row, strict=True)) for row in rows])
    random = [axis for axis in axes if axis.kind in RANDOM_KINDS]
    draws = [{axis.field: axis.draw(seed, sample) for axis in random} for sample in range(samples if random else 1)]
    merged = [_merged(parts) for parts in itertools.product(draws, *grids)]
    return [{axis.field: assignment[axis.field] for axis in axes} for assignment in merged]


def random_points(axes: Sequence[Axis], samples: int, seed: int) -> list[Assignment]:
    """Return `samples` points with all axes drawn from their values or bounds; zipped axes are drawn together."""
    return [{axis.field: _draw(axis, seed, sample) for axis in axes} for sample in range(samples)]


def zip_row(axes: Sequence[Axis], assignment: Assignment) -> int | None:
    """Return the first row of the zipped axes that agrees with the assignment, or None."""
    zipped = [axis for axis in axes if axis.kind == "zip"]
    for number, row in enumerate(zip(*(axis.values for axis in zipped), strict=True)):
        if all(same_value(assignment.get(axis.field, value), value) for axis, value in zip(zipped, row, strict=True)):
            return number
    return None


def contains(axes: Sequence[Axis], assignment: Assignment) -> bool:
    """Whether an assignment is a point of the space."""
    if not all(axis.accepts(assignment[axis.field]) for axis in axes if axis.field in assignment):
        return False
    return all(axis.kind != "zip" for axis in axes) or zip_row(axes, assignment) is not None


def _check_overlaps(fields: Set[str], source: str) -> None:
    """Raise SpecError if an axis varies a section and another one a field of it."""
    for field in sorted(fields):
        for end in [index for index, character in enumerate(field) if character == "."]:
            if field[:end] in fields:
                raise SpecError(
                    f"{source}: the axes {field[:end]} and {field} overlap; vary the whole section, or only its fields."
                )


def _axis(name: str, axis: object, source: str) -> Axis:
    kinds = [key for key in axis if key != "when"] if isinstance(axis, dict) else []
    if not isinstance(axis, dict) or len(kinds) != 1 or kinds[0] not in AXIS_KINDS:
        hint = nearest(str(kinds[0]), AXIS_KINDS) if len(kinds) == 1 else "."
        raise SpecError(
            f"{source}: the axis {name} must be written {{grid: [value, ...]}}, "
            f"or with one of {', '.join(AXIS_KINDS[1:])} instead of grid{hint}"
        )
    values, when = axis[kinds[0]], axis.get("when", {})
    if not isinstance(values, list) or not values:
        raise SpecError(
            f"{source}: the axis {name} must be written {{{kinds[0]}: [value, ...]}} with at least one value."
        )
    if kinds[0] in RANGES:
        values = _checked_bounds(name, kinds[0], values, source)
    if not isinstance(when, dict):
        raise SpecError(f"{source}: 'when' of the axis {name} must map fields to values, not {when!r}.")
    return Axis(name, kinds[0], values, {str(field): allowed for field, allowed in when.items()})


def _checked_bounds(name: str, kind: str, bounds: Sequence[object], source: str) -> list[int | float]:
    """Return the bounds of a range, whole floats as int for randint. Raises SpecError for bounds without draws."""
    start = f"{source}: {kind} of the axis {name} must"
    numbers = [bound for bound in bounds if isinstance(bound, int | float) and not isinstance(bound, bool)]
    if len(bounds) != 2 or len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise SpecError(f"{start} be [lowest, highest], not {bounds!r:.80}.")
    if not all(math.isfinite(number) for number in (*numbers, float(numbers[1]) - float(numbers[0]))):
        raise SpecError(f"{start} have finite bounds and a finite width, not {bounds!r:.80}.")
    if kind == "loguniform" and numbers[0] <= 0:
        raise SpecError(f"{start} start above 0, not at {numbers[0]}.")
    if kind != "randint":
        return numbers
    if any(number != int(number) for number in numbers):
        raise SpecError(f"{start} have whole numbers, not {bounds!r:.80}.")
    if not -(2**63) <= numbers[0] < numbers[1] < 2**63:
        raise SpecError(f"{start} have bounds from -2^63 to 2^63 - 1, not {bounds!r:.80}.")
    return [int(number) for number in numbers]


def _draw(axis: Axis, seed: int, sample: int) -> object:
    if axis.kind == "zip":
        return _choose(numpy_rng(seed, "space", "zip", sample), axis.values)
    kind = "choice" if axis.kind == "grid" else axis.kind
    return dataclasses.replace(axis, kind=kind).draw(seed, sample)


def _choose(rng: np.random.Generator, values: Sequence[object]) -> object:
    return values[int(rng.integers(len(values)))]


def _merged(parts: Sequence[Assignment]) -> Assignment:
    return {name: value for part in parts for name, value in part.items()}
