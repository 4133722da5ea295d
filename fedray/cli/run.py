"""`fedray run`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated

import typer

from fedray.cli.exits import exit_on_stop, fail
from fedray.cli.options import AllowCodeChange, Overrides, Quiet, SpecPath, StudyResults, Verbose, VerifyData
from fedray.errors import DamagedError, RayLostError, RunError, SpecError

if TYPE_CHECKING:
    from fedray.config.loader import Run


def run(
    spec: SpecPath,
    overrides: Overrides = None,
    results: StudyResults = "results",
    resume: Annotated[bool, typer.Option(help="Continue unfinished runs, or refuse to.")] = True,
    verify_data: VerifyData = False,
    allow_code_change: AllowCodeChange = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run one experiment, or all experiments of a space in turn. Prints a table of results.

    The same command continues unfinished runs.
    """
    from fedray.backends.ray.cluster import stop_ray
    from fedray.cli.progress import RunProgress
    from fedray.cli.recovery import is_restarted
    from fedray.cli.results_table import print_runs
    from fedray.config import loader
    from fedray.results.storage import DONE_FILE, storage_of
    from fedray.study.session import Session
    from fedray.types import Notice

    runs = [_with_own_folder(planned, results) for planned in loader.load(spec, overrides or [])]
    storage = storage_of(results).below(spec.stem)
    _in_background(import_module, "analysis.summary")  # imports pandas, which takes as long as a round
    resume = resume or is_restarted()
    session = Session(verbose=verbose, verify_data=verify_data, allow_code_change=allow_code_change)
    whole: list[Run] = []
    with exit_on_stop() as sigterm, session:
        storage.erase(DONE_FILE)
        for planned in runs:
            with _errors_labelled(planned.label), RunProgress(planned.label or planned.name, quiet=quiet) as progress:
                folder = f"{results}/{planned.name}"
                try:
                    for result in session.run(planned.experiment, folder, resume=resume, on_progress=progress.update):
                        progress.update(result)
                except DamagedError as error:
                    progress.update(Notice(str(error)))
                    continue
                progress.end()
                whole.append(planned)
    stopping = _in_background(stop_ray)
    if whole and not sigterm.received:
        print_runs(f"{results}/{Path(runs[0].name).parts[0]}", whole)
    stopping.join()
    if sigterm.received:
        return
    if len(whole) < len(runs):
        fail(f"{len(runs) - len(whole)} of {len(runs)} runs have finished, but their files are damaged; see above.", 1)
    storage.write(DONE_FILE, f"{len(runs)} of {len(runs)} runs\n")


def _with_own_folder(planned: "Run", results: str) -> "Run":
    """Return a run of a plain experiment with the folder NAME-KEY if NAME has a run of another spec."""
    from fedray.config.key import trial_key
    from fedray.results.run_folder import RunFolder
    from fedray.results.storage import storage_of

    if planned.assignment:
        return planned
    storage = storage_of(results).below(planned.name)
    storage.pull(exclude="*.safetensors")
    folder = RunFolder(storage.folder)
    folder.make()
    difference = folder.difference(planned.experiment)
    if not difference:
        return planned
    name = f"{planned.name}-{trial_key(planned.experiment)}"
    place = storage_of(results).below(name)
    print(f"fedray: '{storage}' has results of another spec ({difference}); this run is in '{place}'.", file=sys.stderr)
    return replace(planned, name=name)


def _in_background(work: Callable[..., object], *arguments: object) -> Thread:
    """Start `work(*arguments)` in a daemon thread and return the thread."""
    thread = Thread(target=work, args=arguments, daemon=True)
    thread.start()
    return thread


@contextmanager
def _errors_labelled(label: str) -> Iterator[None]:
    """Prefix the message of an error with the label of the run that raised it."""
    try:
        yield
    except RayLostError:
        raise
    except (SpecError, RunError) as error:
        labelled = type(error)(f"{label}: {error}" if label else str(error))
        labelled.__dict__.update(error.__dict__)  # warnings
        raise labelled from None
