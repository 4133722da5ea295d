"""`fedray run`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from threading import Thread
from typing import Annotated

import typer

from fedray.cli.exits import exit_on_stop
from fedray.cli.options import Overrides, Quiet, SpecPath, StudyResults, Verbose
from fedray.errors import RayLostError, RunError, SpecError


def run(
    spec: SpecPath,
    overrides: Overrides = None,
    results: StudyResults = "results",
    resume: Annotated[bool, typer.Option("--resume", help="Continue interrupted runs.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run one experiment, or all experiments of a space in turn. Prints a table of results."""
    from fedray.backends.ray.cluster import stop_ray
    from fedray.cli.progress import RunProgress
    from fedray.cli.recovery import is_restarted
    from fedray.cli.results_table import print_runs
    from fedray.config import loader
    from fedray.results.storage import DONE_FILE, storage_of
    from fedray.study.session import Session

    runs = loader.load(spec, overrides or [])
    storage = storage_of(results).below(spec.stem)
    _in_background(import_module, "analysis.summary")  # imports pandas, which takes as long as a round
    resume = resume or is_restarted()
    with exit_on_stop() as sigterm, Session(verbose=verbose) as session:
        storage.erase(DONE_FILE)
        for planned in runs:
            with _errors_labelled(planned.label), RunProgress(planned.label or planned.name, quiet=quiet) as progress:
                folder = f"{results}/{planned.name}"
                for result in session.run(planned.experiment, folder, resume=resume, on_progress=progress.update):
                    progress.update(result)
                progress.end()
    stopping = _in_background(stop_ray)
    if not sigterm.received:
        storage.write(DONE_FILE, f"{len(runs)} of {len(runs)} runs\n")
        print_runs(str(storage), runs)
    stopping.join()


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
