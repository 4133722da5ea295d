"""`fedray plan`."""

import sys
from typing import Annotated

import typer

from fedray.cli.options import Overrides, SpecPath, StudyResults, Verbose


def plan(
    space: SpecPath,
    overrides: Overrides = None,
    results: StudyResults = "results",
    probe: Annotated[
        bool, typer.Option(help="Measure a few training steps of each kind of trial, to estimate the time.")
    ] = True,
    verbose: Verbose = False,
) -> None:
    """Estimate the cost of a study without running it. Prints trials, resources, FLOPs, memory and time."""
    from fedray.cli.plan_table import print_plan
    from fedray.config import loader
    from fedray.study import estimate
    from fedray.study import plan as planning
    from fedray.study.session import probing
    from fedray.study.study import Study
    from fedray.teachers.cache import TeacherCache

    study = Study(loader.read(space, overrides or []), results, allow_single=True)
    with probing(verbose=verbose) as (cluster, make_backend):
        planned = planning.plan(study, cluster, TeacherCache())
        for warning in planned.warnings:
            print(f"fedray: warning: {warning}", file=sys.stderr)
        if probe:
            planning.probe(planned, make_backend, lambda line: print(line, file=sys.stderr))
            estimate.save(study, planned.seconds)
    print_plan(study, planned)
