"""Finds the folders of runs, and what is damaged in them."""

import os
from collections.abc import Iterator
from pathlib import Path

from fedray.errors import SpecError
from fedray.results.run_folder import RunFolder
from fedray.results.storage import storage_of

RUN_FILES = ("rounds.csv", "environment.json")
"""Files of a run; a `spec.yaml` in a folder with neither of them is not the spec of a run."""

SKIPPED_FOLDERS = ("checkpoint", "tune")
"""Folders that hold no runs."""


def run_folders(path: str | Path, problems: list[str]) -> dict[str, Path]:
    """Return the local folder of every run below a folder or URI, by relative path (`.` for `path` itself).

    Links to folders are followed, and a folder that several of them name is one run. Runs in another format and links
    that lead nowhere are left out, with a sentence in `problems`. A URI is downloaded first, without weights. Raises
    SpecError if there is no run.
    """
    storage = storage_of(path)
    storage.pull(exclude="*.safetensors")
    found = list(result_folders(storage.folder, problems))
    problems += [
        f"'{folder}' has {name} but no spec.yaml: it is left out."
        for folder in found
        for name in [name for name in RUN_FILES if (folder / name).exists()][:1]
        if not _has_spec(folder)
    ]
    folders = [folder for folder in found if _is_run(folder) and _has_format(folder, problems)]
    if not folders:
        raise SpecError(problems[0] if problems else f"'{storage}' holds no results.")
    return {str(folder.relative_to(storage.folder)): folder for folder in folders}


def result_folders(root: Path, problems: list[str]) -> Iterator[Path]:
    """Yield a folder and all folders below it, each once, in the order of their paths; links are followed."""
    known: dict[Path, Path] = {}
    for name, children, files in os.walk(root, followlinks=True):
        folder = Path(name)
        if (first := known.setdefault(folder.resolve(), folder)) != folder:
            children.clear()
            if (folder / "spec.yaml").exists():
                problems.append(f"'{folder}' is the same folder as '{first}' and is left out.")
            continue
        links = sorted(folder / file for file in files if (folder / file).is_symlink() and not (folder / file).exists())
        problems += [f"'{link}' is a link to nothing and is left out." for link in links]
        children[:] = sorted(child for child in children if child not in SKIPPED_FOLDERS)
        yield folder


def _has_spec(folder: Path) -> bool:
    return (folder / "spec.yaml").exists()


def _is_run(folder: Path) -> bool:
    return _has_spec(folder) and any((folder / name).exists() for name in RUN_FILES)


def _has_format(folder: Path, problems: list[str]) -> bool:
    try:
        RunFolder(folder).check_format()
    except SpecError as error:
        problems.append(str(error))
        return False
    return True
