"""Spec files as trees: reading and writing YAML, and flattening a tree to dotted fields."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from fedray.config.experiment import Experiment
from fedray.errors import SpecError, nearest

Tree: TypeAlias = dict[str, Any]
"""A YAML mapping."""

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's loader, nine times faster, where PyYAML has it."""


def read_yaml(path: Path) -> Tree:
    """Read a YAML file that holds a mapping. Raises SpecError if it is missing, unreadable or holds anything else."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)
    except FileNotFoundError:
        siblings = path.parent.glob("*.yaml") if path.parent.is_dir() else ()
        raise SpecError(f"there is no spec '{path}'{nearest(path.name, [file.name for file in siblings])}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"the spec '{path}' cannot be read ({error}).") from error
    except yaml.YAMLError as error:
        raise SpecError(f"{path} is not valid YAML: {error}.") from error
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise SpecError(f"{path} must hold sections such as 'data:' and 'training:', not {type(document).__name__}.")
    return document


def to_yaml(spec: Experiment) -> str:
    """Returns the resolved spec with all defaults as YAML; loading it gives an equal experiment."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def flatten(tree: Mapping[str, object], prefix: str = "") -> Tree:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`; sections in a list are numbered, `{"a": [{"b": 1}]}` -> `{"a.0.b": 1}`."""
    flat: Tree = {}
    for key, value in tree.items():
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            value = {str(number): item for number, item in enumerate(value)}
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
