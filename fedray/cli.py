"""The command `fedray`. Exit codes: 0 done, 1 a run failed, 2 the spec cannot be used, 130 Ctrl-C.

Each command imports what it needs when it runs, so that `fedray --help` answers at once.
"""

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from fedray.errors import RunError, SpecError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def main() -> None:
    """Run the command; turn what a user can act on into one sentence and an exit code."""
    try:
        app()
    except SpecError as error:
        _fail(str(error), 2)
    except RunError as error:
        _fail(f"{error}\n{_how_to_resume()}", 1)


@app.callback(invoke_without_command=True)
def about(show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Federated learning with foundation-model distillation, on Ray."""
    if show_version:
        print(f"fedray {version('fedray')}")


@app.command()
def run(
    spec: Annotated[Path, typer.Argument(help="YAML of an experiment, or of a base and a space of axes.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", show_default=False)] = None,
    results: Annotated[Path, typer.Option(help="Where the folder of results goes.")] = Path("results"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue what was interrupted.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the table at the end.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what Ray and the actors print.")] = False,
) -> None:
    """Run an experiment, or each experiment of a space in turn, and print what came out."""
    from fedray import spec_file
    from fedray.display import Progress, print_summary
    from fedray.runner import Session

    runs = spec_file.load(spec, overrides or [])
    try:
        with Session(verbose=verbose) as session:
            for each in runs:
                with _labelled(each.label), Progress(each.label or each.name, quiet=quiet) as progress:
                    for result in session.run(each.experiment, results / each.name, resume=resume):
                        progress.update(result)
    except KeyboardInterrupt:
        _fail(f"stopped. {_how_to_resume()}", 130)
    print_summary(results / spec.stem, runs)


@app.command()
def schema() -> None:
    """Print the JSON schema of a spec, for editors that check and complete YAML."""
    from fedray import spec_file

    print(json.dumps(spec_file.schema(), indent=2))


@contextmanager
def _labelled(label: str) -> Iterator[None]:
    """Say which run of a space an error is about."""
    try:
        yield
    except (SpecError, RunError) as error:
        raise (type(error)(f"{label}: {error}") if label else error) from None


def _how_to_resume() -> str:
    again = ["fedray", *sys.argv[1:], *(() if "--resume" in sys.argv else ("--resume",))]
    return f"Every finished round is kept; continue with: {shlex.join(again)}"


def _fail(message: str, code: int) -> None:
    print(f"fedray: {message}", file=sys.stderr)
    raise SystemExit(code)
