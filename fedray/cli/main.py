"""The command `fedray`: its app, its commands, and the errors that become one sentence and an exit code.

Each command's module imports only typer at the top and the rest when it runs, so that `fedray --help` is fast.
"""

import errno
import sys
from pathlib import Path
from typing import Annotated

import typer

from fedray.cli import doctor, plan, report, results, run, schema, sweep, teachers
from fedray.cli.exits import fail, resume_hint
from fedray.cli.recovery import recovery
from fedray.cli.streams import discard_output, is_write_error, prepare_streams
from fedray.errors import RayLostError, RepeatableError, RunError, SpecError, system_sentence
from fedray.import_path import add_working_folder

CHANGEABLE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP,
    errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT,
)  # fmt: skip
"""Errors of the operating system whose cause the user can change: folders, permissions, limits, space."""

# Plain-text help: rich's boxes take twice as long as everything else in `fedray --help`.
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command("run")(run.run)
app.command("sweep")(sweep.sweep)
app.command("plan")(plan.plan)
app.command("doctor")(doctor.doctor)
app.command("results")(results.results)
app.command("report")(report.report)
app.command("schema")(schema.schema)
app.add_typer(teachers.app, name="teachers")


def main() -> None:
    """Run the command. A SpecError exits with 2, a RunError with 1; each prints one sentence to stderr.

    An error of the operating system that no other code has named exits with 2 if the user can change its cause.
    """
    prepare_streams()
    with recovery():
        _run_with_exit_codes()


def _run_with_exit_codes() -> None:
    try:
        _check_working_folder()
        add_working_folder()
        _run_app()
    except SpecError as error:
        for warning in error.warnings:
            print(f"fedray: warning: {warning}", file=sys.stderr)
        fail(str(error), 2)
    except RayLostError:
        raise
    except RunError as error:
        fail("\n".join([str(error), *([] if isinstance(error, RepeatableError) else _hint())]), 1)
    except OSError as error:
        if is_write_error(error):
            discard_output()
            fail(f"the output cannot be written ({error.strerror}).", 1)
        fail(system_sentence(error), 2 if error.errno in CHANGEABLE else 1)
    except MemoryError:
        fail("the machine has too little memory for this.", 1)


def _check_working_folder() -> None:
    """Raise SpecError if the working folder was deleted: neither Ray nor PyTorch starts there."""
    try:
        Path.cwd()
    except OSError as error:
        raise SpecError(f"the working folder cannot be used ({error.strerror}); change into another one.") from error


def _hint() -> list[str]:
    """Return the sentence with the command that resumes this one, if this one saves rounds."""
    return [resume_hint()] if sys.argv[1:2] in (["run"], ["sweep"]) else []


def _run_app() -> None:
    """Run the command and write its last output; a full disk is noticed here at the latest."""
    try:
        app()
    finally:
        sys.stdout.flush()


@app.callback(invoke_without_command=True)
def about(show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Federated learning with foundation-model distillation, on Ray."""
    if show_version:
        from importlib.metadata import version

        print(f"fedray {version('fedray')}")
