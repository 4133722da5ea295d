"""The figures of a report, in reading order."""

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
    """A figure with its title, its caption and the runs that it shows."""

    name: str  # of its files
    title: str
    caption: str
    figure: "Figure"
    runs: tuple[str, ...]


Candidate = tuple[str, str, str, "Figure | None", "pd.DataFrame"]
"""Name, title, caption, figure (None if the study has no data for it) and runs."""


def report_figures(data: ReportData) -> Iterator[ReportFigure]:
    """Yield the figures for which the study has data."""
    for name, title, caption, figure, runs in _candidates(data):
        if figure is not None:
            yield ReportFigure(name, title, caption, figure, tuple(map(str, runs.index)))


def _candidates(data: ReportData) -> Iterator[Candidate]:
    named, best = data.named, data.best
    settings = f"Best setting of each family by mean accuracy: {'; '.join(present(best['setting']))}."
    yield (
        "accuracy-by-round", "Accuracy by round",
        f"Test accuracy after each evaluated round: mean over seeds, with a band of one standard deviation. {settings}",
        curves.accuracy_by_round(best, data.rounds), best,
    )  # fmt: skip
    yield (
        "heterogeneity", "Accuracy by heterogeneity",
        f"Mean accuracy of the last {data.k} rounds by Dirichlet's α, ± standard deviation over seeds. {settings}",
        curves.heterogeneity(best), best,
    )  # fmt: skip
    yield from _teacher_figures(data)
    yield from _class_figures(data, settings)
    yield from _client_figures(data, settings)
    yield (
        "cost", "Accuracy by cost",
        f"Mean accuracy of the last {data.k} rounds by the cost of a run. The line is the Pareto front: no other "
        "setting is cheaper and more accurate. "
        "Seconds depend on the machine and on its load.",
        costs.pareto(tables.costs(named), named["k"]), named,
    )  # fmt: skip


def _teacher_figures(data: ReportData) -> Iterator[Candidate]:
    named = data.named
    yield (
        "lambda", "Effect of λ",
        f"Mean accuracy of the last {data.k} rounds by λ, ± standard deviation over seeds, one line per teacher. The "
        "horizontal line is FedAvg.",
        sweeps.lambda_curves(named), named,
    )  # fmt: skip
    yield (
        "lambda-by-condition", "Effect of λ by condition",
        "Mean difference to FedAvg with the same seed in points, or accuracy in a study without FedAvg. The best λ of "
        "a condition is framed.",
        sweeps.lambda_heatmap(named), named,
    )  # fmt: skip
    yield (
        "zero-shot-or-tuned", "Zero-shot and fitted teachers",
        "Each backbone as a zero-shot teacher and fitted to each client's own data.",
        sweeps.zero_shot_or_tuned(named), named,
    )  # fmt: skip
    yield (
        "one-or-random", "One backbone or random backbones",
        "One backbone for all clients, compared with a random one for each client.", sweeps.one_or_random(named), named,
    )  # fmt: skip


def _class_figures(data: ReportData, settings: str) -> Iterator[Candidate]:
    best = data.best
    yield (
        "classes", "Accuracy by class",
        f"Test accuracy of each class in the last evaluated round, mean over seeds. {settings}",
        classes.accuracy_by_class(best, data.classes, data.partition), best,
    )  # fmt: skip
    distilled = best[best["teacher_name"] != ""]
    if len(distilled):
        one = distilled.loc[[distilled["last"].idxmax()]]
        run = one.index
        proxy, teacher = data.records.confusion(run, "proxy"), data.records.confusion(run, "teacher")
        names = data.classes[data.classes["run"] == run[0]].set_index("class")["class_name"]
        yield (
            "confusions", "Confusion matrices",
            f"The teacher on the clients' examples and its proxy on the test set, for the most accurate run with a "
            f"teacher ({one['setting'].iloc[0]}, {one['condition'].iloc[0]}, seed {one['seed'].iloc[0]}).",
            classes.confusions(proxy, teacher, names), one,
        )  # fmt: skip


def _client_figures(data: ReportData, settings: str) -> Iterator[Candidate]:
    yield (
        "clients", "Accuracy across clients",
        f"Accuracy of each client's proxy on its training examples in the last round. {settings}",
        clients.spread(data.best, data.clients), data.best,
    )  # fmt: skip
    one = data.one_seed
    yield (
        "partition", "Label distribution by client",
        f"Number of training examples by client and class, with seed {one['seed'].min()}.",
        clients.partitions(one, data.records.partition(one.index)), one,
    )  # fmt: skip
