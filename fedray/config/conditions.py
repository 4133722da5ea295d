"""Conditions of axes: with which values of other fields an axis is active.

A condition compares with the resolved experiment: a field that the file leaves out has its default.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import TypeAlias

from fedray.config.fields import accepts, field_value, unknown_field_hint
from fedray.config.overrides import set_fields
from fedray.config.space import Assignment, Axis
from fedray.config.values import includes
from fedray.config.yaml_files import Tree
from fedray.errors import SpecError
from fedray.section import CHOOSERS

Lookup: TypeAlias = Callable[[Assignment, str], object]
"""Return the value of a field in the experiment with these values of the axes."""


def resolved_in(base: Tree) -> Lookup:
    """Return the lookup of fields in a base experiment."""
    return lambda assignment, field: field_value(set_fields(base, assignment), field)


def active(assignment: Assignment, axes: Sequence[Axis], lookup: Lookup) -> Assignment:
    """Return the assignment without axes whose `when` does not hold, in its own order."""
    fields: Assignment = {}
    for axis in _in_order(axes) if any(axis.when for axis in axes) else axes:
        if axis.field in assignment and all(_holds(lookup(fields, other), axis.when[other]) for other in axis.when):
            fields[axis.field] = assignment[axis.field]
    return {field: fields[field] for field in assignment if field in fields}


def check_fields(axes: Sequence[Axis], source: str) -> None:
    """Raise SpecError if an axis names a field that does not exist, or has a `when` that cannot hold."""
    for axis in axes:
        _check_field(axis.field, f"{source}: ")
        for field, allowed in _fields_of(axis.when):
            _check_field(field, f"{source}: 'when' of the axis {axis.field} has an ")
            wrong = [] if accepts(field, allowed) else [one for one in _as_list(allowed) if not accepts(field, one)]
            if wrong or allowed == []:
                raise SpecError(
                    f"{source}: 'when' of the axis {axis.field} has {field}: {(wrong or [allowed])[0]!r:.60}, "
                    "a value that this field cannot have."
                )
    try:
        _in_order(axes)
    except CycleError as error:
        path = " -> ".join(error.args[1])
        raise SpecError(f"{source}: 'when' of these axes depends on itself: {path}.") from None


def _check_field(field: str, prefix: str) -> None:
    if (hint := unknown_field_hint(field)) is not None:
        raise SpecError(f"{prefix}unknown field '{field}'{hint}")


def _fields_of(when: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the fields of a condition with their allowed values, those inside sections by their dotted names."""
    for field, allowed in when.items():
        sections = [one for one in _as_list(allowed) if isinstance(one, Mapping)]
        for section in sections:
            yield from _fields_of(section, f"{prefix}{field}.")
        if not sections:
            yield f"{prefix}{field}", allowed


def _in_order(axes: Sequence[Axis]) -> list[Axis]:
    """Return the axes, each after those that its `when` depends on. Raises CycleError."""
    by_field = {axis.field: axis for axis in axes}
    sources = {
        axis.field: [other for other in by_field if any(_decides(other, field) for field, _ in _fields_of(axis.when))]
        for axis in axes
    }
    return [by_field[field] for field in TopologicalSorter(sources).static_order()]


def _decides(axis_field: str, field: str) -> bool:
    """Whether an axis can change a field: it sets it, a part of it, its section, or the type of its section."""
    section, _, key = axis_field.rpartition(".")
    in_typed_section = key in CHOOSERS and field.startswith(f"{section}.")
    return in_typed_section or f"{axis_field}.".startswith(f"{field}.") or f"{field}.".startswith(f"{axis_field}.")


def _holds(value: object, allowed: object) -> bool:
    """Whether a value is allowed, or one of a list of allowed values. A section may have further fields."""
    return includes(value, allowed) or any(includes(value, one) for one in _as_list(allowed))


def _as_list(allowed: object) -> Sequence[object]:
    return allowed if isinstance(allowed, list) else [allowed]
