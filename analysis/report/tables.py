"""The tables of a report, in reading order."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from analysis import tables
from analysis.report.data import ReportData
from analysis.report.table import ReportTable
from analysis.text import counted, listed

COST_UNITS = {
    "seconds": ("s", 1.0),
    "bytes": ("MB", 1e6),
    "client_flops": ("client Gflop", 1e9),
    "teacher_flops": ("teacher Gflop", 1e9),
}
ACCURACY_COLUMNS = {
    "final": "final", "best": "best so far", "last": "mean of last {}", "swing": "std of last {}",
    "worst_class": "worst class", "rare_classes": "rare classes",
}  # fmt: skip


CLIENT_COLUMNS = {"client_accuracy": "mean", "client_std": "spread", "worst_clients": "worst tenth"}


def report_tables(data: ReportData, target: float | None = None) -> Iterator[ReportTable]:
    """Yield accuracy, differences to baselines, summaries of accuracy, rounds to a target accuracy, and costs."""
    compared = _with_runs(tables.comparison(data.named), data.named)
    yield _accuracy(compared, f"mean of the last {data.k} evaluated rounds")
    for baseline in tables.BASELINES:
        if f"difference to {baseline}" in compared:
            yield _differences(compared, baseline)
    yield _accuracy_summary(data)
    if data.named["client_accuracy"].notna().any():
        yield _fairness(data)
    yield _to_target(data, target)
    yield _costs(data)


def _accuracy(compared: pd.DataFrame, mean: str) -> ReportTable:
    usual = int(compared["seeds"].max())
    cells = [_mean(row.mean, row.std, "" if row.seeds == usual else f" ({row.seeds})") for row in compared.itertuples()]
    others = "" if (compared["seeds"] == usual).all() else "; other numbers of seeds are in brackets"
    std = " ± standard deviation over seeds" if usual > 1 else ""
    caption = f"Test accuracy in %: {mean}{std}. {_seeds(usual)}{others}. Bold: best of a column."
    return _wide("accuracy", "Accuracy", f"{caption}{_all_note(compared)}", compared, cells, compared["best"])


def _differences(compared: pd.DataFrame, baseline: str) -> ReportTable:
    known = compared[compared[f"difference to {baseline}"].notna()]
    tested = known[f"p to {baseline}"].notna()
    counts = known[f"pairs to {baseline}"].astype(int)
    usual = counts.max()
    rows = zip(known[f"difference to {baseline}"], known[f"p to {baseline}"], counts, strict=True)
    cells = [
        _difference(difference) + (f" (p {_p(p)})" if p == p else "") + ("" if pairs == usual else f" [{pairs}]")
        for difference, p, pairs in rows
    ]
    test = (
        "p-values of a paired t-test are Holm-corrected over the settings of a column; bold: p < 0.05"
        if tested.any()
        else "too few pairs for a test"
    )
    others = "" if (counts == usual).all() else " (other numbers are in square brackets)"
    caption = (
        f"Difference of accuracy to {_settings_of(known, baseline)} in points, mean over {counted(usual, 'pair')} with "
        f"the same seed and condition{others}; {test}.{_all_note(known)}"
    )
    bold = known[f"p to {baseline}"] < 0.05
    return _wide(f"difference-to-{baseline.lower()}", f"Difference to {baseline}", caption, known, cells, bold)


def _settings_of(known: pd.DataFrame, baseline: str) -> str:
    """`FedProx`, or `FedProx, μ=0.1 (its setting with the best mean test accuracy)` if it has several."""
    settings = sorted(set(known[f"{baseline} is"]))
    note = "" if settings == [baseline] else " (its setting with the best mean test accuracy)"
    return f"{listed(settings)}{note}"


def _all_note(table: pd.DataFrame) -> str:
    """The explanation of the last column, if the table has it."""
    has_all = tables.ALL in set(table["condition"])
    return " “all”: mean over conditions, for seeds with every condition." if has_all else ""


def _accuracy_summary(data: ReportData) -> ReportTable:
    grouped = data.named.groupby(["setting", "condition"], observed=True)
    means, stds = grouped[list(ACCURACY_COLUMNS)].mean(), grouped[list(ACCURACY_COLUMNS)].std()
    texts = {name.format(data.k): _means(means[field], stds[field]) for field, name in ACCURACY_COLUMNS.items()}
    cells = pd.DataFrame(texts, means.index)
    cells.insert(0, "seeds", grouped.size().astype(str))
    caption = (
        f"Test accuracy in %, mean ± standard deviation over seeds. “Best so far” selects a round by test accuracy and "
        f"is therefore optimistic. “Std of last {data.k}” is over evaluated rounds. Worst class and "
        "rare classes (under 5 % of a client's examples, mean over clients) are means over the same rounds."
    )
    numbers = _with_runs(means.join(stds.add_suffix("_std")).reset_index(), data.named)
    return _long("accuracy-summary", "Final, best and mean accuracy", caption, numbers, cells)


def _fairness(data: ReportData) -> ReportTable:
    """Accuracy across clients; the mean of a setting's seeds is over those whose runs have it."""
    grouped = data.named.groupby(["setting", "condition"], observed=True)
    means, stds = grouped[list(CLIENT_COLUMNS)].mean(), grouped[list(CLIENT_COLUMNS)].std()
    cells = pd.DataFrame({name: _means(means[field], stds[field]) for field, name in CLIENT_COLUMNS.items()})
    cells.index = means.index
    cells.insert(0, "seeds", grouped["client_accuracy"].count().astype(str))
    cells["model"] = grouped["evaluated"].agg(lambda models: " and ".join(sorted(filter(None, {*models}))) or "–")
    caption = (
        f"Accuracy of the clients in %, each on a test distribution with its own label shares: mean, standard "
        f"deviation and mean of the worst tenth over clients; means of the last {data.k} evaluated rounds, ± standard "
        "deviation over seeds. Model: the global one, or each client's own; the test accuracy in the other tables is "
        "then the mean accuracy of these models on the whole test set."
    )
    numbers = _with_runs(means.join(stds.add_suffix("_std")).reset_index(), data.named)
    return _long("clients", "Accuracy across clients", caption, numbers, cells)


def _to_target(data: ReportData, target: float | None) -> ReportTable:
    reached = _with_runs(tables.to_target(data.named, data.rounds, target), data.named)
    cells = [_round(row) for row in reached.itertuples()]
    complete = reached["mean"].where(reached["reached"] == reached["seeds"])  # a lucky seed cannot be the first
    bold = complete == complete.groupby(reached["condition"], observed=True).transform("min")
    caption = (
        f"First evaluated round with a test accuracy of at least {_target(data, reached, target)}: mean over the seeds "
        "that reach it, and their number if some do not. Bold: first of a column, among settings whose seeds all reach "
        "it."
    )
    return _wide("rounds-to-target", "Rounds to a target accuracy", caption, reached, cells, bold)


def _target(data: ReportData, reached: pd.DataFrame, target: float | None) -> str:
    if target is not None:
        return f"{100 * target:g} %"
    settings = listed(dict.fromkeys(tables.reference(data.named)["setting"].astype(str)))
    by_condition = reached.groupby("condition", observed=True)["target"].first().dropna()
    levels = ", ".join(
        f"{100 * value:.1f} %{f' on {condition}' if condition else ''}" for condition, value in by_condition.items()
    )
    return f"that of {settings} ({levels})"


def _costs(data: ReportData) -> ReportTable:
    spent = tables.costs(data.named)
    columns = [column for column in COST_UNITS if column in spent]
    cells = pd.DataFrame(
        {
            COST_UNITS[column][0]: [_amount(value / COST_UNITS[column][1]) for value in spent[column]]
            for column in columns
        },
        pd.MultiIndex.from_frame(spent[["setting", "condition"]]),
    )
    caption = (
        "Cost of a run, mean over seeds: seconds of all rounds, bytes between server and clients in both "
        "directions, floating-point operations of the clients' training and of the teachers (none for cached outputs)."
    )
    return _long("costs", "Costs", caption, _with_runs(spent, data.named), cells)


def _wide(
    name: str, title: str, caption: str, numbers: pd.DataFrame, cells: Sequence[str], bold: "pd.Series[bool]"
) -> ReportTable:
    texts = tables.wide(numbers, pd.Series(cells, numbers.index, dtype=object))
    marks = tables.wide(numbers, bold.map({True: "bold", False: ""})) == "bold"
    return ReportTable(name, title, caption, numbers, texts, marks)


def _long(name: str, title: str, caption: str, numbers: pd.DataFrame, cells: pd.DataFrame) -> ReportTable:
    has_conditions = cells.index.get_level_values("condition").nunique() > 1
    labels = [f"{setting} · {condition}" if has_conditions else str(setting) for setting, condition in cells.index]
    texts = cells.set_axis(pd.Index(labels, name="setting"))
    return ReportTable(name, title, caption, numbers, texts, pd.DataFrame(False, texts.index, texts.columns))


def _with_runs(numbers: pd.DataFrame, named: pd.DataFrame) -> pd.DataFrame:
    """The numbers with the runs of each row; rows of all conditions have the runs of seeds with every condition."""
    runs = named.reset_index(names="run")
    conditions = runs.groupby(["setting", "seed"], observed=True)["condition"].transform("nunique")
    complete = runs[conditions == runs["condition"].nunique()]
    of_all = complete.groupby("setting", observed=True)["run"].agg(" ".join)
    by_cell = runs.groupby(["setting", "condition"], observed=True)["run"].agg(" ".join)
    keys = zip(numbers["setting"], numbers["condition"], strict=True)
    return numbers.assign(runs=[of_all[s] if c == tables.ALL else by_cell.get((s, c), "") for s, c in keys])


def _means(means: "pd.Series[float]", stds: "pd.Series[float]") -> list[str]:
    return [_mean(mean, std) for mean, std in zip(means, stds, strict=True)]


def _mean(mean: Any, std: Any, after: str = "") -> str:
    """`37.1 ± 1.4`; `37.1` for one seed; a dash if it is unknown."""
    if mean != mean:  # NaN is not equal to itself
        return "–"
    return f"{100 * mean:.1f}{f' ± {100 * std:.1f}' if std == std else ''}{after}"


def _difference(share: float) -> str:
    """`+3.2` points for 0.032; `0.0` without a sign."""
    points = round(100 * share, 1)
    return f"{points:+.1f}" if points else "0.0"


def _round(row: Any) -> str:
    """`12`, `12.5 (2 of 3)`, `never`; a dash without a target."""
    if row.target != row.target:  # NaN is not equal to itself
        return "–"
    if not row.reached:
        return "never"
    return f"{row.mean:.1f}".removesuffix(".0") + (
        f" ({row.reached} of {row.seeds})" if row.reached < row.seeds else ""
    )


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def _amount(value: float) -> str:
    if value != value:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _seeds(usual: int) -> str:
    return "One seed" if usual == 1 else f"{usual} seeds"
