"""`fedray sweep`."""

import sys
from functools import partial
from typing import Annotated

import typer

from fedray.cli.exits import fail, resume_hint
from fedray.cli.options import AllowCodeChange, Overrides, Quiet, SpecPath, StudyResults, Verbose, VerifyData


def sweep(
    space: SpecPath,
    overrides: Overrides = None,
    results: StudyResults = "results",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print which trials would run, then exit.")] = False,
    verify_data: VerifyData = False,
    allow_code_change: AllowCodeChange = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run the pending trials of a study in parallel. The cluster's resources decide how many run at a time."""
    from fedray.cli.study_table import print_study, print_trials_to_run
    from fedray.config import loader
    from fedray.study.study import Study

    study = Study(loader.read(space, overrides or []), results, allow_code_change=allow_code_change)
    if dry_run:
        print_trials_to_run(study)
        return
    from fedray.cli.sweep_progress import SweepProgress
    from fedray.study.tune.sweep import sweep as run_study

    try:
        display = partial(SweepProgress, quiet=quiet, out=sys.stdout)
        trials = run_study(study, display=display, verbose=verbose, verify_data=verify_data)
    except KeyboardInterrupt:
        fail(f"stopped. {resume_hint()}", 130)
    print_study(study, trials)
    if any(trial.state == "failed" for trial in trials):
        fail("some trials failed; run the same command to retry them.", 1)
    if damaged := [trial for trial in trials if trial.damage]:
        fail(f"{len(damaged)} of {len(trials)} trials have finished, but their files are damaged; see above.", 1)
