"""The requirements of a spec: clients, resources and files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedray.config.experiment import Experiment
from fedray.config.fields import FILE_FIELDS
from fedray.config.loader import Space, read
from fedray.config.yaml_files import flatten
from fedray.data.sources import outside_reader
from fedray.files import strip_scheme

SUFFIXES = (".bin", ".csv", ".npz", ".parquet", ".pt", ".pth", ".safetensors")


@dataclass(frozen=True)
class RequiredFile:
    """A file, folder or data set that the spec names."""

    field: str
    text: str
    """Its name in the spec."""
    on_every_node: bool
    """Whether every node reads it, or only this one."""


@dataclass(frozen=True)
class Requirements:
    """The requirements of all experiments of a spec."""

    is_study: bool
    """Whether the spec has axes; trials of a sweep run on any node."""
    uses_teacher_cache: bool
    clients: Mapping[Experiment, int]
    """Number of clients of each experiment."""
    max_trials: int
    """Upper limit of the trials that run at once."""
    files: Sequence[RequiredFile] = ()

    @property
    def client_resources(self) -> set[tuple[float, float]]:
        """The distinct (cores, GPUs) per client."""
        return {(spec.resources.cpus_per_client, spec.resources.gpus_per_client) for spec in self.clients}


def requirements(path: str | Path, overrides: Sequence[str] = ()) -> Requirements:
    """Determine the requirements of a spec file. Raises SpecError for an invalid spec."""
    space = read(path, overrides)
    experiments = [run.experiment for run in _without_searcher(space).runs()]
    is_study = bool(space.axes)
    files = {(f.field, f.text): f for spec in experiments for f in _required_files(spec, is_study=is_study)}
    limit = space.search.max_concurrent
    return Requirements(
        is_study=is_study,
        uses_teacher_cache=any(spec.teacher is not None and spec.teacher.mode == "cached" for spec in experiments),
        clients={spec: spec.count_clients() for spec in experiments},
        max_trials=len(experiments) if limit == "auto" else limit,
        files=list(files.values()),
    )


def _without_searcher(space: Space) -> Space:
    """Return the space with random points in place of optuna's proposals; both need the same resources."""
    if space.search.algorithm != "optuna":
        return space
    return replace(space, search=space.search.model_copy(update={"algorithm": "random"}))


def _required_files(experiment: Experiment, *, is_study: bool) -> Iterator[RequiredFile]:
    """Yield tables and images, which the driver of a run reads, and weights, which the actors read."""
    for side, source in (("train", experiment.data.train), ("test", experiment.data.test)):
        if isinstance(source, str) and source != "digits" and outside_reader(source) is None:
            yield RequiredFile(f"data.{side}", source, is_study)
    for field, text in flatten(experiment.model_dump(mode="json")).items():
        name = field.split(".")[-1]
        if name in FILE_FIELDS and isinstance(text, str) and (name == "file" or _is_file(text)):
            yield RequiredFile(field, text, is_study or name != "file")


def _is_file(text: str) -> bool:
    """Whether a field names a file, and not a model or a tag."""
    return text.startswith(("file:", "local-dir:")) or text.endswith(SUFFIXES) or strip_scheme(text).exists()
