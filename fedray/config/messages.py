"""One clear sentence for the first thing that is wrong with a spec."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from types import UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from fedray.config.experiment import Experiment
from fedray.errors import nearest

Model: TypeAlias = type[BaseModel]
Walk: TypeAlias = Callable[[Sequence[str | int]], tuple[list[str], list[Model]]]

BOUNDS = {"ge": "at least {:g}", "gt": "above {:g}", "le": "at most {:g}", "lt": "below {:g}"}
FILES = ("file", "pretrained", "init", "model")
"""Fields that may name a file or folder, as `PATH`, `file:PATH` or `local-dir:PATH`."""
CHOOSERS = ("name", "kind")
"""The fields that say which of several sections is meant."""
KINDS = {
    "tuple_type": "must be a list",
    "dict_type": "must map names to values",
    "path_type": "must be a path",
    "model_type": "must be a section, such as {name: ...} or {kind: ...}",
    "model_attributes_type": "must be a section, such as {name: ...} or {kind: ...}",
}
"""Where pydantic's own words would speak of Python."""


def explain(error: ValidationError, root: Model = Experiment, name: str = "an experiment") -> str:
    """Names the field, its value, what is allowed and, for a name, the nearest valid one.

    `root` is the section that was read, `name` what to call it.
    """
    walk = partial(_walk, root=root)
    errors = error.errors()
    first = _most_telling(errors, walk)
    path, models = walk(first["loc"])
    field, known = ".".join(path), models[0].model_fields
    if first["type"] == "extra_forbidden":
        owner = f"'{'.'.join(path[:-1])}'" if path[:-1] else name
        return f"unknown field '{field}'{nearest(path[-1], known)} ({owner} has {', '.join(known)})"
    if first["type"] in ("missing", "union_tag_not_found"):
        return f"'{field}' is missing" if first["type"] == "missing" else f"'{field}' must say its {_chooser(first)}"
    same = [e for e in errors if walk(e["loc"])[0] == path]
    must, *others = dict.fromkeys(_allowed(e, known.get(path[-1])) for e in same)
    allowed = " or ".join([must, *(other.removeprefix("must be ") for other in others)])
    close = nearest(str(_given(first)), [choice for e in same for choice in _choices(e)])
    return f"{field} is {_shown(_given(first))}, but {allowed}{close}"


def fields_of(sections: Sequence[str], chooser: str, value: Any) -> list[str] | None:
    """The fields of the section at this path once its `name` or `kind` is `value`; None if unknown."""
    for model in _models_at(sections):
        info = model.model_fields.get(chooser)
        if info is not None and value in get_args(info.annotation):
            return list(model.model_fields)
    return None


def unknown(field: str) -> str | None:
    """What is wrong with the name of a field of an experiment, if anything: `; did you mean 'lam'?` or a full stop."""
    parts = field.split(".")
    for depth, part in enumerate(parts):
        around = _inside_path(parts[:depth])
        names = [name for model in _sections(around) for name in model.model_fields]
        if any(get_origin(annotation) is dict for annotation in around):
            return None
        if part not in names:
            return nearest(part, names) or "."
    return None


def _most_telling(errors: Sequence[ErrorDetails], walk: Walk) -> ErrorDetails:
    """The first; but where a list was given, what is wrong inside it says more than that it is no name."""
    first = errors[0]
    if not isinstance(first["input"], list):
        return first
    path = walk(first["loc"])[0]
    inside = [error for error in errors if walk(error["loc"])[0][: len(path)] == path]
    return max(inside, key=lambda error: len(walk(error["loc"])[0]))


def _walk(location: Sequence[str | int], root: Model) -> tuple[list[str], list[Model]]:
    """The path as the YAML has it, and the sections that may hold its last part.

    pydantic's own path also has a union's tag (`strategy.fedlpfm.lam`) or member.
    """
    path: list[str] = []
    holders: list[Model] = []
    here: list[Any] = [root]
    for part in location:
        models = _sections(here)
        chosen = [m for m in models if part in _tags(m)]
        inside = _inside(here, part)
        if len(models) > 1 and chosen:
            here = chosen
        elif models or inside or isinstance(part, int):
            path.append(str(part))
            holders = models or holders
            here = inside
    return path, holders


def _models_at(path: Sequence[str]) -> list[Model]:
    return _sections(_inside_path(path))


def _inside_path(path: Sequence[str]) -> list[Any]:
    here: list[Any] = [Experiment]
    for part in path:
        here = _inside(here, part)
    return here


def _inside(annotations: Sequence[Any], part: str | int) -> list[Any]:
    """What may stand at a section's field, a list's place or a mapping's key."""
    fields = [m.model_fields[str(part)].annotation for m in _sections(annotations) if part in m.model_fields]
    entries = [get_args(a)[0] for a in annotations if get_origin(a) is tuple and isinstance(part, int)]
    values = [get_args(a)[1] for a in annotations if get_origin(a) is dict]
    return [member for annotation in (*fields, *entries, *values) for member in _members(annotation)]


def _members(annotation: Any) -> list[Any]:
    """The members of a union, and of those in it; anything else is its own."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for part in get_args(annotation) for member in _members(part)]
    return [annotation]


def _sections(annotations: Sequence[Any]) -> list[Model]:
    return [a for a in annotations if isinstance(a, type) and issubclass(a, BaseModel)]


def _tags(model: Model) -> list[str]:
    return [tag for c in CHOOSERS if c in model.model_fields for tag in get_args(model.model_fields[c].annotation)]


def _allowed(error: ErrorDetails, field: FieldInfo | None) -> str:
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] in ("literal_error", "union_tag_invalid"):
        one_of = "one of " if len(_choices(error)) > 1 else ""
        return f"must be {one_of}{', '.join(_choices(error))}"
    if error["type"] in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        return f"must be {_range(field)}" if _range(field) else _plain(error["msg"])
    if error["type"] == "too_short":
        least = error["ctx"]["min_length"]
        return f"must have at least {least} {'entry' if least == 1 else 'entries'}"
    return KINDS.get(error["type"]) or _plain(error["msg"])


def _choices(error: ErrorDetails) -> list[str]:
    """The names that would do, where it is about a name."""
    if error["type"] not in ("literal_error", "union_tag_invalid"):
        return []
    return re.findall(r"'([^']*)'", error["ctx"].get("expected") or error["ctx"]["expected_tags"])


def _plain(message: str) -> str:
    """pydantic's own words, in ours."""
    words = message.replace("Input should", "must").split(",")[0]
    return words.replace("greater than or equal to", "at least")


def _range(field: FieldInfo | None) -> str:
    metadata: Sequence[Any] = field.metadata if field else ()
    return " and ".join(text.format(getattr(m, b)) for m in metadata for b, text in BOUNDS.items() if hasattr(m, b))


def _given(error: ErrorDetails) -> Any:
    """What the spec says; for a union without such a member, its tag rather than the whole section."""
    return error["ctx"]["tag"] if error["type"] == "union_tag_invalid" else error["input"]


def _chooser(error: ErrorDetails) -> str:
    return str(error["ctx"]["discriminator"]).strip("'")


def _shown(value: Any) -> str:
    """As it was given; of a long section only which it is."""
    text = "null" if value is None else repr(value)
    if len(text) > 60 and isinstance(value, dict) and (names := [value[c] for c in CHOOSERS if c in value]):
        text = repr(names[0])
    return text if len(text) <= 60 else f"{text[:57]}..."
