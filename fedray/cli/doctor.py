"""`fedray doctor`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from fedray.cli.options import SPEC_HELP, Overrides, Verbose, non_empty

OptionalSpec = Annotated[Path | None, typer.Argument(metavar="SPEC", help=SPEC_HELP, show_default=False)]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT", help="Ray cluster to check. Default: RAY_ADDRESS, or this machine.", show_default=False
    ),
]
Results = Annotated[
    str | None,
    typer.Option(callback=non_empty, metavar="DIR_OR_URI", help="Results folder that the nodes must be able to use."),
]


def doctor(
    spec: OptionalSpec = None,
    overrides: Overrides = None,
    address: Address = None,
    results: Results = None,
    verbose: Verbose = False,
) -> None:
    """Check a Ray cluster before anything runs on it. Exits with 1 if an error must be fixed."""
    from fedray.backends.ray.cluster import start_ray
    from fedray.cli.doctor_table import print_report
    from fedray.doctor.checks import run_checks
    from fedray.doctor.requirements import requirements

    required = requirements(spec, overrides or []) if spec else None
    if address:
        os.environ["RAY_ADDRESS"] = address
    start_ray(verbose=verbose)
    from fedray.doctor.probe import probe

    report = probe(results, required)
    findings = run_checks(report)
    print_report(report, findings)
    if any(finding.is_error for finding in findings):
        raise SystemExit(1)
