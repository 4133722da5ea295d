"""Loads a spec file and command-line overrides as experiments.

A file is an experiment, or a `base` experiment and a `space` of axes over dotted fields. A space stands for one
experiment per combination of its axes' values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedray.config import conditions, labels, space
from fedray.config.experiment import Experiment
from fedray.config.fields import import_classes
from fedray.config.key import setting, trial_key
from fedray.config.messages import explain
from fedray.config.overrides import fix_axes, parse_overrides, set_fields
from fedray.config.search import Search
from fedray.config.space import Assignment, Axis
from fedray.config.yaml_files import Tree, read_yaml
from fedray.errors import SpecError, nearest

SPACE_KEYS = ("base", "space", "search")
"""Top-level keys of a file with a space."""


@dataclass(frozen=True)
class Run:
    """One experiment to run."""

    name: str
    """Name of its results folder."""
    label: str
    """Its values of the space's axes, such as `strategy=fedlpfm, lam=0.5`; empty without a space."""
    experiment: Experiment
    assignment: Assignment
    """Its values of the space's axes, by field."""


@dataclass(frozen=True)
class Space:
    """A spec file: a base experiment, the axes along which it varies, and how they are searched."""

    path: Path
    base: Tree
    axes: Sequence[Axis]
    search: Search

    def runs(self) -> list[Run]:
        """Return each distinct experiment of the space once, in the order of its axes.

        Raises SpecError for more than space.MAX_TRIALS combinations.
        """
        points = space.random_points
        if self.search.algorithm != "random":
            space.check_count(self.axes, self.search.samples, str(self.path))
            points = space.combinations
        runs: dict[str, Run] = {}
        for assignment in points(self.axes, self.search.samples, self.seed):
            run = self.run(assignment)
            runs.setdefault(setting(run.experiment), run)
        return list(runs.values())

    @property
    def seed(self) -> int:
        """The seed of the base, or 0 if it is invalid, which validating the experiment reports."""
        seed = self.base.get("seed", 0)
        return int(seed) if isinstance(seed, int) or (isinstance(seed, float) and seed.is_integer()) else 0

    def first(self) -> Assignment:
        """Return the first value of each axis."""
        return {axis.field: axis.values[0] for axis in self.axes}

    def run(self, assignment: Assignment) -> Run:
        """Return the run with these values of the axes, without those whose `when` does not hold.

        Raises SpecError if the values do not make a valid experiment.
        """
        active = conditions.active(assignment, self.axes, conditions.resolved_in(self.base))
        values = {axis.field: axis.values for axis in self.axes}
        label = ", ".join(
            f"{labels.short_field(field)}={labels.value_label(value, values[field])}" for field, value in active.items()
        )
        source = f"{self.path} with {label}" if label else str(self.path)
        experiment = parse_experiment(set_fields(self.base, active), source)
        name = f"{self.path.stem}/{labels.folder_name(label, trial_key(experiment))}" if self.axes else self.path.stem
        return Run(name, label, experiment, active)


def load(path: str | Path, overrides: Sequence[str] = ()) -> list[Run]:
    """Load the experiments of a spec file, in the order of its axes. Raises SpecError for an invalid file."""
    loaded = read(path, overrides)
    if loaded.search.algorithm == "optuna":
        raise SpecError(
            f"{path}: search.algorithm is optuna, which proposes trials from earlier results: use fedray sweep."
        )
    return loaded.runs()


def read(path: str | Path, overrides: Sequence[str] = ()) -> Space:
    """Read a spec file as a space; a plain experiment has no axes. Raises SpecError for an invalid file."""
    path = Path(path)
    if not path.stem.strip(". ") or path.name in (".yaml", ".yml"):
        raise SpecError(f"'{path}' must have a name before .yaml: it names the folder of results.")
    document = _as_space_file(read_yaml(path))
    if unknown := sorted(document.keys() - set(SPACE_KEYS)):
        raise SpecError(
            f"{path}: unknown key '{unknown[0]}'; a space has {', '.join(SPACE_KEYS)}{nearest(unknown[0], SPACE_KEYS)}"
        )
    values = parse_overrides(overrides)
    of_search = {field: value for field, value in values.items() if field.split(".")[0] == "search"}
    of_base = {field: value for field, value in values.items() if field not in of_search}
    axes = space.parse_axes(_section(document, "space"), str(path))
    base = set_fields(_base_of(document, path), of_base)
    for tree in (base, *({axis.field: value} for axis in axes for value in axis.values)):
        import_classes(tree)
    conditions.check_fields(axes, str(path))
    axes = fix_axes(axes, of_base)
    search = _parse_search(set_fields({"search": _section(document, "search")}, of_search)["search"], str(path))
    result = Space(path, base, axes, search)
    _check_mutations(result)
    return result


def parse_experiment(tree: Tree, source: str) -> Experiment:
    """Validate an experiment. Raises SpecError that starts with `source` and names the first invalid field."""
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        raise SpecError(f"{source}: {explain(error)}") from None


def _as_space_file(document: Tree) -> Tree:
    """Return a plain experiment as the base of a space without axes."""
    if document.keys() & {"base", "space"}:
        return document
    base = {name: section for name, section in document.items() if name != "search"}
    return {"base": base, "search": document.get("search")}


def _section(document: Tree, name: str) -> Any:
    """Return a section of a space; empty if it is missing or null."""
    section = document.get(name)
    return {} if section is None else section


def _base_of(document: Tree, path: Path) -> Tree:
    """Return the base experiment, read from another file if the document names one."""
    base = _section(document, "base")
    if isinstance(base, str):
        return read_yaml(path.parent / base)
    if not isinstance(base, dict):
        raise SpecError(f"{path}: base must hold sections, or name another file, not {type(base).__name__}.")
    return base


def _check_mutations(study: Space) -> None:
    """Raise SpecError unless `mutations` has the axes' fields, all of training or strategy, and valid values."""
    mutations, source = study.search.mutations or {}, f"{study.path}: search.mutations"
    if not mutations:
        return
    if different := set(mutations) ^ {axis.field for axis in study.axes}:
        raise SpecError(f"{source} and the space must name the same fields, and {sorted(different)[0]} is in one only.")
    if study.search.algorithm == "optuna":
        raise SpecError(f"{study.path}: search.algorithm is optuna, but scheduler: pbt needs grid or random.")
    for field, values in mutations.items():
        if field.split(".")[0] not in ("training", "strategy"):
            raise SpecError(f"{source} has {field}, but only fields of training and strategy may change during a run.")
        for value in values:
            parse_experiment(set_fields(study.base, study.first() | {field: value}), source)


def _parse_search(tree: Tree, source: str) -> Search:
    try:
        return Search.model_validate(tree)
    except ValidationError as error:
        raise SpecError(f"{source}: {explain(error, Search, ('search',))}") from None
