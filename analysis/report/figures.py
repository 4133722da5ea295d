"""The figures of a report, in the order in which they are read."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis import tables
from analysis.figures import classes, clients, costs, curves, sweeps
from analysis.figures.families import present
from analysis.report.data import ReportData

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ReportFigure:
    """A figure with what one must know to read it, and the runs it shows."""

    name: str  # of its files
    title: str
    caption: str
    figure: "Figure"
    runs: tuple[str, ...]


def report_figures(material: ReportData) -> Iterator[ReportFigure]:
    """Those that the study has something for."""
    for name, title, caption, figure, runs in _drawn(material):
        if figure is not None:
            yield ReportFigure(name, title, caption, figure, tuple(map(str, runs.index)))


Drawn = tuple[str, str, str, "Figure | None", "pd.DataFrame"]


def _drawn(material: ReportData) -> Iterator[Drawn]:
    named, best = material.named, material.best
    chosen = f"Of each family the setting that is best on average: {'; '.join(present(best['setting']))}."
    yield (
        "accuracy-by-round", "Accuracy by round",
        f"Test accuracy after each evaluated round: mean over seeds, the band is one standard deviation. {chosen}",
        curves.accuracy_by_round(best, material.rounds), best,
    )  # fmt: skip
    yield (
        "heterogeneity", "Heterogeneity",
        f"Mean accuracy of the last rounds by how much clients differ; bars: standard deviations over seeds. {chosen}",
        curves.heterogeneity(best), best,
    )  # fmt: skip
    yield from _of_teaching(named)
    yield from _of_classes(material, chosen)
    yield from _of_clients(material, chosen)
    yield (
        "cost", "Cost",
        "Accuracy against what a run took; a line joins the settings that nothing beats in both (Pareto front). "
        "Seconds are the machine's, with whatever else it did.",
        costs.pareto(tables.costs(named)), named,
    )  # fmt: skip


def _of_teaching(named: "pd.DataFrame") -> Iterator[Drawn]:
    yield (
        "lambda", "How much teacher",
        "Accuracy by λ, mean and standard deviation over seeds, a line per teacher; the level is FedAvg's.",
        sweeps.lambda_curves(named), named,
    )  # fmt: skip
    yield (
        "lambda-by-condition", "λ and heterogeneity",
        "By λ and condition: mean points above FedAvg with the same seed or, where there is no FedAvg, accuracy; "
        "framed: the best λ of a condition.",
        sweeps.lambda_heatmap(named), named,
    )  # fmt: skip
    yield (
        "zero-shot-or-tuned", "Zero-shot or fitted to clients",
        "The same backbone as it is, and fitted to each client's own data.", sweeps.zero_shot_or_tuned(named), named,
    )  # fmt: skip
    yield (
        "one-or-random", "One backbone or random ones",
        "One backbone for all clients beside one drawn for each client.", sweeps.one_or_random(named), named,
    )  # fmt: skip


def _of_classes(material: ReportData, chosen: str) -> Iterator[Drawn]:
    best = material.best
    yield (
        "classes", "Classes",
        f"Test accuracy of each class in the last evaluated round, mean over seeds. {chosen}",
        classes.accuracy_by_class(best, material.classes, material.partition), best,
    )  # fmt: skip
    targets = best[best["teacher_name"] != ""]
    if len(targets):
        one = targets.loc[[targets["last"].idxmax()]]
        run = one.index
        proxy, teacher = material.records.confusion(run, "proxy"), material.records.confusion(run, "teacher")
        names = material.classes[material.classes["run"] == run[0]].set_index("class")["class_name"]
        yield (
            "confusions", "What is taken for what",
            f"The teacher on clients' examples and the proxy it taught on the test set, of the best taught run "
            f"({one['setting'].iloc[0]}, {one['condition'].iloc[0]}, seed {one['seed'].iloc[0]}).",
            classes.confusions(proxy, teacher, names), one,
        )  # fmt: skip


def _of_clients(material: ReportData, chosen: str) -> Iterator[Drawn]:
    yield (
        "clients", "Spread over clients",
        f"Accuracy of each client's proxy on its own examples in the last round. {chosen}",
        clients.spread(material.best, material.clients), material.best,
    )  # fmt: skip
    one = material.one_seed
    yield (
        "partition", "Who holds what",
        f"Examples of each class that each client holds, with seed {one['seed'].min()}.",
        clients.partitions(one, material.records.partition(one.index)), one,
    )  # fmt: skip
