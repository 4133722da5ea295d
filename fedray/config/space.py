"""The axes of a space: which values each field takes, and in which combinations.

strategy.lam: {grid: [0, 0.5, 1]}             every value, with every value of the other axes
proxy.name: {zip: [cnn, resnet18]}            all axes that are zipped advance together
partition.alpha: {loguniform: [0.01, 1]}      drawn `samples` times; also uniform, randint, choice
strategy.mu: {grid: [0.01, 0.1], when: {strategy.name: fedprox}}    only where another field is so
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
"""One value for each axis that applies, by its field."""
Draw: TypeAlias = Callable[[np.random.Generator, Sequence[Any]], Any]

DRAWS: Mapping[str, Draw] = {
    "choice": lambda rng, values: values[int(rng.integers(len(values)))],
    "uniform": lambda rng, bounds: float(rng.uniform(*bounds)),
    "loguniform": lambda rng, bounds: float(math.exp(rng.uniform(math.log(bounds[0]), math.log(bounds[1])))),
    "randint": lambda rng, bounds: int(rng.integers(bounds[0], bounds[1] + 1)),
}
"""Ways to draw a value. Bounds are included."""
KINDS = ("grid", "zip", *DRAWS)


@dataclass(frozen=True)
class Axis:
    """One field, and where its values come from."""

    field: str
    kind: str
    values: Sequence[Any]  # or the two bounds
    when: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # fields and the values they must have

    def draw(self, seed: int, sample: int) -> Any:
        """The same for (seed, field, sample), whatever the other axes are."""
        return DRAWS[self.kind](numpy_rng(seed, "space", self.field, sample), self.values)

    def holds(self, value: Any) -> bool:
        """Whether it may have this value."""
        if self.kind in DRAWS and self.kind != "choice":
            return isinstance(value, int | float) and bool(self.values[0] <= value <= self.values[1])
        return value in self.values


def parse(space: Any, where: str) -> list[Axis]:
    """The axes as a file has them. Raises SpecError that begins with `where`."""
    if not isinstance(space, dict):
        raise SpecError(f"{where}: space must map fields to axes, such as 'strategy.lam: {{grid: [0, 0.5, 1]}}'.")
    axes = [_axis(str(name), axis, where) for name, axis in space.items()]
    lengths = {axis.field: len(axis.values) for axis in axes if axis.kind == "zip"}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise SpecError(f"{where}: zipped axes advance together and must be equally long, but {shown} values.")
    return axes


def combinations(axes: Sequence[Axis], samples: int, seed: int) -> list[Assignment]:
    """Every combination, the last axis running fastest; and each of them for each sample that is drawn.

    A sample's values are the same in every combination, so that what differs between two trials is
    what the grid says; and more samples leave the first ones as they are.
    """
    grids = [[{axis.field: value} for value in axis.values] for axis in axes if axis.kind == "grid"]
    zipped = [axis for axis in axes if axis.kind == "zip"]
    if zipped:
        rows = zip(*(axis.values for axis in zipped), strict=True)
        grids.append([dict(zip((axis.field for axis in zipped), row, strict=True)) for row in rows])
    random = [axis for axis in axes if axis.kind in DRAWS]
    draws = [{axis.field: axis.draw(seed, sample) for axis in random} for sample in range(samples if random else 1)]
    merged = [_merged(parts) for parts in itertools.product(draws, *grids)]
    return [{axis.field: choice[axis.field] for axis in axes} for choice in merged]


def drawn(axes: Sequence[Axis], samples: int, seed: int) -> list[Assignment]:
    """So many points, every axis drawn: from its values, or between its bounds. Zipped axes are drawn together."""
    return [{axis.field: _drawn_of(axis, seed, sample) for axis in axes} for sample in range(samples)]


def zip_row(axes: Sequence[Axis], choice: Assignment) -> int | None:
    """Which row of the zipped axes a choice has, as far as they apply; None where it has none."""
    zipped = [axis for axis in axes if axis.kind == "zip"]
    for number, row in enumerate(zip(*(axis.values for axis in zipped), strict=True)):
        if all(choice.get(axis.field, value) == value for axis, value in zip(zipped, row, strict=True)):
            return number
    return None


def contains(axes: Sequence[Axis], choice: Assignment) -> bool:
    """Whether a choice is a point of the space."""
    each = all(axis.holds(choice[axis.field]) for axis in axes if axis.field in choice)
    return each and (all(axis.kind != "zip" for axis in axes) or zip_row(axes, choice) is not None)


def active(choice: Assignment, axes: Sequence[Axis], lookup: Callable[[str], Any]) -> Assignment:
    """The choice without the axes whose `when` does not hold; `lookup` gives the base's value of a field."""
    conditions = {axis.field: axis.when for axis in axes}
    kept = {name: value for name, value in choice.items() if not conditions[name]}
    for name, value in choice.items():
        wanted = conditions[name]
        if wanted and all(_value_of(other, kept, lookup) in _listed(allowed) for other, allowed in wanted.items()):
            kept[name] = value
    return {name: kept[name] for name in choice if name in kept}


def _value_of(field: str, kept: Assignment, lookup: Callable[[str], Any]) -> Any:
    """What the axes say of a field, by itself or within a whole section, or else the base."""
    if field in kept:
        return kept[field]
    sections = [name for name, value in kept.items() if field.startswith(f"{name}.") and isinstance(value, Mapping)]
    if not sections:
        return lookup(field)
    value: Any = kept[sections[0]]
    for part in field.removeprefix(f"{sections[0]}.").split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _axis(name: str, axis: Any, where: str) -> Axis:
    kinds = [key for key in axis if key != "when"] if isinstance(axis, dict) else []
    if len(kinds) != 1 or kinds[0] not in KINDS:
        close = nearest(str(kinds[0]), KINDS) if len(kinds) == 1 else "."
        raise SpecError(
            f"{where}: the axis {name} must be written {{grid: [value, ...]}}, "
            f"or with one of {', '.join(KINDS[1:])} in grid's place{close}"
        )
    values, when = axis[kinds[0]], axis.get("when", {})
    if not isinstance(values, list) or not values:
        raise SpecError(
            f"{where}: the axis {name} must be written {{{kinds[0]}: [value, ...]}} with at least one value."
        )
    if kinds[0] in DRAWS and kinds[0] != "choice":
        _check_bounds(name, kinds[0], values, where)
    if not isinstance(when, dict):
        raise SpecError(f"{where}: 'when' of the axis {name} must map fields to values, not {when!r}.")
    return Axis(name, kinds[0], values, when)


def _check_bounds(name: str, kind: str, bounds: Sequence[Any], where: str) -> None:
    numbers = len(bounds) == 2 and all(isinstance(b, int | float) and not isinstance(b, bool) for b in bounds)
    if not numbers or not bounds[0] < bounds[1]:
        raise SpecError(f"{where}: {kind} of the axis {name} must be [lowest, highest], not {bounds}.")
    if kind == "loguniform" and bounds[0] <= 0:
        raise SpecError(f"{where}: loguniform of the axis {name} must begin above 0, not at {bounds[0]}.")
    if kind == "randint" and not all(isinstance(bound, int) for bound in bounds):
        raise SpecError(f"{where}: randint of the axis {name} must have whole numbers, not {bounds}.")


def _drawn_of(axis: Axis, seed: int, sample: int) -> Any:
    if axis.kind == "zip":
        return axis.values[int(numpy_rng(seed, "space", "zip", sample).integers(len(axis.values)))]
    kind = "choice" if axis.kind == "grid" else axis.kind
    return dataclasses.replace(axis, kind=kind).draw(seed, sample)


def _merged(parts: Sequence[Assignment]) -> Assignment:
    return {name: value for part in parts for name, value in part.items()}


def _listed(allowed: Any) -> list[Any]:
    return allowed if isinstance(allowed, list) else [allowed]
