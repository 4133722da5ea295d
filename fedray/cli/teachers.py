"""The commands `fedray teachers ...`. Each imports the modules that it needs when it runs."""

import json
import shutil
import time
from typing import Annotated

import typer

from fedray.cli.options import Overrides, SpecPath, Verbose
from fedray.errors import SpecError

app = typer.Typer(
    no_args_is_help=True,
    help="Inspect the teacher cache, and check the accuracy of teachers.",
    rich_markup_mode=None,
)


@app.command("list")
def list_teachers() -> None:
    """List the entries of the teacher cache, most recently used first."""
    from fedray.cli.teachers_table import print_entries
    from fedray.teachers.cache import TeacherCache

    print_entries(TeacherCache())


@app.command("show")
def show_teacher(key: Annotated[str, typer.Argument(help="An entry's key, or the start of it.")]) -> None:
    """Show what an entry's outputs depend on and what produced them, and verify every row."""
    from fedray.teachers.cache import TeacherCache

    entry = TeacherCache().find(key)
    valid, written = entry.count_valid(), entry.count_written()
    state = {"rows_valid": valid, "rows_damaged": written - valid, "bytes_on_disk": entry.bytes}
    print(json.dumps({"folder": str(entry.folder)} | state | entry.metadata, indent=2, ensure_ascii=False))


@app.command("prune")
def prune_teachers(
    keys: Annotated[list[str] | None, typer.Argument(metavar="[KEY]...", show_default=False)] = None,
    unused_days: Annotated[float | None, typer.Option(min=0, help="Entries not used for this many days.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All entries, unreadable ones included.")] = False,
) -> None:
    """Delete entries of the teacher cache. Their outputs are computed again when a run needs them."""
    from fedray.teachers.cache import TeacherCache

    teacher_cache = TeacherCache()
    if [bool(keys), everything, unused_days is not None].count(True) != 1:
        raise SpecError("choose the entries to delete with exactly one of KEY ..., --unused-days N and --all.")
    named = {entry.key: entry for entry in map(teacher_cache.find, keys or [])}
    entries = list(named.values()) or teacher_cache.entries()
    if unused_days is not None:
        entries = [entry for entry in entries if time.time() - entry.last_used > unused_days * 86400]
    freed = sum(entry.bytes for entry in entries)
    for entry in entries:
        entry.remove()
    for folder in teacher_cache.unreadable() if everything else ():
        shutil.rmtree(folder)
    print(f"deleted {len(entries)} {'entry' if len(entries) == 1 else 'entries'}, {freed / 1e6:.1f} MB")


@app.command("check")
def check_teachers(
    spec: SpecPath,
    overrides: Overrides = None,
    verbose: Verbose = False,
) -> None:
    """Print the test accuracy of a spec's teachers, and the published accuracy where it is known."""
    from fedray.cli.progress import RunProgress
    from fedray.cli.teachers_table import print_accuracies
    from fedray.config import loader
    from fedray.server.teacher_check import TeacherAccuracy, distinct_teachers
    from fedray.study.session import Session

    accuracies: dict[TeacherAccuracy, None] = {}  # in the order of the spec, each once
    with Session(verbose=verbose) as session:
        for experiment in distinct_teachers([run.experiment for run in loader.load(spec, overrides or [])]):
            with RunProgress("check", quiet=False) as progress:
                accuracies |= dict.fromkeys(session.check_teachers(experiment, progress.update))
    print_accuracies(list(accuracies))
