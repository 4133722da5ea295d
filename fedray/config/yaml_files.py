"""Spec files as trees: reading and writing YAML, and flattening a tree to dotted fields."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from fedray.config.experiment import Experiment
from fedray.config.yaml_loader import MAX_CHARACTERS, dump_yaml, parse_yaml
from fedray.errors import SpecError, nearest
from fedray.files import refuse_pipe

Tree: TypeAlias = dict[str, Any]
"""A YAML mapping."""


def read_yaml(path: Path) -> Tree:
    """Read a YAML file that holds a mapping. Raises SpecError if it is missing, unreadable or holds anything else."""
    try:
        refuse_pipe(path)
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except FileNotFoundError:
        siblings = path.parent.glob("*.yaml") if path.parent.is_dir() else ()
        raise SpecError(f"there is no spec '{path}'{nearest(path.name, [file.name for file in siblings])}") from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a null byte in the path
        raise SpecError(f"the spec '{path}' cannot be read ({error}).") from error
    try:
        document = parse_yaml(text)
    except SpecError as error:
        raise SpecError(f"{path} cannot be used: {error}") from None
    if not isinstance(document, dict):
        raise SpecError(f"{path} must hold sections such as 'data:' and 'training:', not {type(document).__name__}.")
    if others := [key for key in document if not isinstance(key, str)]:
        raise SpecError(f"{path} must hold sections such as 'data:' and 'training:', not {others[0]!r}.")
    return document


def to_yaml(spec: Experiment) -> str:
    """Return the resolved spec with all defaults as YAML; loading it gives an equal experiment."""
    return dump_yaml(spec.model_dump(mode="json"))


def flatten(tree: Mapping[str, object], prefix: str = "") -> Tree:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`; sections in a list are numbered, `{"a": [{"b": 1}]}` -> `{"a.0.b": 1}`."""
    flat: Tree = {}
    for key, value in tree.items():
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            value = {str(number): item for number, item in enumerate(value)}
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
