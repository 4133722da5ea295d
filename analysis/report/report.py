"""From studies on disk to `report.html`, figures and tables in a folder."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis import records
from analysis.diagnosis import Finding, diagnose
from analysis.report import page, svg
from analysis.report.data import ReportData
from analysis.report.figures import ReportFigure, report_figures
from analysis.report.table import ReportTable
from analysis.report.tables import report_tables
from analysis.text import SHOWN
from fedray.errors import SpecError

MOST = 1_000_000
"""No run has more rounds to average."""
MADE = (".svg", ".png", ".csv", ".md", ".tex")
"""What a report's folders hold, and nothing else of them is deleted."""


@dataclass(frozen=True)
class Report:
    """What was made of some studies. `drawings` are the figures as SVG, by their names."""

    material: ReportData
    report_tables: Sequence[ReportTable]
    report_figures: Sequence[ReportFigure]
    findings: Sequence[Finding]
    drawings: dict[str, str]
    folder: Path
    command: str

    @property
    def page(self) -> Path:
        return self.folder / "report.html"


def write_report(
    places: Sequence[str],
    out: Path | None = None,
    *,
    last: int | None = None,
    target: float | None = None,
    command: Sequence[str] = (),
) -> Report:
    """Write a report of some studies into `out`, by default `reports/STUDY`.

    `last` is over how many rounds accuracies are averaged, `target` the share of accuracy whose round is looked for.
    Raises SpecError where one of these is out of range, there is nothing to report, or the folder cannot be written.
    """
    if last is not None and not 1 <= last <= MOST:
        raise SpecError(f"--last is {last}, but must be a number of rounds from 1 to {MOST:,}.")
    if target is not None and not 0 <= target <= 1:
        raise SpecError(f"--target is {target:g}, but must be a share from 0 to 1, such as 0.5 for 50 %.")
    found = records.load(*places)
    material = ReportData.of(found, last)
    if material.named.empty:
        why = f" {material.problems[0]}" if material.problems else ""
        raise SpecError(f"none of the {len(found.runs)} runs in {', '.join(places)} has evaluated a round yet.{why}")
    folder = out or Path("reports") / "+".join(dict.fromkeys(_short(study) for study in found.runs["study"]))
    try:
        report = _make(material, folder, target, shlex.join(command))
        report.page.write_text(page.render(report), encoding="utf-8")
    except OSError as error:
        raise SpecError(f"the report cannot be written to '{folder}' ({error.strerror or error}).") from error
    return report


def _make(material: ReportData, folder: Path, target: float | None, command: str) -> Report:
    _clear(folder)
    drawn, made = list(report_figures(material)), list(report_tables(material, target))
    drawings = {plate.name: svg.write(plate.figure, folder / "figures", plate.name) for plate in drawn}
    for sheet in made:
        _write_sheet(sheet, folder / "tables")
    material.named.drop(columns="folder").to_csv(folder / "tables" / "runs.csv")
    if len(material.problems) > SHOWN:
        (folder / "problems.txt").write_text("\n".join(material.problems) + "\n", encoding="utf-8")
    findings = diagnose(material.named, material.rounds, material.clients)
    return Report(material, made, drawn, findings, drawings, folder, command)


def _clear(folder: Path) -> None:
    """Nothing of an earlier report stays beside this one."""
    if (folder / "report.html").exists():
        made = [file for part in ("figures", "tables") for file in (folder / part).glob("*.*") if file.suffix in MADE]
        for file in [*made, *folder.glob("problems.txt")]:
            file.unlink()
    for part in ("figures", "tables"):
        (folder / part).mkdir(parents=True, exist_ok=True)


def _write_sheet(sheet: ReportTable, folder: Path) -> None:
    sheet.numbers.to_csv(folder / f"{sheet.name}.csv", index=False)
    (folder / f"{sheet.name}.md").write_text(sheet.markdown(), encoding="utf-8")
    (folder / f"{sheet.name}.tex").write_text(sheet.latex(), encoding="utf-8")


def _short(study: Any) -> str:
    return str(study).rstrip("/").rpartition("/")[2]
