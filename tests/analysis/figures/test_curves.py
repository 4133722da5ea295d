import numpy as np
import pandas as pd
import pytest
from helpers.frames import checked, labels, legend, lines, named, note, panels, rounded, rows, texts, titles
from matplotlib.colors import to_hex

from analysis.figures.curves import accuracy_by_round, heterogeneity
from analysis.figures.style import COLORS

ROUNDS = ["run", "round", "test_accuracy"]
LONG = "ViT-SO400M-14-SigLIP2-384-with-a-name-that-goes-on"


def two_seeds() -> tuple[pd.DataFrame, pd.DataFrame]:
    runs = named(
        {"strategy": "fedavg", "seed": 0}, {"strategy": "fedavg", "seed": 1}, {"strategy": "fedlpfm", "lam": 0.5}
    )
    cells = [["a", 1, 0.1], ["a", 2, 0.3], ["b", 1, 0.2], ["b", 2, 0.7], ["c", 1, 0.4], ["c", 2, 0.6]]
    return runs, rows(ROUNDS, *cells)


def test_accuracy_by_round_draws_mean_and_std_over_seeds() -> None:
    figure = checked(accuracy_by_round(*two_seeds()))
    (axes,) = panels(figure)
    assert [rounded(line) for line in lines(axes, COLORS["FedAvg"])] == [[(1, 15), (2, 50)]]
    assert [rounded(line) for line in lines(axes, COLORS["Fed-LPFM"])] == [[(1, 40), (2, 60)]]
    band, alone = axes.collections
    heights = band.get_paths()[0].vertices
    assert to_hex(band.get_facecolor()[0]) == COLORS["FedAvg"].lower()
    deviation = 100 * np.std([0.3, 0.7], ddof=1)
    assert heights[heights[:, 0] == 2, 1].max() == pytest.approx(50 + deviation)
    assert heights[heights[:, 0] == 2, 1].min() == pytest.approx(50 - deviation)
    of_one = alone.get_paths()[0].vertices
    assert set(of_one[of_one[:, 0] == 2, 1].round(6)) == {60}  # one seed has no standard deviation
    assert titles(figure) == ["Dirichlet α=0.1"]
    assert labels(figure) == {"round", "test accuracy (%)"}
    assert legend(figure) == ["FedAvg", "Fed-LPFM"]


def test_accuracy_by_round_has_integer_ticks() -> None:
    (axes,) = panels(checked(accuracy_by_round(*two_seeds())))
    assert all(tick == int(tick) for tick in axes.get_xticks())


def test_accuracy_by_round_without_rounds_is_none() -> None:
    runs, rounds = two_seeds()
    assert accuracy_by_round(runs, rounds.iloc[:0]) is None
    assert accuracy_by_round(runs.iloc[:0], rounds) is None
    assert accuracy_by_round(runs, rounds.assign(run=pd.Categorical(["z"] * 6))) is None


def test_accuracy_by_round_without_rounds_has_no_panel() -> None:
    runs = named({"strategy": "fedavg", "alpha": 0.1}, {"strategy": "fedavg", "alpha": 0.5})
    assert titles(checked(accuracy_by_round(runs, rows(ROUNDS, ["b", 1, 0.5], ["b", 2, 0.5])))) == ["α=0.5"]


@pytest.mark.slow
def test_accuracy_by_round_of_12_conditions_and_families() -> None:
    alphas = [round(0.01 * 2**power, 2) for power in range(12)]
    strategies = [{"strategy": "fedavg"}, {"strategy": "fedprox"}, {"strategy": "fml"}]
    strategies += [
        {"strategy": "fedlpfm", "lam": 0.5, "teacher": f"{LONG}-{place}", "last": place / 10} for place in range(9)
    ]
    runs = named(*({**strategy, "alpha": alpha} for alpha in alphas for strategy in strategies))
    cells = [[run, number, 0.1 * number] for run in runs.index for number in (1, 2)]
    figure = checked(accuracy_by_round(runs, rows(ROUNDS, *cells)))
    assert titles(figure) == [f"α={alpha:g}" for alpha in alphas]
    assert legend(figure) == ["FedAvg", "FedProx", "FML", *(f"Fed-LPFM, {LONG}-{place}" for place in (6, 7, 8))]
    assert note(figure) == "the 3 most accurate teachers of each algorithm; 6 more are not shown"
    assert [axes.get_ylabel() != "" for axes in panels(figure)] == [True, False, False] * 4
    assert len(lines(panels(figure)[11], COLORS["Fed-LPFM"])) == 3


def by_alpha(**changes: object) -> pd.DataFrame:
    lasts = {("fedavg", 0.01): (0.1, 0.3), ("fedavg", 1.0): (0.5, 0.5), ("fedprox", 0.01): (0.4, np.nan)}
    runs = [
        {"strategy": strategy, "alpha": alpha, "seed": seed, "last": last, **changes}
        for (strategy, alpha), values in lasts.items()
        for seed, last in enumerate(values)
    ]
    return named(*runs)


def test_the_axis_has_the_numbers_of_averaged_rounds() -> None:
    """Runs of different length average different numbers of rounds."""
    figure = checked(heterogeneity(pd.concat([by_alpha(k=2), by_alpha(k=10)])))
    assert "mean accuracy, last 2 to 10 rounds (%)" in labels(figure)


def test_heterogeneity_draws_mean_and_std_by_alpha() -> None:
    figure = checked(heterogeneity(by_alpha()))
    (axes,) = panels(figure)
    assert axes.get_xscale() == "log"
    assert rounded(lines(axes, COLORS["FedAvg"])[0]) == [(0.01, 20), (1, 50)]
    assert rounded(lines(axes, COLORS["FedProx"])[0]) == [(0.01, 40)]
    bars = [container.lines[2][0].get_segments() for container in axes.containers]
    deviation = 100 * np.std([0.1, 0.3], ddof=1)
    assert bars[0][0][:, 1] == pytest.approx([20 - deviation, 20 + deviation])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.01", "1"]
    assert labels(figure) == {"Dirichlet α (smaller: more heterogeneous clients)", "mean accuracy, last 5 rounds (%)"}
    assert sorted(texts(axes)) == ["FedAvg", "FedProx"]
    assert {text.get_text(): text.get_color() for text in axes.texts} == {k: COLORS[k] for k in ("FedAvg", "FedProx")}


def test_heterogeneity_of_one_alpha_is_none() -> None:
    assert heterogeneity(by_alpha(alpha=0.1)) is None
    assert heterogeneity(by_alpha().drop(columns="partition.alpha")) is None


def test_heterogeneity_fits_long_names() -> None:
    runs = [
        {"strategy": "fedlpfm", "lam": 0.5, "teacher": f"{LONG}-{t}", "alpha": a} for t in range(3) for a in (0.1, 1)
    ]
    figure = checked(heterogeneity(named(*runs)))
    assert sorted(texts(figure.axes[0])) == [f"Fed-LPFM, {LONG}-{place}" for place in range(3)]
