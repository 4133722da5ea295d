"""Tables of results: one row per run after `fedray run`, one row per setting for `fedray results`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from fedray.cli.tables import borderless, open_console

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from fedray.config.loader import Run
    from fedray.results.loader import Results

HEADERS = {
    "test_accuracy": "accuracy",
    "last_k_accuracy": "last k",
    "worst_class_accuracy": "worst class",
    "rare_class_accuracy": "rare classes",
    "client_accuracy": "clients",
    "client_accuracy_worst_tenth": "worst clients",
    "round_seconds": "s/round",
}


def print_runs(folder: str, runs: Sequence["Run"]) -> None:
    """Print one row per run of `folder`: metrics of its last round, and the difference from the first run."""
    from analysis.summary import faults, summary, teacher_work
    from fedray.results.loader import load_results

    results = load_results(folder)
    names = [str(Path(run.name).relative_to(Path(run.name).parts[0])) for run in runs]
    console = open_console()
    console.print(_to_table(summary(results, names)))
    _print_problems(results, console)
    if work := teacher_work(results, names):
        console.print(work)
    if recovered := faults(results, names):
        console.print(f"{recovered}, see faults.csv")
    for problem in dict.fromkeys(results.problems):
        console.print(problem, soft_wrap=True)
    _print_mixtures(console, results)
    console.print(f"tables: {folder}", soft_wrap=True)


def print_over_seeds(folder: str | Path) -> None:
    """Print one row per setting: mean ± standard deviation over its seeds."""
    from analysis.summary import METRICS, client_metrics, over_seeds
    from fedray.results.loader import load_results

    results = load_results(folder)
    frame = over_seeds(results)
    for name in (*METRICS, *client_metrics(results)):
        frame[name] = [_mean_and_std(*pair) for pair in zip(frame[name], frame.pop(f"{name}_std"), strict=True)]
    console = open_console()
    console.print(_to_table(frame))
    _print_problems(results, console)


def _print_problems(results: "Results", console: "Console") -> None:
    """Print a sentence for each kind of damage to the tables that were read, and one about unfinished runs."""
    for problem in dict.fromkeys(results.problems):
        console.print(problem, soft_wrap=True)
    _print_mixtures(console, results)
    if results.unfinished:
        console.print(
            f"{len(results.unfinished)} of {len(results.folders)} runs have not reached their last round "
            "(stopped, failed or still running); their metrics are those of the rounds so far."
        )


def _print_mixtures(console: Console, results: "Results") -> None:
    """Print where the runs have other code, data, devices, threads or versions."""
    from fedray.results.mixtures import mixtures
    from fedray.results.run_folder import RunFolder

    specs = results.specs.rename(columns=str).to_dict("records")
    folders = map(results.folders.get, map(str, results.specs.index))
    runs = ((RunFolder(folder).identity, spec) for folder, spec in zip(folders, specs, strict=True) if folder)
    for sentence in mixtures((identity, {str(name): value for name, value in spec.items()}) for identity, spec in runs):
        console.print(sentence, soft_wrap=True)


def _mean_and_std(mean: float, std: float) -> str:
    """Return percentages: `89.6 ± 0.4`, `89.6` for one seed (NaN std), `-` for a NaN mean."""
    spread = "" if std != std else f" ± {100 * std:.1f}"
    return f"{100 * mean:.1f}{spread}" if mean == mean else "-"


def _to_table(frame: "pd.DataFrame") -> Table:
    headers = HEADERS
    if frame["k"].nunique() == 1:
        headers = HEADERS | {"last_k_accuracy": f"last {frame['k'].iloc[0]}"}
        frame = frame.drop(columns="k")
    table = borderless()
    for column in frame.columns:
        is_text = frame[column].map(lambda value: isinstance(value, str)).any() and "accuracy" not in column
        table.add_column(headers.get(column, column), justify="left" if is_text else "right", no_wrap=True)
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(column, value) for column, value in zip(frame.columns, row, strict=True)))
    return table


def _cell(column: str, value: object) -> str:
    if value is None or value != value:  # NaN
        return "-"
    if column == "difference":
        return f"{100 * float(str(value)):+.1f}"
    if isinstance(value, float):
        return f"{value:.1%}" if "accuracy" in column else f"{value:g}"
    return str(value)
