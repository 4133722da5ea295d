"""The content of a report, from which its page is rendered."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.diagnosis import Finding
from analysis.report.data import ReportData
from analysis.report.figures import ReportFigure
from analysis.report.table import ReportTable


@dataclass(frozen=True)
class Report:
    """The content of a report. `drawings`: the figures as SVG, by name."""

    data: ReportData
    tables: Sequence[ReportTable]
    figures: Sequence[ReportFigure]
    findings: Sequence[Finding]
    drawings: dict[str, str]
    folder: Path
    command: str

    @property
    def page(self) -> Path:
        """Path of the HTML page."""
        return self.folder / "report.html"
