"""What a spec wants of a cluster."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from fedray.config.experiment import Experiment
from fedray.config.fields import FILE_FIELDS
from fedray.config.loader import Space, read
from fedray.config.yaml_files import flatten
from fedray.data.federated import count_clients
from fedray.doctor.report import File, Requirements
from fedray.files import strip_scheme

SUFFIXES = (".bin", ".csv", ".npz", ".parquet", ".pt", ".pth", ".safetensors")


def requirements(path: str | Path, overrides: Sequence[str] = ()) -> Requirements:
    """Raises SpecError for a spec that cannot be used."""
    space = read(path, overrides)
    experiments = [run.experiment for run in _drawn(space).runs()]
    files = {(f.field, f.text): f for each in experiments for f in _files(each, study=bool(space.axes))}
    most = space.search.max_concurrent
    return Requirements(
        study=bool(space.axes),
        targets=any(getattr(each.teacher, "mode", "online") == "cached" for each in experiments),
        sizes={each: count_clients(each.partition) for each in experiments},
        most=len(experiments) if most == "auto" else most,
        files=list(files.values()),
    )


def _drawn(space: Space) -> Space:
    """In place of what a searcher will propose as much drawn at random: it asks for the same."""
    if space.search.algorithm != "optuna":
        return space
    return replace(space, search=space.search.model_copy(update={"algorithm": "random"}))


def _files(experiment: Experiment, *, study: bool) -> Iterator[File]:
    """Tables and images are read by whoever drives a run, weights by the actors, wherever they are."""
    for side in ("train", "test"):
        source = getattr(experiment.data, side)
        if source != "digits":
            yield File(f"data.{side}", source, study)
    for field, text in flatten(experiment.model_dump(mode="json")).items():
        name = field.split(".")[-1]
        if name in FILE_FIELDS and isinstance(text, str) and (name == "file" or _is_file(text)):
            yield File(field, text, study or name != "file")


def _is_file(text: str) -> bool:
    """Rather than the name of a model or a tag."""
    return text.startswith(("file:", "local-dir:")) or text.endswith(SUFFIXES) or strip_scheme(text).exists()
