"""The axes of a space: which values each field takes, in which combinations.

strategy.lam: {grid: [0, 0.5, 1]}             every value, with every value of the other axes
proxy.name: {zip: [cnn, resnet18]}            all axes that are zipped advance together
partition.alpha: {loguniform: [0.01, 1]}      drawn `samples` times; also uniform, randint and choice
strategy.mu: {grid: [0.01, 0.1], when: {strategy.name: fedprox}}    only if another field has this value
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from fedray.errors import SpecError, nearest
from fedray.seeding import numpy_rng

Assignment: TypeAlias = dict[str, Any]
"""One value for each active axis, by field."""
Draw: TypeAlias = Callable[[np.random.Generator, Sequence[Any]], Any]

DRAWS: Mapping[str, Draw] = {
    "choice": lambda rng, values: values[int(rng.integers(len(values)))],
    "uniform": lambda rng, bounds: float(rng.uniform(*bounds)),
    "loguniform": lambda rng, bounds: float(math.exp(rng.uniform(math.log(bounds[0]), math.log(bounds[1])))),
    "randint": lambda rng, bounds: int(rng.integers(bounds[0], bounds[1] + 1)),
}
"""Functions that draw a value, by kind of axis; bounds are included."""
AXIS_KINDS = ("grid", "zip", *DRAWS)


@dataclass(frozen=True)
class Axis:
    """One field and the values that it takes."""

    field: str
    kind: str
    values: Sequence[Any]
    """Its values; for uniform, loguniform and randint the two bounds."""
    when: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Values, or lists of values, that other fields must have for the axis to be active."""

    def draw(self, seed: int, sample: int) -> Any:
        """Returns a random value that depends on (seed, field, sample) alone, not on other axes."""
        return DRAWS[self.kind](numpy_rng(seed, "space", self.field, sample), self.values)

    def accepts(self, value: Any) -> bool:
        """Whether the axis can take this value."""
        if self.kind in DRAWS and self.kind != "choice":
            return isinstance(value, int | float) and bool(self.values[0] <= value <= self.values[1])
        return value in self.values


def parse_axes(space: Any, source: str) -> list[Axis]:
    """Parse the `space` section of a file. Raises SpecError that starts with `source`."""
    if not isinstance(space, dict):
        raise SpecError(f"{source}: space must map fields to axes, such as 'strategy.lam: {{grid: [0, 0.5, 1]}}'.")
    axes = [_axis(str(name), axis, source) for name, axis in space.items()]
    lengths = {axis.field: len(axis.values) for axis in axes if axis.kind == "zip"}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{field} has {length}" for field, length in lengths.items())
        raise SpecError(f"{source}: zipped axes advance together and must be equally long, but {counts} values.")
    return axes


def combinations(axes: Sequence[Axis], samples: int, seed: int) -> list[Assignment]:
    """Returns every combination, the last axis varying fastest, once for each of `samples` random draws.

    A draw has the same values in every combination, so that two trials of a draw differ by the grid alone. Raising
    `samples` does not change the earlier draws.
    """
    grids = [[{axis.field: value} for value in axis.values] for axis in axes if axis.kind == "grid"]
    zipped = [axis for axis in axes if axis.kind == "zip"]
    if zipped:
        rows = zip(*(axis.values for axis in zipped), strict=True)
        grids.append([dict(zip((axis.field for axis in zipped), row, strict=True)) for row in rows])
    random = [axis for axis in axes if axis.kind in DRAWS]
    draws = [{axis.field: axis.draw(seed, sample) for axis in random} for sample in range(samples if random else 1)]
    merged = [_merged(parts) for parts in itertools.product(draws, *grids)]
    return [{axis.field: assignment[axis.field] for axis in axes} for assignment in merged]


def random_points(axes: Sequence[Axis], samples: int, seed: int) -> list[Assignment]:
    """Returns `samples` points with all axes drawn from their values or bounds; zipped axes are drawn together."""
    return [{axis.field: _draw(axis, seed, sample) for axis in axes} for sample in range(samples)]


def zip_row(axes: Sequence[Axis], assignment: Assignment) -> int | None:
    """Returns the first row of the zipped axes that agrees with the assignment, or None."""
    zipped = [axis for axis in axes if axis.kind == "zip"]
    for number, row in enumerate(zip(*(axis.values for axis in zipped), strict=True)):
        if all(assignment.get(axis.field, value) == value for axis, value in zip(zipped, row, strict=True)):
            return number
    return None


def contains(axes: Sequence[Axis], assignment: Assignment) -> bool:
    """Whether an assignment is a point of the space."""
    if not all(axis.accepts(assignment[axis.field]) for axis in axes if axis.field in assignment):
        return False
    return all(axis.kind != "zip" for axis in axes) or zip_row(axes, assignment) is not None


def active(assignment: Assignment, axes: Sequence[Axis], lookup: Callable[[str], Any]) -> Assignment:
    """Returns the assignment without axes whose `when` does not hold; `lookup` returns the base's value of a field."""
    conditions = {axis.field: axis.when for axis in axes}
    fields = {field: value for field, value in assignment.items() if not conditions[field]}
    for field, value in assignment.items():
        when = conditions[field]
        if when and all(_value_of(other, fields, lookup) in _as_list(allowed) for other, allowed in when.items()):
            fields[field] = value
    return {field: fields[field] for field in assignment if field in fields}


def _value_of(field: str, fields: Assignment, lookup: Callable[[str], Any]) -> Any:
    """Returns a field's value in the assignment, possibly within a whole section, or else in the base."""
    if field in fields:
        return fields[field]
    sections = [name for name, value in fields.items() if field.startswith(f"{name}.") and isinstance(value, Mapping)]
    if not sections:
        return lookup(field)
    value: Any = fields[sections[0]]
    for part in field.removeprefix(f"{sections[0]}.").split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _axis(name: str, axis: Any, source: str) -> Axis:
    kinds = [key for key in axis if key != "when"] if isinstance(axis, dict) else []
    if len(kinds) != 1 or kinds[0] not in AXIS_KINDS:
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
    if kinds[0] in DRAWS and kinds[0] != "choice":
        _check_bounds(name, kinds[0], values, source)
    if not isinstance(when, dict):
        raise SpecError(f"{source}: 'when' of the axis {name} must map fields to values, not {when!r}.")
    return Axis(name, kinds[0], values, when)


def _check_bounds(name: str, kind: str, bounds: Sequence[Any], source: str) -> None:
    numbers = len(bounds) == 2 and all(isinstance(b, int | float) and not isinstance(b, bool) for b in bounds)
    if not numbers or not bounds[0] < bounds[1]:
        raise SpecError(f"{source}: {kind} of the axis {name} must be [lowest, highest], not {bounds}.")
    if kind == "loguniform" and bounds[0] <= 0:
        raise SpecError(f"{source}: loguniform of the axis {name} must start above 0, not at {bounds[0]}.")
    if kind == "randint" and not all(isinstance(bound, int) for bound in bounds):
        raise SpecError(f"{source}: randint of the axis {name} must have whole numbers, not {bounds}.")


def _draw(axis: Axis, seed: int, sample: int) -> Any:
    if axis.kind == "zip":
        return axis.values[int(numpy_rng(seed, "space", "zip", sample).integers(len(axis.values)))]
    kind = "choice" if axis.kind == "grid" else axis.kind
    return dataclasses.replace(axis, kind=kind).draw(seed, sample)


def _merged(parts: Sequence[Assignment]) -> Assignment:
    return {name: value for part in parts for name, value in part.items()}


def _as_list(allowed: Any) -> list[Any]:
    return allowed if isinstance(allowed, list) else [allowed]
