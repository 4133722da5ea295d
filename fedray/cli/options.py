"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from fedray.errors import SpecError

SPEC_HELP = "YAML file: one experiment, or a base and a space of axes."


def non_empty(param: typer.CallbackParam, value: str | None) -> str | None:
    """Return an option's value. Raises SpecError for an empty text, such as that of an unset variable."""
    if value is not None and not value.strip():
        places = "a folder" if param.name == "out" else "a folder or a URI"
        raise SpecError(f"{param.opts[0]} is an empty text; name {places}, or leave the option out.")
    return value


SpecPath = Annotated[Path, typer.Argument(metavar="SPEC", help=SPEC_HELP)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SECTION.KEY=VALUE",
        help="Override a field, for example training.optimizer.lr=0.05.",
        show_default=False,
    ),
]
StudyResults = Annotated[
    str,
    typer.Option(
        "--results",
        callback=non_empty,
        metavar="DIR_OR_URI",
        help="Parent of the study's folder; may be s3://bucket/path.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only the table at the end, no progress.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show the output of Ray and of its actors.")]
VerifyData = Annotated[
    bool, typer.Option("--verify-data", help="Compare data also where sizes and times of files are unchanged.")
]
AllowCodeChange = Annotated[
    bool, typer.Option("--allow-code-change", help="Continue unfinished runs that were started with other code.")
]
