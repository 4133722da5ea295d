"""What the trials of a space are called: by the values that tell one from another."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedray.config.messages import CHOOSERS, FILES


def folder(label: str, known_by: str) -> str:
    """The label as the name of a folder, cut where it is long, and what the trial is known by."""
    name = re.sub(r"[^\w.=,+-]+", "_", label.replace(", ", ","))[:100] or "run"
    return f"{name}-{known_by}"


def short(field: str) -> str:
    """`strategy.lam` -> `lam`; but `strategy.name` -> `strategy`, and a whole section as it is."""
    *sections, key = field.split(".")
    return sections[-1] if key in CHOOSERS and sections else key


def of(value: Any, among: Sequence[Any]) -> str:
    """Of sections, what tells one from the others; files by their names."""
    others = [other for other in among if isinstance(other, dict)]
    if not isinstance(value, dict) or len(others) < 2:
        return _text(value)
    telling = {field: told for field, told in value.items() if any(other.get(field) != told for other in others)}
    short = {f: _stem(told) if f in FILES else told for f, told in telling.items() if not isinstance(told, list)}
    names = [field for field in short if field in FILES]
    return str(short[names[0]]) if len(short) == 1 and names else _text(short) or _text(value)


def _stem(text: Any) -> str:
    """The name of a file; of a model the whole name, whose dot tells it from others."""
    path = Path(str(text))
    return path.stem if path.suffix in (".parquet", ".csv", ".safetensors", ".pt", ".pth", ".bin") else path.name


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, float):
        return str(float(f"{value:.6g}"))
    if not isinstance(value, dict):
        return str(value)
    named = [str(v) for k, v in value.items() if k in CHOOSERS]
    return " ".join([*named, *(f"{k}={_text(v)}" for k, v in value.items() if k not in CHOOSERS)])
