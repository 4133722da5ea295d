"""The tables of a report, in the order in which they are read."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from analysis import tables
from analysis.report.data import ReportData
from analysis.report.table import ReportTable
from analysis.text import counted, listed

DIGITS = {
    "seconds": ("s", 1.0),
    "bytes": ("MB", 1e6),
    "client_flops": ("client Gflop", 1e9),
    "teacher_flops": ("teacher Gflop", 1e9),
}
FIGURES = {
    "final": "final", "best": "best so far", "last": "mean of last {}", "swing": "swing of last {}",
    "worst_class": "worst class", "rare_classes": "rare classes",
}  # fmt: skip


def report_tables(material: ReportData, target: float | None = None) -> Iterator[ReportTable]:
    """Accuracy, differences to baselines, several readings of accuracy, rounds to a target, costs."""
    compared = _with_runs(tables.comparison(material.named), material.named)
    yield _accuracy(compared, _of_last(material))
    for baseline in tables.BASELINES:
        if f"difference to {baseline}" in compared:
            yield _differences(compared, baseline)
    yield _readings(material)
    yield _to_target(material, target)
    yield _costs(material)


def _accuracy(compared: pd.DataFrame, of_last: str) -> ReportTable:
    usual = int(compared["seeds"].max())
    cells = [_mean(row.mean, row.std, "" if row.seeds == usual else f" ({row.seeds})") for row in compared.itertuples()]
    lacking = "" if (compared["seeds"] == usual).all() else "; in brackets the number of seeds where it is another"
    deviations = ", ± standard deviation over seeds" if usual > 1 else ""
    caption = f"Test accuracy in %, {of_last}{deviations}. {_seeds(usual)}{lacking}. Bold: the best of a column."
    return _wide("accuracy", "Accuracy", f"{caption}{_of_all(compared)}", compared, cells, compared["best"])


def _differences(compared: pd.DataFrame, baseline: str) -> ReportTable:
    known = compared[compared[f"difference to {baseline}"].notna()]
    tested = known[f"p to {baseline}"].notna()
    each = known[f"pairs to {baseline}"].astype(int)
    usual = each.max()
    rows = zip(known[f"difference to {baseline}"], known[f"p to {baseline}"], each, strict=True)
    cells = [
        _difference(difference) + (f" (p {_p(p)})" if p == p else "") + ("" if pairs == usual else f" [{pairs}]")
        for difference, p, pairs in rows
    ]
    how = (
        "p of a paired t-test, Holm-corrected over the settings of a column; bold: p < 0.05"
        if tested.any()
        else "too few pairs for a test"
    )
    lacking = "" if (each == usual).all() else ", in square brackets where they are fewer"
    caption = (
        f"Points of accuracy above {_named(known, baseline)} with the same seed and condition, mean over "
        f"{counted(usual, 'pair')}{lacking}; {how}.{_of_all(known)}"
    )
    bold = known[f"p to {baseline}"] < 0.05
    return _wide(f"difference-to-{baseline.lower()}", f"Difference to {baseline}", caption, known, cells, bold)


def _named(known: pd.DataFrame, baseline: str) -> str:
    """`FedProx`; `FedProx, μ=0.1 (the best of its settings, by test accuracy)` where there were several."""
    settings = sorted(set(known[f"{baseline} is"]))
    chosen = "" if settings == [baseline] else " (the best of its settings on average, by test accuracy)"
    return f"{listed(settings)}{chosen}"


def _of_all(table: pd.DataFrame) -> str:
    """What the last column is, if it is there."""
    return (
        " “All”: the mean over conditions, of seeds that have them all."
        if tables.ALL in set(table["condition"])
        else ""
    )


def _of_last(material: ReportData) -> str:
    return f"mean of the last {_k(material)} evaluated rounds"


def _k(material: ReportData) -> str:
    """`10`, or `2 to 10` if the number of averaged rounds differs between runs."""
    least, most = int(material.named["k"].min()), int(material.named["k"].max())
    return str(most) if least == most else f"{least} to {most}"


def _readings(material: ReportData) -> ReportTable:
    grouped = material.named.groupby(["setting", "condition"], observed=True)
    means, deviations = grouped[list(FIGURES)].mean(), grouped[list(FIGURES)].std()
    texts = {name.format(_k(material)): _means(means[field], deviations[field]) for field, name in FIGURES.items()}
    cells = pd.DataFrame(texts, means.index)
    cells.insert(0, "seeds", grouped.size().astype(str))
    caption = (
        f"In %, mean ± standard deviation over seeds. “Best so far” looks at the test set to choose a round, so it "
        f"flatters; “swing” is the standard deviation within the last {_k(material)} evaluated rounds; the "
        "worst class and the rare classes (under 5 % of a client's examples, averaged over clients) are means over the "
        "same rounds."
    )
    numbers = _with_runs(means.join(deviations.add_suffix("_std")).reset_index(), material.named)
    return _long("readings", "Final, best and average accuracy", caption, numbers, cells)


def _to_target(material: ReportData, target: float | None) -> ReportTable:
    reached = _with_runs(tables.to_target(material.named, material.rounds, target), material.named)
    cells = [_round(row) for row in reached.itertuples()]
    whole = reached["mean"].where(reached["reached"] == reached["seeds"])  # a lucky seed is not the first
    bold = whole == whole.groupby(reached["condition"], observed=True).transform("min")
    caption = (
        f"The first evaluated round in which test accuracy is at least {_target(material, reached, target)}: mean over "
        "the seeds that reach it, and how many of them do where not all. Bold: the first of a column, of those whose "
        "seeds all do."
    )
    return _wide("rounds-to-target", "Rounds to a target accuracy", caption, reached, cells, bold)


def _target(material: ReportData, reached: pd.DataFrame, target: float | None) -> str:
    if target is not None:
        return f"{100 * target:g} %"
    whose = listed(dict.fromkeys(tables.reference(material.named)["setting"].astype(str)))
    each = reached.groupby("condition", observed=True)["target"].first().dropna()
    levels = ", ".join(
        f"{100 * value:.1f} %{f' on {condition}' if condition else ''}" for condition, value in each.items()
    )
    return f"what {whose} comes to ({levels})"


def _costs(material: ReportData) -> ReportTable:
    spent = tables.costs(material.named)
    columns = [column for column in DIGITS if column in spent]
    cells = pd.DataFrame(
        {DIGITS[column][0]: [_amount(value / DIGITS[column][1]) for value in spent[column]] for column in columns},
        pd.MultiIndex.from_frame(spent[["setting", "condition"]]),
    )
    caption = (
        "What a run took, mean over seeds: seconds of its rounds on the machine it ran on, bytes down and up between "
        "server and clients, floating-point operations of clients' models and of teachers (what the bank held cost "
        "nothing)."
    )
    return _long("costs", "Costs", caption, _with_runs(spent, material.named), cells)


def _wide(
    name: str, title: str, caption: str, numbers: pd.DataFrame, cells: Sequence[str], bold: "pd.Series[bool]"
) -> ReportTable:
    texts = tables.wide(numbers, pd.Series(cells, numbers.index, dtype=object))
    marks = tables.wide(numbers, bold.map({True: "bold", False: ""})) == "bold"
    return ReportTable(name, title, caption, numbers, texts, marks)


def _long(name: str, title: str, caption: str, numbers: pd.DataFrame, cells: pd.DataFrame) -> ReportTable:
    several = cells.index.get_level_values("condition").nunique() > 1
    labels = [f"{setting} · {condition}" if several else str(setting) for setting, condition in cells.index]
    texts = cells.set_axis(pd.Index(labels, name="setting"))
    return ReportTable(name, title, caption, numbers, texts, pd.DataFrame(False, texts.index, texts.columns))


def _with_runs(numbers: pd.DataFrame, named: pd.DataFrame) -> pd.DataFrame:
    """Each row with the runs of its setting and condition; of all conditions, those of the seeds that have them all."""
    runs = named.reset_index(names="run")
    conditions = runs.groupby(["setting", "seed"], observed=True)["condition"].transform("nunique")
    whole = runs[conditions == runs["condition"].nunique()]
    every = whole.groupby("setting", observed=True)["run"].agg(" ".join)
    each = runs.groupby(["setting", "condition"], observed=True)["run"].agg(" ".join)
    keys = zip(numbers["setting"], numbers["condition"], strict=True)
    return numbers.assign(runs=[every[s] if c == tables.ALL else each.get((s, c), "") for s, c in keys])


def _means(means: "pd.Series[float]", deviations: "pd.Series[float]") -> list[str]:
    return [_mean(mean, std) for mean, std in zip(means, deviations, strict=True)]


def _mean(mean: Any, std: Any, after: str = "") -> str:
    """`37.1 ± 1.4`; `37.1` of one seed; a dash where nothing is known."""
    if mean != mean:  # NaN is not itself
        return "–"
    return f"{100 * mean:.1f}{f' ± {100 * std:.1f}' if std == std else ''}{after}"


def _difference(share: float) -> str:
    """`+3.2` points of 0.032; `0.0` has no sign."""
    points = round(100 * share, 1)
    return f"{points:+.1f}" if points else "0.0"


def _round(row: Any) -> str:
    """`12`, `12.5 (2 of 3)`, `never`; a dash where there is no target."""
    if row.target != row.target:  # NaN is not itself
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
