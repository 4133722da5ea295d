"""The HTML page of a report: one file that loads nothing, for light and dark mode, screens and paper."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from analysis.report import svg
from analysis.report.content import Report


def render(report: Report) -> str:
    """Return the HTML document."""
    import jinja2

    loader = jinja2.PackageLoader("analysis.report", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    data = report.data
    drawings = {
        figure.name: svg.inline(report.drawings[figure.name], figure.name, figure.title) for figure in report.figures
    }
    groups = run_groups(data.named)
    return environment.get_template("page.html").render(
        report=report,
        named=data.named,
        studies=list(dict.fromkeys(data.records.runs["study"])),
        missing=data.notes(),
        figures=drawings,
        groups=groups,
        link=linker(groups),
    )


def run_groups(named: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a group for each setting and condition: the runs from which a cell of a table is computed."""
    groups: list[dict[str, Any]] = []
    for (setting, condition), runs in named.groupby(["setting", "condition"], observed=True):
        rows = runs.reset_index(names="run").to_dict("records")
        title = f"{setting} · {condition}" if condition else str(setting)
        groups.append({"title": title, "setting": str(setting), "id": f"runs-{len(groups) + 1}", "runs": rows})
    return groups


def linker(groups: list[dict[str, Any]]) -> Callable[[str, str], str]:
    """Return a function that links a cell, by row and column, to the runs of its group, or else to all runs."""
    ids = {group["title"]: group["id"] for group in groups}
    settings = [group["setting"] for group in groups]
    of_setting = {group["setting"]: group["id"] for group in groups if settings.count(group["setting"]) == 1}

    def link(row: str, column: str) -> str:
        return "#" + (ids.get(f"{row} · {column}") or ids.get(row) or of_setting.get(row) or "runs")

    return link
