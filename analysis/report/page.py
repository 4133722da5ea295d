"""The page: one file that needs no network, light or dark, on paper or on a telephone."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.report import svg

if TYPE_CHECKING:
    from analysis.report.report import Report


def render(report: "Report") -> str:
    """The whole HTML document."""
    import jinja2

    loader = jinja2.PackageLoader("analysis.report", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    material = report.material
    drawings = {
        plate.name: svg.inline(report.drawings[plate.name], plate.name, plate.title) for plate in report.report_figures
    }
    grouped = groups(material.named)
    return environment.get_template("page.html").render(
        report=report,
        named=material.named,
        studies=list(dict.fromkeys(material.records.runs["study"])),
        missing=material.said(),
        figures=drawings,
        groups=grouped,
        link=linker(grouped),
    )


def groups(named: pd.DataFrame) -> list[dict[str, Any]]:
    """The runs of each setting and condition: what a cell of a table comes from."""
    found: list[dict[str, Any]] = []
    for (setting, condition), own in named.groupby(["setting", "condition"], observed=True):
        rows = own.reset_index(names="run").to_dict("records")
        title = f"{setting} · {condition}" if condition else str(setting)
        found.append({"title": title, "setting": str(setting), "id": f"runs-{len(found) + 1}", "runs": rows})
    return found


def linker(grouped: list[dict[str, Any]]) -> Callable[[str, str], str]:
    """From a cell's row and column to the list of its runs: of its group, or else of all."""
    ids = {group["title"]: group["id"] for group in grouped}
    alone = {group["setting"]: group["id"] for group in grouped if _is_alone(group, grouped)}

    def link(row: str, column: str) -> str:
        return "#" + (ids.get(f"{row} · {column}") or ids.get(row) or alone.get(row) or "runs")

    return link


def _is_alone(group: dict[str, Any], grouped: list[dict[str, Any]]) -> bool:
    return [other["setting"] for other in grouped].count(group["setting"]) == 1
