"""`fedray report`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedray.cli.options import non_empty


def report(
    studies: Annotated[list[str], typer.Argument(metavar="STUDY...", help="Result folders or URIs of studies.")],
    out: Annotated[
        str | None,
        typer.Option(
            callback=non_empty, metavar="DIR", help="Output folder. Default: reports/STUDY.", show_default=False
        ),
    ] = None,
    last: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="Number of last evaluated rounds to average. Default: a fifth of them, from 1 to 10.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            help="Accuracy from 0 to 1 for the table of rounds to target. Default: the final accuracy of FedAvg.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write an HTML report with tables and figures. The studies need not be finished; only result files are read."""
    from analysis.report.report import write_report

    written = write_report(
        studies, Path(out) if out else None, last=last, target=target, command=["fedray", *sys.argv[1:]]
    )
    for sentence in written.data.notes():
        print(f"fedray: {sentence}", file=sys.stderr)
    print(written.page)
