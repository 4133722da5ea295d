"""The command `fedray`. Exit codes: 0 done or stopped by SIGTERM, 1 a run failed (doctor: something
must be fixed), 2 the spec cannot be used, 130 Ctrl-C.

Each command imports what it needs when it runs, so that `fedray --help` answers at once.
"""

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Annotated

import typer

from fedray.cli import teachers
from fedray.cli.signals import SigtermHandler
from fedray.errors import RunError, SpecError

# Help in plain text: rich's boxes take twice as long as all the rest of it.
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.add_typer(teachers.app, name="teachers")


def main() -> None:
    """Run the command; turn what a user can act on into one sentence and an exit code."""
    try:
        app()
    except SpecError as error:
        _fail(str(error), 2)
    except RunError as error:
        _fail(f"{error}\n{_how_to_resume()}", 1)


@app.callback(invoke_without_command=True)
def about(show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Federated learning with foundation-model distillation, on Ray."""
    if show_version:
        from importlib.metadata import version

        print(f"fedray {version('fedray')}")


@app.command()
def run(
    spec: Annotated[Path, typer.Argument(help="YAML of an experiment, or of a base and a space of axes.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", show_default=False)] = None,
    results: Annotated[
        str, typer.Option(metavar="DIR_OR_URI", help="Where the folder of results goes: s3://bucket/path is fine.")
    ] = "results",
    resume: Annotated[bool, typer.Option("--resume", help="Continue what was interrupted.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the table at the end.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what Ray and the actors print.")] = False,
) -> None:
    """Run an experiment, or each experiment of a space in turn, and print what came out."""
    from fedray.backends.ray.cluster import stop_ray
    from fedray.cli.progress import RunProgress, print_summary
    from fedray.config import loader
    from fedray.results.storage import DONE_FILE, storage_of
    from fedray.study.session import Session

    runs = loader.load(spec, overrides or [])
    storage = storage_of(results).below(spec.stem)
    _meanwhile(import_module, "analysis.summary")  # which needs pandas
    with _stopping() as stopping, Session(verbose=verbose) as session:
        storage.erase(DONE_FILE)
        for each in runs:
            with _labelled(each.label), RunProgress(each.label or each.name, quiet=quiet) as progress:
                for result in session.run(each.experiment, f"{results}/{each.name}", resume=resume):
                    progress.update(result)
                progress.end()
    leaving = _meanwhile(stop_ray)
    if not stopping.reference_params:
        storage.write(DONE_FILE, f"{len(runs)} of {len(runs)} runs\n")
        print_summary(str(storage), runs)
    leaving.join()


@app.command()
def sweep(
    space: Annotated[Path, typer.Argument(help="YAML of a base, a space of axes, and how to search it.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", show_default=False)] = None,
    results: Annotated[
        str, typer.Option(metavar="DIR_OR_URI", help="Where the folder of the study goes: s3://bucket/path is fine.")
    ] = "results",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show which trials there are and remain.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the table at the end.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what Ray and Tune print.")] = False,
) -> None:
    """Run a study: every trial of a space that is not finished yet, as many at once as there is room for."""
    from fedray.cli.study_table import print_standing, print_study
    from fedray.config import loader
    from fedray.study.study import Study

    study = Study(loader.read(space, overrides or []), results)
    if dry_run:
        print_standing(study)
        return
    from fedray.study.tune.sweep import sweep as run_sweep

    try:
        trials = run_sweep(study, quiet=quiet, verbose=verbose)
    except KeyboardInterrupt:
        _fail(f"stopped. {_how_to_go_on()}", 130)
    print_study(study, trials)
    if any(trial.state == "failed" for trial in trials):
        _fail("some trials failed; the same command tries them again.", 1)


@app.command()
def plan(
    space: Annotated[Path, typer.Argument(help="YAML of an experiment, or of a base and a space of axes.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", show_default=False)] = None,
    results: Annotated[
        str, typer.Option(metavar="DIR_OR_URI", help="Where the folder of the study is, or will be.")
    ] = "results",
    probe: Annotated[bool, typer.Option(help="Measure a few steps of each kind of trial, to tell the time.")] = True,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what Ray and the actors print.")] = False,
) -> None:
    """Say what a study will take, without running it: trials, room, teachers' answers, work, memory, time."""
    from fedray.cli.plan_table import print_plan
    from fedray.config import loader
    from fedray.study import estimate, plan
    from fedray.study.session import probing
    from fedray.study.study import Study
    from fedray.teachers.cache import TeacherCache

    study = Study(loader.read(space, overrides or []), results, alone=True)
    with probing(verbose=verbose) as (cluster, make_backend):
        planned = plan.plan(study, cluster, TeacherCache())
        if probe:
            plan.probe(planned, make_backend, lambda line: print(line, file=sys.stderr))
            estimate.keep(study, planned.seconds)
    print_plan(study, planned)


@app.command()
def doctor(
    spec: Annotated[
        Path | None, typer.Argument(help="YAML of an experiment, or of a base and a space of axes.", show_default=False)
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", show_default=False)] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Of a Ray cluster; else RAY_ADDRESS, or this machine.", show_default=False
        ),
    ] = None,
    results: Annotated[
        str | None, typer.Option(metavar="DIR_OR_URI", help="Where results are to go.", show_default=False)
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what Ray prints.")] = False,
) -> None:
    """Say what is wrong with a cluster, node by node, before anything runs on it."""
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


@app.command("results")
def show_results(
    folder: Annotated[str, typer.Argument(metavar="DIR_OR_URI", help="A folder of results: one run, or all below.")],
    write: Annotated[
        list[Path] | None, typer.Option(help="Also write it, as .csv or .parquet.", show_default=False)
    ] = None,
) -> None:
    """Print each setting's figures: mean ± standard deviation over its seeds, in percent."""
    from analysis.summary import over_seeds
    from fedray.cli.progress import print_over_seeds
    from fedray.results.loader import load_results

    files = write or []
    if wrong := [file for file in files if file.suffix not in (".csv", ".parquet")]:
        raise SpecError(f"--write takes a file that ends in .csv or .parquet, not '{wrong[0]}'.")
    print_over_seeds(folder)
    for file in files:
        table = over_seeds(load_results(folder))
        try:
            table.to_csv(file, index=False) if file.suffix == ".csv" else table.to_parquet(file)
        except OSError as error:
            raise SpecError(f"--write: '{file}' cannot be written ({error}).") from error


@app.command()
def report(
    studies: Annotated[list[str], typer.Argument(metavar="STUDY...", help="Folders of results, or URIs.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where it goes; else reports/STUDY.", show_default=False)
    ] = None,
    last: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="Number of last evaluated rounds to average; by default a fifth of them, from 1 to 10.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(help="Accuracy (0 to 1) whose round is looked for; else FedAvg's.", show_default=False),
    ] = None,
) -> None:
    """Write report.html, figures and tables of one study or several, finished or not. Reads files only."""
    from analysis.report.report import write_report

    made = write_report(studies, out, last=last, target=target, command=["fedray", *sys.argv[1:]])
    for sentence in made.material.said():
        print(f"fedray: {sentence}", file=sys.stderr)
    print(made.page)


@app.command()
def schema() -> None:
    """Print the JSON schema of a spec, for editors that check and complete YAML."""
    from fedray.config.schema import schema as spec_schema

    print(json.dumps(spec_schema(), indent=2))


def _meanwhile(work: Callable[..., object], *arguments: object) -> Thread:
    """Begin something that takes its time, and go on."""
    thread = Thread(target=work, args=arguments, daemon=True)
    thread.start()
    return thread


@contextmanager
def _labelled(label: str) -> Iterator[None]:
    """Say which run of a space an error is about."""
    try:
        yield
    except (SpecError, RunError) as error:
        raise (type(error)(f"{label}: {error}") if label else error) from None


@contextmanager
def _stopping() -> Iterator[SigtermHandler]:
    """Ctrl-C ends with code 130; SIGTERM, which a job gets that is to go on later, with 0."""
    with SigtermHandler() as sigterm:
        try:
            yield sigterm
        except KeyboardInterrupt:
            if not sigterm.reference_params:
                _fail(f"stopped. {_how_to_resume()}", 130)
            print(f"fedray: stopped by SIGTERM. {_how_to_resume()}", file=sys.stderr)


def _how_to_resume() -> str:
    return _how_to_go_on(*(() if "--resume" in sys.argv else ("--resume",)))


def _how_to_go_on(*more: str) -> str:
    return f"Every finished round is kept; continue with: {shlex.join(['fedray', *sys.argv[1:], *more])}"


def _fail(message: str, code: int) -> None:
    print(f"fedray: {message}", file=sys.stderr)
    raise SystemExit(code)
