"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

SpecPath = Annotated[Path, typer.Argument(help="YAML file: one experiment, or a base and a space of axes.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", show_default=False)]
StudyResults = Annotated[
    str, typer.Option("--results", metavar="DIR_OR_URI", help="Parent of the study's folder; may be s3://bucket/path.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only the table at the end, no progress.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show the output of Ray and of its actors.")]
