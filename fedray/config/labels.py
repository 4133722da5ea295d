"""Labels of the trials of a space: the values by which they differ."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedray.config.fields import FILE_FIELDS
from fedray.section import CHOOSERS

MAX_LABEL_CHARACTERS = 100
FILE_SUFFIXES = (".parquet", ".csv", ".safetensors", ".pt", ".pth", ".bin")


def folder_name(label: str, key: str) -> str:
    """Returns the name of a trial's folder: its label, shortened, and its key."""
    name = re.sub(r"[^\w.=,+-]+", "_", label.replace(", ", ","))[:MAX_LABEL_CHARACTERS] or "run"
    return f"{name}-{key}"


def short_field(field: str) -> str:
    """`strategy.lam` -> `lam`; `strategy.name` -> `strategy`; a whole section keeps its name."""
    *sections, key = field.split(".")
    return sections[-1] if key in CHOOSERS and sections else key


def short_fields(fields: Sequence[str]) -> dict[str, str]:
    """Returns the short name of each field; the whole name if two would be equal."""
    short = {field: short_field(field) for field in fields}
    names = list(short.values())
    return {field: name if names.count(name) == 1 else field for field, name in short.items()}


def value_label(value: object, axis_values: Sequence[object]) -> str:
    """Returns the label of one value of an axis; a section shows the fields in which the axis's sections differ."""
    sections = [other for other in axis_values if isinstance(other, dict)]
    if not isinstance(value, dict) or len(sections) < 2:
        return _text(value)
    differing = {field: part for field, part in value.items() if any(s.get(field) != part for s in sections)}
    short = {
        field: _stem(part) if field in FILE_FIELDS else part
        for field, part in differing.items()
        if not isinstance(part, list)
    }
    files = [field for field in short if field in FILE_FIELDS]
    return str(short[files[0]]) if len(short) == 1 and files else _text(short) or _text(value)


def _stem(name: object) -> str:
    """Returns a file's name without its suffix; a model's name keeps its dots."""
    path = Path(str(name))
    return path.stem if path.suffix in FILE_SUFFIXES else path.name


def _text(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, float):
        return str(float(f"{value:.6g}"))
    return _section_text(value) if isinstance(value, dict) else str(value)


def _section_text(section: Mapping[str, object]) -> str:
    """`{"name": "fedprox", "mu": 0.1}` -> `fedprox mu=0.1`."""
    names = [str(value) for field, value in section.items() if field in CHOOSERS]
    fields = [f"{field}={_text(value)}" for field, value in section.items() if field not in CHOOSERS]
    return " ".join([*names, *fields])
