"""The fields of a spec: which sections and fields exist, found by walking the annotations of `Experiment`.

Annotations have the type `object` here: typing has no type for type expressions such as `int | None`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError, create_model
from pydantic.fields import FieldInfo

from fedray.config.experiment import Experiment
from fedray.errors import SpecError, nearest
from fedray.registry import Registry
from fedray.section import CHOOSERS, Section

Model: TypeAlias = type[BaseModel]

MISSING = object()
"""Stands for the value of a field that a section does not have."""
MOVED_FIELDS = {
    "training.lr": "training.optimizer.lr",
    "training.momentum": "training.optimizer.momentum",
    "training.weight_decay": "training.optimizer.weight_decay",
    "training.decay_every": "training.schedule: {name: step, every: ROUNDS}",
    "training.decay_factor": "training.schedule: {name: step, every: ROUNDS, gamma: ...}",
}
"""Fields of former versions, and their present names."""
FILE_FIELDS = ("file", "pretrained", "init", "model")
"""Fields that may name a file or folder, as `PATH`, `file:PATH` or `local-dir:PATH`."""


def fields_of(path: Sequence[str], chooser: str, value: object) -> list[str] | None:
    """Return the fields of the section at `path` if its `chooser` field is `value`; None for an unknown value."""
    for registry in _registries_at(path):
        with suppress(SpecError):
            return list(registry.resolve(str(value)).model_fields)
    for model in _sections(_annotations_at(path)):
        info = model.model_fields.get(chooser)
        if info is not None and value in get_args(info.annotation):
            return list(model.model_fields)
    return None


def import_classes(tree: Mapping[str, object]) -> None:
    """Import the classes from outside the package that a tree of dotted or nested fields names.

    Afterwards their fields exist for the functions of this module. Names that cannot be resolved are ignored here.
    """
    for field, value in tree.items():
        *path, name = field.split(".")
        if name in CHOOSERS:
            _import_class(path, value)
        if isinstance(value, Mapping):
            import_classes({f"{field}.{key}": part for key, part in value.items()})


def _import_class(path: Sequence[str], name: object) -> None:
    for registry in _registries_at(path):
        with suppress(SpecError):
            registry.resolve(str(name))


def moved_field_hint(field: str) -> str:
    """Return `; it is now training.optimizer.lr` for a field of former versions, else an empty text."""
    return f"; it is now {MOVED_FIELDS[field]}" if field in MOVED_FIELDS else ""


def unknown_field_hint(field: str) -> str | None:
    """Return `; did you mean 'lam'?` or a full stop if a dotted field does not exist, else None."""
    if field in MOVED_FIELDS:
        return f"{moved_field_hint(field)}."
    parts = field.split(".")
    for depth, part in enumerate(parts):
        annotations = _annotations_at(parts[:depth])
        names = [name for model in _sections(annotations) for name in model.model_fields]
        if any(get_origin(annotation) is dict for annotation in annotations):
            return None
        if part not in names:
            return nearest(part, names) or "."
    return None


def field_value(tree: Mapping[str, object], field: str) -> object:
    """Return the value of a dotted field of an experiment's tree, or its default.

    The tree need not be valid. Returns MISSING for a field that the section does not have or that has no default.
    """
    value: object = tree
    parts = field.split(".")
    for depth, part in enumerate(parts):
        if isinstance(value, BaseModel):
            value = value.model_dump(mode="json")
        if not isinstance(value, Mapping):
            return MISSING
        value = value[part] if part in value else _default(value, parts[:depth], part)
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def accepts(field: str, value: object) -> bool:
    """Whether a dotted field can have a value; sections, and fields of mappings and lists, are not checked."""
    *path, name = field.split(".")
    infos = [model.model_fields[name] for model in _sections(_annotations_at(path)) if name in model.model_fields]
    return isinstance(value, dict) or not infos or any(_is_valid(info, value) for info in infos)


def _is_valid(info: FieldInfo, value: object) -> bool:
    definition: Any = (info.annotation, info)
    try:
        create_model("Checked", __base__=Section, value=definition).model_validate({"value": value})
    except ValidationError:
        return False
    return True


def _default(section: Mapping[str, object], path: Sequence[str], name: str) -> object:
    """Return the default of a field in the section at `path`, whose `name` or `kind` chooses its class."""
    models = [model for model in _sections(_annotations_at(path)) if name in model.model_fields]
    chosen = [m for m in models if all(section[key] in _tags(m) for key in CHOOSERS if key in section and _tags(m))]
    info = chosen[0].model_fields[name] if chosen else None
    return MISSING if info is None or info.is_required() else info.get_default(call_default_factory=True)


def resolve(location: Sequence[str | int], root: Model) -> tuple[list[str], list[Model]]:
    """Return the path of a pydantic error location as the YAML has it, and the sections that may hold its last part.

    The location also has tags of unions (`strategy.fedlpfm.lam`) and names of their members, which the path omits.
    """
    path: list[str] = []
    holders: list[Model] = []
    annotations: list[object] = [root]
    for part in location:
        models, inner = _sections(annotations), _inside(annotations, part)
        tagged = [model for model in models if part in _tags(model)]
        if len(models) > 1 and tagged:
            annotations = list(tagged)
        elif models or inner or isinstance(part, int):
            path.append(str(part))
            holders = models or holders
            annotations = inner
    return path, holders


def _annotations_at(path: Sequence[str]) -> list[object]:
    annotations: list[object] = [Experiment]
    for part in path:
        annotations = _inside(annotations, part)
    return annotations


def _inside(annotations: Sequence[object], part: str | int) -> list[object]:
    """Return the annotations of a field of a section, an index of a list or a key of a mapping."""
    fields = [_annotation(m.model_fields[str(part)]) for m in _sections(annotations) if part in m.model_fields]
    entries = [get_args(a)[0] for a in annotations if get_origin(a) is tuple and isinstance(part, int)]
    values = [get_args(a)[1] for a in annotations if get_origin(a) is dict]
    return [member for annotation in (*fields, *entries, *values) for member in _members(annotation)]


def _annotation(info: FieldInfo) -> object:
    """Return the type of a field, together with its registry if it has one."""
    registries = [part for part in info.metadata if isinstance(part, Registry)]
    return Annotated[info.annotation, registries[0]] if registries else info.annotation


def _members(annotation: object) -> list[object]:
    """Return the members of a union or the classes of a registry, nested ones flattened, or else the annotation."""
    if get_origin(annotation) is Annotated:
        first, *metadata = get_args(annotation)
        registries = [part for part in metadata if isinstance(part, Registry)]
        return [found for part in registries for found in part.classes] or _members(first)
    if get_origin(annotation) in (Union, UnionType):
        return [member for part in get_args(annotation) for member in _members(part)]
    return [annotation]


def _registries_at(path: Sequence[str]) -> Iterator[Registry[Section]]:
    """Yield the registries of the field at `path`, those inside a union included."""
    *sections, field = path or ("",)
    models = [model for model in _sections(_annotations_at(sections)) if field in model.model_fields]
    annotations = [_annotation(model.model_fields[field]) for model in models]
    for annotation in annotations:  # grows by the members of unions
        if get_origin(annotation) is Annotated:
            yield from (part for part in get_args(annotation)[1:] if isinstance(part, Registry))
        elif get_origin(annotation) in (Union, UnionType):
            annotations.extend(get_args(annotation))


def _sections(annotations: Sequence[object]) -> list[Model]:
    return [a for a in annotations if isinstance(a, type) and issubclass(a, BaseModel)]


def _tags(model: Model) -> list[str]:
    """Return the values of the section's `name` or `kind`."""
    infos = [model.model_fields[chooser] for chooser in CHOOSERS if chooser in model.model_fields]
    return [tag for info in infos for tag in get_args(info.annotation)]
