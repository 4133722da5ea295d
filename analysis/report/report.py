"""Write a report of studies: report.html, figures and tables."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis import records
from analysis.diagnosis import diagnose
from analysis.report import page, svg
from analysis.report.content import Report
from analysis.report.data import ReportData
from analysis.report.figures import report_figures
from analysis.report.table import ReportTable
from analysis.report.tables import report_tables
from analysis.text import MAX_ITEMS
from fedray.errors import SpecError
from fedray.files import replacing

MAX_ROUNDS = 1_000_000
REPORT_SUFFIXES = (".svg", ".png", ".csv", ".md", ".tex")
"""Suffixes of a report's files; other files in its folders are not deleted."""


def write_report(
    places: Sequence[str],
    out: Path | None = None,
    *,
    last: int | None = None,
    target: float | None = None,
    command: Sequence[str] = (),
) -> Report:
    """Write a report of studies to the folder `out`, by default `reports/STUDY`, and returns it.

    `last`: number of last evaluated rounds to average, by default k. `target`: accuracy, a fraction, whose first round
    is reported. Raises SpecError if one of these is out of range, if no run has evaluated a round, or if the folder
    cannot be written.
    """
    if last is not None and not 1 <= last <= MAX_ROUNDS:
        raise SpecError(f"--last is {last}, but must be a number of rounds from 1 to {MAX_ROUNDS:,}.")
    if target is not None and not 0 <= target <= 1:
        raise SpecError(f"--target is {target:g}, but must be a fraction from 0 to 1, such as 0.5 for 50 %.")
    loaded = records.load(*places)
    data = ReportData.of(loaded, last)
    if data.named.empty:
        problem = f" {data.problems[0]}" if data.problems else ""
        raise SpecError(
            f"none of the {len(loaded.runs)} runs in {', '.join(places)} has evaluated a round yet.{problem}"
        )
    folder = out or Path("reports") / "+".join(dict.fromkeys(_folder_name(study) for study in loaded.runs["study"]))
    try:
        report = _write_files(data, folder, target, shlex.join(command))
        with replacing(report.page) as partial:
            partial.write_text(page.render(report), encoding="utf-8")
    except OSError as error:
        raise SpecError(f"the report cannot be written to '{folder}' ({error.strerror or error}).") from error
    return report


def _write_files(data: ReportData, folder: Path, target: float | None, command: str) -> Report:
    _clear(folder)
    figures, tables = list(report_figures(data)), list(report_tables(data, target))
    drawings = {figure.name: svg.write(figure.figure, folder / "figures", figure.name) for figure in figures}
    for table in tables:
        _write_table(table, folder / "tables")
    with replacing(folder / "tables" / "runs.csv") as partial:
        data.named.drop(columns="folder").to_csv(partial)
    if len(data.problems) > MAX_ITEMS:
        with replacing(folder / "problems.txt") as partial:
            partial.write_text("\n".join(data.problems) + "\n", encoding="utf-8")
    findings = diagnose(data.named, data.rounds, data.clients)
    return Report(data, tables, figures, findings, drawings, folder, command)


def _clear(folder: Path) -> None:
    """Delete the files of an earlier report, and creates the folders."""
    if (folder / "report.html").exists():
        files = [
            file
            for part in ("figures", "tables")
            for file in (folder / part).glob("*.*")
            if file.suffix in REPORT_SUFFIXES
        ]
        for file in [*files, *folder.glob("problems.txt")]:
            file.unlink()
    for part in ("figures", "tables"):
        (folder / part).mkdir(parents=True, exist_ok=True)


def _write_table(table: ReportTable, folder: Path) -> None:
    texts = {"csv": table.numbers.to_csv(index=False), "md": table.markdown(), "tex": table.latex()}
    for suffix, text in texts.items():
        with replacing(folder / f"{table.name}.{suffix}") as partial:
            partial.write_text(text, encoding="utf-8")


def _folder_name(study: Any) -> str:
    return str(study).rstrip("/").rpartition("/")[2]
