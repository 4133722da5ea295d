"""One clear sentence for the first thing that is wrong with a spec."""

import re
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from fedray.config import Experiment
from fedray.errors import nearest

Model = type[BaseModel]

BOUNDS = {"ge": "at least {:g}", "gt": "above {:g}", "le": "at most {:g}", "lt": "below {:g}"}
CHOOSERS = ("name", "kind")
"""The fields that say which of several sections is meant."""


def explain(error: ValidationError) -> str:
    """Names the field, its value, what is allowed and, for a name, the nearest valid one."""
    first, *others = error.errors()
    path, models = _walk(first["loc"])
    field, known = ".".join(path), models[0].model_fields
    if first["type"] == "extra_forbidden":
        owner = f"'{'.'.join(path[:-1])}'" if path[:-1] else "an experiment"
        return f"unknown field '{field}'{nearest(path[-1], known)} ({owner} has {', '.join(known)})"
    if first["type"] in ("missing", "union_tag_not_found"):
        return f"'{field}' is missing" if first["type"] == "missing" else f"'{field}' must say its {_chooser(first)}"
    same = [first, *(e for e in others if _walk(e["loc"])[0] == path)]
    allowed = list(dict.fromkeys(_allowed(e, known.get(path[-1])) for e in same))
    return f"{field} is {_shown(_given(first))}, but {' or '.join(allowed)}"


def fields_of(sections: Sequence[str], chooser: str, value: Any) -> list[str] | None:
    """The fields of the section at this path once its `name` or `kind` is `value`; None if unknown."""
    for model in _models_at(sections):
        info = model.model_fields.get(chooser)
        if info is not None and value in get_args(info.annotation):
            return list(model.model_fields)
    return None


def _walk(location: Sequence[str | int]) -> tuple[list[str], list[Model]]:
    """The path as the YAML has it, and the sections that may hold its last part.

    pydantic's own path also has a union's tag (`strategy.fedlpfm.lam`) or member.
    """
    path: list[str] = []
    holders: list[Model] = []
    models: list[Model] = [Experiment]
    for part in location:
        chosen = [m for m in models if part in _tags(m)]
        if len(models) > 1 and chosen:
            models = chosen
        elif models or isinstance(part, int):
            path.append(str(part))
            holders = models or holders
            models = _inside(models, part)
    return path, holders


def _models_at(path: Sequence[str]) -> list[Model]:
    models: list[Model] = [Experiment]
    for part in path:
        models = _inside(models, part)
    return models


def _inside(models: Sequence[Model], part: str | int) -> list[Model]:
    annotations = [m.model_fields[str(part)].annotation for m in models if part in m.model_fields]
    return [model for annotation in annotations for model in _models_in(annotation)]


def _models_in(annotation: Any) -> list[Model]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _tags(model: Model) -> list[str]:
    return [tag for c in CHOOSERS if c in model.model_fields for tag in get_args(model.model_fields[c].annotation)]


def _allowed(error: ErrorDetails, field: FieldInfo | None) -> str:
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] in ("literal_error", "union_tag_invalid"):
        choices = re.findall(r"'([^']*)'", error["ctx"].get("expected") or error["ctx"]["expected_tags"])
        one_of = "one of " if len(choices) > 1 else ""
        return f"must be {one_of}{', '.join(choices)}{nearest(str(_given(error)), choices)}"
    if error["type"] in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        return f"must be {_range(field)}" if _range(field) else _plain(error["msg"])
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return "must be a section, such as {name: ...} or {kind: ...}"
    return _plain(error["msg"])


def _plain(message: str) -> str:
    """pydantic's own words, in ours."""
    words = message.replace("Input should", "must").replace("Input is not", "must be").split(",")[0]
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
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
