"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

SPEC_HELP = "YAML file: one experiment, or a base and a space of axes."

SpecPath = Annotated[Path, typer.Argument(metavar="SPEC", help=SPEC_HELP)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SECTION.KEY=VALUE", help="Override a field, for example training.lr=0.05.", show_default=False
    ),
]
StudyResults = Annotated[
    str, typer.Option("--results", metavar="DIR_OR_URI", help="Parent of the study's folder; may be s3://bucket/path.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only the table at the end, no progress.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show the output of Ray and of its actors.")]
