"""The commands `fedray teachers ...`. Each imports what it needs when it runs."""

import json
import shutil
import time
from pathlib import Path
from typing import Annotated

import typer

from fedray.errors import SpecError

app = typer.Typer(
    no_args_is_help=True, help="The bank of teachers' answers, and how good the teachers are.", rich_markup_mode=None
)


@app.command("list")
def list_teachers() -> None:
    """List what the bank holds, the entries used last first."""
    from fedray.cli.progress import print_entries
    from fedray.teachers.cache import TeacherCache

    print_entries(TeacherCache())


@app.command("show")
def show_teacher(key: Annotated[str, typer.Argument(help="The beginning of an entry's key.")]) -> None:
    """Show what an entry depends on and what computed it, and check every row."""
    from fedray.teachers.cache import TeacherCache

    entry = TeacherCache().find(key)
    known, written = entry.known(), entry.written()
    state = {"rows_known": known, "rows_damaged": written - known, "bytes_on_disk": entry.bytes}
    print(json.dumps({"folder": str(entry.folder)} | state | entry.facts, indent=2, ensure_ascii=False))


@app.command("prune")
def prune_teachers(
    keys: Annotated[list[str] | None, typer.Argument(metavar="[KEY]...", show_default=False)] = None,
    unused_days: Annotated[float | None, typer.Option(min=0, help="All that nobody has used for so many days.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All entries.")] = False,
) -> None:
    """Delete entries from the bank. What is asked again later is computed again."""
    from fedray.teachers.cache import TeacherCache

    teacher_cache = TeacherCache()
    if [bool(keys), everything, unused_days is not None].count(True) != 1:
        raise SpecError("say what to delete, in one way: KEY ..., --unused-days N, or --all.")
    named = {entry.key: entry for entry in map(teacher_cache.find, keys or [])}
    chosen = list(named.values()) or teacher_cache.entries()
    if unused_days is not None:
        chosen = [entry for entry in chosen if time.time() - entry.last_used > unused_days * 86400]
    freed = sum(entry.bytes for entry in chosen)
    for entry in chosen:
        entry.remove()
    for folder in teacher_cache.unreadable() if everything else ():
        shutil.rmtree(folder)
    print(f"deleted {len(chosen)} of the bank's entries, {freed / 1e6:.1f} MB")


@app.command("check")
def check_teachers(
    spec: Annotated[Path, typer.Argument(help="YAML of an experiment, or of a base and a space of axes.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", show_default=False)] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what Ray and the actors print.")] = False,
) -> None:
    """Print how often a spec's teachers are right about its test set, beside what was published."""
    from fedray.cli.progress import RunProgress, print_checked
    from fedray.config import loader
    from fedray.server.teacher_check import TeacherAccuracy, once_each
    from fedray.study.session import Session

    found: dict[TeacherAccuracy, None] = {}  # in the order of the spec, each once
    with Session(verbose=verbose) as session:
        for each in once_each([run.experiment for run in loader.load(spec, overrides or [])]):
            with RunProgress("check", quiet=False) as progress:
                for event in session.check_teachers(each):
                    if isinstance(event, TeacherAccuracy):
                        found[event] = None
                    else:
                        progress.update(event)
    print_checked(list(found))
