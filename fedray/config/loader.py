"""From a YAML file and command-line overrides to experiments.

A file is an experiment, or a `base` experiment and a `space` of axes over dotted fields; a space
stands for one experiment per combination of its axes' values.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fedray.config import labels, space
from fedray.config.experiment import REPEATABLE, Experiment
from fedray.config.messages import CHOOSERS, explain, fields_of, unknown
from fedray.config.search import Search, Searched
from fedray.config.space import Assignment, Axis
from fedray.errors import SpecError, nearest

Tree = dict[str, Any]

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Nine times faster where PyYAML was built with libyaml."""
KEYS = ("base", "space", "search")
"""What a file may hold that stands for several experiments."""


@dataclass(frozen=True)
class Run:
    """One experiment to run. `label` says which values of the space it has; empty without a space."""

    name: str
    label: str
    experiment: Experiment
    choice: Assignment  # those values, by their fields


@dataclass(frozen=True)
class Space:
    """What a file says: a base experiment, the axes it is varied along, and how they are searched."""

    path: Path
    base: Tree
    axes: Sequence[Axis]
    search: Search

    def runs(self) -> list[Run]:
        """Every experiment that the file alone decides, each once, in the order of its axes."""
        points = space.drawn if self.search.algorithm == "random" else space.combinations
        runs: dict[str, Run] = {}
        for choice in points(self.axes, self.search.samples, self.seed):
            run = self.run(choice)
            runs.setdefault(key(run.experiment), run)
        return list(runs.values())

    @property
    def seed(self) -> int:
        """The base's. What is wrong with it is said where an experiment is made of it."""
        seed = self.base.get("seed", 0)
        return seed if isinstance(seed, int) else 0

    def first(self) -> Assignment:
        """The first value of each axis."""
        return {axis.field: axis.values[0] for axis in self.axes}

    def run(self, choice: Assignment) -> Run:
        """The experiment of one value for each axis; axes that do not apply are left out."""
        chosen = space.active(choice, self.axes, flatten(self.base).get)
        values = {axis.field: axis.values for axis in self.axes}
        label = ", ".join(f"{labels.short(field)}={labels.of(value, values[field])}" for field, value in chosen.items())
        spec = experiment(_changed(self.base, chosen), f"{self.path} with {label}" if label else str(self.path))
        name = f"{self.path.stem}/{labels.folder(label, key(spec))}" if self.axes else self.path.stem
        return Run(name, label, spec, chosen)


def load(path: str | Path, overrides: Sequence[str] = ()) -> list[Run]:
    """The experiments of a file, in the order of its axes. Raises SpecError for what is wrong with it."""
    found = read(path, overrides)
    if found.search.algorithm == "optuna":
        raise SpecError(f"{path}: search.algorithm is optuna, which proposes trials as results come: use fedray sweep.")
    return found.runs()


def read(path: str | Path, overrides: Sequence[str] = ()) -> Space:
    """What a file says. A plain experiment is a space without axes."""
    path = Path(path)
    document = read_yaml(path)
    changes = dict(_parse_override(text) for text in overrides)
    if not document.keys() & {"base", "space"}:
        document = {"base": document} | ({"search": document.pop("search")} if "search" in document else {})
    unknown = sorted(document.keys() - set(KEYS))
    if unknown:
        raise SpecError(f"{path}: unknown key '{unknown[0]}' beside {', '.join(KEYS)}{nearest(unknown[0], KEYS)}")
    base = document.get("base") or {}
    if isinstance(base, str):
        base = read_yaml(path.parent / base)
    if not isinstance(base, dict):
        raise SpecError(f"{path}: base must hold sections, or name another file, not {type(base).__name__}.")
    searched = {field: value for field, value in changes.items() if field.split(".")[0] == "search"}
    fields = {field: value for field, value in changes.items() if field not in searched}
    parsed = space.parse(document.get("space") or {}, str(path))
    _check_names(parsed, str(path))
    axes = _fixed(parsed, fields)
    tree = _changed({"search": document.get("search") or {}}, searched)["search"]
    found = _search(tree, str(path))
    whole = Space(path, _changed(base, fields), axes, found)
    _check_mutations(whole)
    return whole


def _check_names(axes: Sequence[Axis], where: str) -> None:
    for axis in axes:
        named = [(axis.field, ""), *((field, f"'when' of the axis {axis.field} has an ") for field in axis.when)]
        for field, what in named:
            if (wrong := unknown(field)) is not None:
                raise SpecError(f"{where}: {what}unknown field '{field}'{wrong}")


def _check_mutations(found: Space) -> None:
    """Members of a population may change fields of training and strategy, which nothing else depends on."""
    mutations, where = found.search.mutations or {}, f"{found.path}: search.mutations"
    if not mutations:
        return
    if different := set(mutations) ^ {axis.field for axis in found.axes}:
        raise SpecError(f"{where} and the space must name the same fields, and {sorted(different)[0]} is in one only.")
    if found.search.algorithm == "optuna":
        raise SpecError(f"{found.path}: search.algorithm is optuna, but scheduler: pbt needs grid or random.")
    for field, values in mutations.items():
        if field.split(".")[0] not in ("training", "strategy"):
            raise SpecError(f"{where} has {field}, but only fields of training and strategy may change on the way.")
        for value in values:
            experiment(_changed(found.base, found.first() | {field: value}), where)


def _search(tree: Any, where: str) -> Search:
    try:
        return Searched.model_validate({"search": tree}).search
    except ValidationError as error:
        raise SpecError(f"{where}: {explain(error, Searched)}") from None


def read_yaml(path: Path) -> Tree:
    """A YAML file that holds a mapping. Raises SpecError where it does not."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)
    except FileNotFoundError:
        beside = path.parent.glob("*.yaml") if path.parent.is_dir() else ()
        raise SpecError(f"there is no spec '{path}'{nearest(path.name, [p.name for p in beside])}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"the spec '{path}' cannot be read ({error}).") from error
    except yaml.YAMLError as error:
        raise SpecError(f"{path} is not valid YAML: {error}.") from error
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise SpecError(f"{path} must hold sections such as 'data:' and 'training:', not {type(document).__name__}.")
    return document


def experiment(tree: Tree, where: str) -> Experiment:
    """A validated experiment. Raises SpecError that begins with `where` and names the first bad field."""
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        raise SpecError(f"{where}: {explain(error)}") from None


def to_yaml(spec: Experiment) -> str:
    """The resolved spec, every default filled in: reading it back gives the same experiment."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def schema() -> Tree:
    """The JSON schema of a spec file: an experiment, or a base and a space."""
    one = Experiment.model_json_schema()
    sections = one.pop("$defs") | {"Search": Search.model_json_schema()}
    values = {kind: {"type": "array", "minItems": 1} for kind in space.KINDS}
    one_of = [{"required": [kind]} for kind in space.KINDS]
    axis = {
        "type": "object",
        "properties": {**values, "when": {"type": "object"}},
        "oneOf": one_of,
        "additionalProperties": False,
    }
    several = {
        "type": "object",
        "properties": {
            "base": {"anyOf": [{"$ref": "#/$defs/Experiment"}, {"type": "string"}]},
            "space": {"type": "object", "additionalProperties": axis},
            "search": {"$ref": "#/$defs/Search"},
        },
        "required": ["base"],
        "additionalProperties": False,
    }
    return {"$defs": {**sections, "Experiment": one}, "anyOf": [{"$ref": "#/$defs/Experiment"}, several]}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`; sections in a list are numbered, `{"a": [{"b": 1}]}` -> `{"a.0.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            value = {str(number): item for number, item in enumerate(value)}
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _parse_override(text: str) -> tuple[str, Any]:
    field, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", field):
        raise SpecError(f"'{text}' is not an override; write section.key=value, such as strategy.lam=0.3.")
    try:
        return field, yaml.safe_load(value)
    except yaml.YAMLError:
        raise SpecError(f"the value of '{text}' is not valid YAML.") from None


def _changed(tree: Tree, changes: Mapping[str, Any]) -> Tree:
    """A copy with dotted fields set.

    Another `name` or `kind` makes a section another thing: of what it had before, only the
    fields that the new kind knows stay.
    """
    changed = {key: dict(value) if isinstance(value, dict) else value for key, value in tree.items()}
    for dotted, value in changes.items():
        *sections, key = dotted.split(".")
        here = changed
        for depth, section in enumerate(sections):
            inner = here.get(section)
            if inner is not None and not isinstance(inner, dict):
                raise SpecError(f"{'.'.join(sections[: depth + 1])} is {inner!r}, so '{dotted}' cannot be set in it.")
            here[section] = dict(inner or {})
            here = here[section]
        if key in CHOOSERS and here.get(key) != value:
            known = fields_of(sections, key, value)
            here = _keep_only(here, known) if known else here
        here[key] = value
    return changed


def _keep_only(section: Tree, known: Iterable[str]) -> Tree:
    for field in section.keys() - set(known):
        del section[field]
    return section


def _fixed(axes: Sequence[Axis], changes: Mapping[str, Any]) -> list[Axis]:
    """The axes, those that an override names reduced to its value."""
    for field in changes:
        for axis in axes:
            if field.startswith(f"{axis.field}."):
                raise SpecError(
                    f"'{field}' cannot be set: the space varies the whole of {axis.field}; "
                    f"write {axis.field}={{...}} to fix it, or change the file."
                )
    return [Axis(axis.field, "grid", [changes[axis.field]]) if axis.field in changes else axis for axis in axes]


def key(spec: Experiment) -> str:
    """What a trial is known by: a hash of all that decides its result, every default filled in."""
    document = spec.model_dump(mode="json", exclude=set(REPEATABLE))
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:8]
