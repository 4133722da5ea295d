"""Command-line overrides: `section.key=value` sets a field of a spec or fixes an axis of a space."""

import re
from collections.abc import Iterable, Mapping, Sequence

from fedray.config.fields import fields_of
from fedray.config.space import Axis
from fedray.config.yaml_files import Tree
from fedray.config.yaml_loader import parse_yaml
from fedray.errors import SpecError
from fedray.section import CHOOSERS


def parse_overrides(texts: Sequence[str]) -> Tree:
    """Return the values by dotted field. Raises SpecError for a text that is not `section.key=value`."""
    values: Tree = {}
    for field, value in map(_parse_override, texts):
        if field in values:
            raise SpecError(f"'{field}' is set twice, to {values[field]!r:.60} and to {value!r:.60}.")
        values[field] = value
    return values


def set_fields(tree: Tree, values: Mapping[str, object]) -> Tree:
    """Return a copy of the tree with dotted fields set.

    Setting another `name` or `kind` changes the type of a section: fields that the new type lacks are removed from it.
    The order of `values` does not matter: whole sections are set before their fields, and types before other fields.
    """
    copy = {key: dict(value) if isinstance(value, dict) else value for key, value in tree.items()}
    for dotted in sorted(values, key=lambda field: (field.count("."), field.split(".")[-1] not in CHOOSERS)):
        value = values[dotted]
        *sections, key = dotted.split(".")
        section = _section_at(copy, sections, dotted)
        if key in CHOOSERS and section.get(key) != value:
            _keep_fields(section, fields_of(sections, key, value))
        section[key] = value
    return copy


def fix_axes(axes: Sequence[Axis], values: Mapping[str, object]) -> list[Axis]:
    """Return the axes, those with an overridden field reduced to its value.

    Raises SpecError for a field inside a section that an axis replaces as a whole.
    """
    for field in values:
        for axis in axes:
            if field.startswith(f"{axis.field}."):
                raise SpecError(
                    f"'{field}' cannot be set: the space varies the whole of {axis.field}; "
                    f"write {axis.field}={{...}} to fix it, or change the file."
                )
    return [Axis(axis.field, "grid", [values[axis.field]]) if axis.field in values else axis for axis in axes]


def _parse_override(text: str) -> tuple[str, object]:
    field, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", field):
        raise SpecError(f"'{text}' is not an override; write section.key=value, such as strategy.lam=0.3.")
    try:
        return field, parse_yaml(value)
    except SpecError as error:
        raise SpecError(f"the value of '{text:.80}' cannot be used: {error}") from None


def _section_at(tree: Tree, sections: Sequence[str], dotted: str) -> Tree:
    """Return the section at a path; it and its parents become copies, or empty sections if missing."""
    section = tree
    for depth, name in enumerate(sections, 1):
        inner = section.get(name)
        if inner is not None and not isinstance(inner, dict):
            raise SpecError(f"{'.'.join(sections[:depth])} is {inner!r}, so '{dotted}' cannot be set in it.")
        section[name] = dict(inner or {})
        section = section[name]
    return section


def _keep_fields(section: Tree, known: Iterable[str] | None) -> None:
    """Delete the fields that are not known, in place; None keeps all."""
    for field in section.keys() - set(known or section):
        del section[field]
