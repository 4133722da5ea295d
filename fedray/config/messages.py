"""Turns a pydantic ValidationError into one sentence about the first invalid field of a spec."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from fedray.config.experiment import Experiment
from fedray.config.fields import Model, moved_field_hint, resolve
from fedray.errors import nearest
from fedray.section import CHOOSERS

MAX_VALUE_CHARACTERS = 60
"""Longer values are shortened in a message."""
REQUIREMENTS = {
    "tuple_type": "must be a list",
    "dict_type": "must map names to values",
    "path_type": "must be a path",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "model_type": "must be a section, such as {name: ...} or {kind: ...}",
    "model_attributes_type": "must be a section, such as {name: ...} or {kind: ...}",
}
"""Sentences for error types whose pydantic message names Python types."""
CHOICE_ERRORS = ("union_tag_invalid", "reference")
NAME_ERRORS = ("literal_error", "union_tag_invalid")
BOUND_ERRORS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")


@dataclass(frozen=True)
class _Problem:
    """One pydantic error, the path of its field in the YAML, and the sections that may hold the field."""

    error: ErrorDetails
    path: Sequence[str]
    holders: Sequence[Model]

    @property
    def known_fields(self) -> dict[str, FieldInfo]:
        """The fields of the section, by name."""
        return self.holders[0].model_fields if self.holders else {}

    @property
    def value(self) -> object:
        """The invalid value; for an unknown kind of section, its `name` or `kind`."""
        return self.error["ctx"]["tag"] if self.error["type"] in CHOICE_ERRORS else self.error["input"]

    @property
    def allowed_names(self) -> list[str]:
        """The valid values of a field that takes a name; empty for other fields."""
        if self.error["type"] not in NAME_ERRORS:
            return []
        context = self.error["ctx"]
        return re.findall(r"'([^']*)'", context.get("expected") or context["expected_tags"])

    @property
    def requirement(self) -> str:
        """The rule that the value breaks: `must be at least 1`."""
        kind = self.error["type"]
        if kind == "value_error":
            return str(self.error["ctx"]["error"])
        if kind == "reference":
            return str(self.error["ctx"]["reason"]).removesuffix(".")
        if kind in NAME_ERRORS:
            one_of = "one of " if len(self.allowed_names) > 1 else ""
            return f"must be {one_of}{', '.join(self.allowed_names)}"
        bounds = _bounds(self.known_fields.get(self.path[-1]))
        if kind in BOUND_ERRORS and bounds:
            return f"must be {bounds}"
        if kind == "too_short":
            least = self.error["ctx"]["min_length"]
            return f"must have at least {least} {'entry' if least == 1 else 'entries'}"
        return REQUIREMENTS.get(kind) or _reword(self.error["msg"])


def explain(error: ValidationError, root: Model = Experiment, prefix: Sequence[str] = ()) -> str:
    """Return a sentence about the first invalid field: its value, the broken rule and the nearest valid name.

    `root` is the section that was validated and `prefix` its path in the file.
    """
    problems = [_problem(details, root, prefix) for details in error.errors()]
    first = _most_specific(problems)
    field, known, kind = ".".join(first.path), first.known_fields, first.error["type"]
    if kind in ("extra_forbidden", "invalid_key"):
        if moved := moved_field_hint(field):
            return f"unknown field '{field}'{moved}"
        owner = f"'{'.'.join(first.path[:-1])}'" if first.path[:-1] else "an experiment"
        return f"unknown field '{field}'{nearest(first.path[-1], known)} ({owner} has {', '.join(known)})"
    if kind == "missing":
        return f"'{field}' is missing"
    if kind == "union_tag_not_found":
        chooser = str(first.error["ctx"]["discriminator"]).strip("'")
        return f"'{field}' must have a {chooser}"
    if not first.error["loc"] and kind == "value_error":  # of the whole experiment: the reason is a sentence of its own
        return first.requirement
    return _sentence(first, [problem for problem in problems if problem.path == first.path])


def _problem(details: ErrorDetails, root: Model, prefix: Sequence[str]) -> _Problem:
    path, holders = resolve(details["loc"], root)
    return _Problem(details, [*prefix, *path], holders)


def _most_specific(problems: Sequence[_Problem]) -> _Problem:
    """Return the first problem, or the innermost one of the first field if that is a list."""
    first = problems[0]
    if not isinstance(first.error["input"], list):
        return first
    inside = [problem for problem in problems if problem.path[: len(first.path)] == first.path]
    return max(inside, key=lambda problem: len(problem.path))


def _sentence(first: _Problem, same_field: Sequence[_Problem]) -> str:
    """Joins the requirements of all members of a union by `or`."""
    head, *others = dict.fromkeys(problem.requirement for problem in same_field)
    requirement = " or ".join([head, *(other.removeprefix("must be ") for other in others)])
    hint = nearest(str(first.value), [name for problem in same_field for name in problem.allowed_names])
    return f"{'.'.join(first.path)} is {_shorten(first.value)}, but {requirement}{hint}"


def _reword(message: str) -> str:
    """Replaces pydantic's wording: `Input should be greater than or equal to 1` -> `must be at least 1`."""
    return message.replace("Input should", "must").split(",")[0].replace("greater than or equal to", "at least")


def _bounds(field: FieldInfo | None) -> str:
    """Return all bounds of a field, such as `above 0 and at most 1`; empty without bounds."""
    texts = []
    for constraint in field.metadata if field else ():
        match constraint:
            case Ge(ge=bound):
                texts.append(f"at least {bound:g}")
            case Gt(gt=bound):
                texts.append(f"above {bound:g}")
            case Le(le=bound):
                texts.append(f"at most {bound:g}")
            case Lt(lt=bound):
                texts.append(f"below {bound:g}")
    return " and ".join(texts)


def _shorten(value: object) -> str:
    """Return the value as text; for a long section its `name` or `kind`."""
    text = "null" if value is None else repr(value)
    if len(text) <= MAX_VALUE_CHARACTERS:
        return text
    if isinstance(value, dict) and (names := [value[chooser] for chooser in CHOOSERS if chooser in value]):
        return repr(names[0])
    return f"{text[: MAX_VALUE_CHARACTERS - 3]}..."
