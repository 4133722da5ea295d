"""Tables of `fedray teachers`: entries of the teacher cache, and accuracies of teachers."""

import time
from collections.abc import Sequence

from rich.table import Table

from fedray.cli.tables import empty_table, open_console
from fedray.server.teacher_check import TeacherAccuracy
from fedray.teachers.cache import CacheEntry, TeacherCache


def print_entries(teacher_cache: TeacherCache) -> None:
    """Print a row per entry of the teacher cache. Heads of linear probes, one per client, are only counted."""
    entries = teacher_cache.entries()
    heads = [entry for entry in entries if entry.metadata["content"]["output_kind"] == "head"]
    console = open_console()
    console.print(_entry_table([e for e in entries if e not in heads]) if entries else "the teacher cache is empty")
    if heads:
        console.print(f"and {len(heads)} heads of linear probes, {sum(head.bytes for head in heads) / 1e6:.1f} MB")
    for folder in teacher_cache.unreadable():
        console.print(f"unreadable entry, its outputs will be computed again: {folder}", soft_wrap=True)
    console.print(f"teacher cache: {teacher_cache.folder}", soft_wrap=True)


def _entry_table(entries: Sequence[CacheEntry]) -> Table:
    table = empty_table("key", "teacher", "client", "data", "outputs", "views", "rows", "kB", "last used")
    for entry in entries:
        content, produced_by = entry.metadata["content"], entry.produced_by
        table.add_row(
            entry.key, produced_by["teacher"], str(content["teacher"].get("client", "all")), produced_by["data"],
            content["output_kind"], content["views"], f"{entry.count_written():,}/{entry.rows:,}",
            f"{entry.bytes / 1e3:,.0f}",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_used)),
        )  # fmt: skip
    return table


def print_accuracies(accuracies: Sequence[TeacherAccuracy]) -> None:
    """Print a row per teacher: its accuracy, and the published accuracy where it is known."""
    table = empty_table("teacher", "data", "images", "accuracy", "published")
    for row in accuracies:
        published = "-" if row.published is None else f"{row.published:.2f}%"
        table.add_row(row.teacher, row.data, f"{row.images:,}", f"{row.accuracy:.2%}", published)
    open_console().print(table)
