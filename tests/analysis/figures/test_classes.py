import numpy as np
import pandas as pd
import pytest
from helpers.frames import checked, labels, legend, lines, named, note, panels, rounded, rows, texts, titles
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from analysis.figures.classes import accuracy_by_class, confusions, rare_for
from analysis.figures.families import joined
from analysis.figures.style import COLORS

CLASSES = ["run", "round", "class", "class_name", "examples", "test_accuracy"]
HELD = ["run", "client", "class", "class_name", "examples"]
NAMES = ("cat", "dog", "ship")


def runs() -> pd.DataFrame:
    return named(
        {"strategy": "fedavg"}, {"strategy": "fedavg", "seed": 1}, {"strategy": "fedlpfm", "lam": 0.5, "last": 0.6}
    )


def of_classes(**accuracies: tuple[float, ...]) -> pd.DataFrame:
    cells = [(run, 9, c, NAMES[c], 10, acc) for run, own in accuracies.items() for c, acc in enumerate(own)]
    return rows(CLASSES, *cells)


def holdings() -> pd.DataFrame:
    """Three clients: the first one has just under 5 % dogs, the second one 5 %, the third one dogs only."""
    cells = [(0, 0, 961), (0, 1, 39), (1, 0, 950), (1, 1, 50), (2, 1, 7)]
    return rows(HELD, *((run, client, c, NAMES[c], n) for run in "abc" for client, c, n in cells))


def shaded(axes: Axes) -> list[int]:
    return sorted(round(p.get_y() + 0.5) for p in axes.patches if isinstance(p, Rectangle))


def test_rare_for_is_the_share_of_clients_with_few_examples() -> None:
    table = rare_for(joined(runs(), holdings()))
    assert table.loc["Dirichlet α=0.1"].to_dict() == pytest.approx({0: 1 / 3, 1: 1 / 3})  # 3.9 % is rare, 5 % is not


def test_accuracy_by_class_is_a_mean_over_seeds() -> None:
    table = of_classes(a=(0.1, 0.3, np.nan), b=(0.3, 0.5, np.nan), c=(0.8, np.nan, 0.4))
    figure = checked(accuracy_by_class(runs(), table, holdings()))
    (axes,) = panels(figure)
    (fedavg,), (fedlpfm,) = lines(axes, COLORS["FedAvg"]), lines(axes, COLORS["Fed-LPFM"])
    assert [x for x, _ in rounded(fedavg) if x == x] == [20, 40]
    assert [(round(x), round(y)) for x, y in fedlpfm if x == x] == [(80, 0), (40, 2)]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == list(NAMES)
    assert axes.yaxis_inverted()
    assert texts(axes) == ["33 %", "33 %", "100 %"]  # no client holds a ship
    assert shaded(axes) == [2]
    assert axes.get_title("right") == "rare for"
    assert labels(figure) == {"test accuracy (%)", "class"}
    assert legend(figure) == ["FedAvg", "Fed-LPFM", "rare for most clients: under 5 % of their examples"]


def test_accuracy_by_class_without_partition_marks_no_class_as_rare() -> None:
    figure = checked(accuracy_by_class(runs(), of_classes(a=(0.1, 0.2, 0.3)), holdings().iloc[:0]))
    assert texts(panels(figure)[0]) == []
    assert legend(figure) == ["FedAvg"]


def test_accuracy_by_class_without_accuracies_is_none() -> None:
    nothing = of_classes(a=(np.nan, np.nan, np.nan))
    assert accuracy_by_class(runs(), nothing, holdings()) is None
    assert accuracy_by_class(runs(), nothing.iloc[:0], holdings()) is None


def test_accuracy_by_class_draws_worst_and_best_of_100_classes() -> None:
    order = np.random.default_rng(0).permutation(100)  # the class of each rank
    table = rows(CLASSES, *(("a", 9, c, f"class {c}", 10, rank / 100) for rank, c in enumerate(order.tolist())))
    figure = checked(accuracy_by_class(runs(), table, holdings()))
    (axes,) = panels(figure)
    expected = [f"class {c}" for c in [*order[:10], *order[-10:]]]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == expected
    (marks,) = lines(axes, COLORS["FedAvg"])
    assert [round(x) for x, _ in marks] == [*range(10), *range(90, 100)]
    assert note(figure) == "the 10 worst and 10 best of 100 classes"


@pytest.mark.slow
def test_accuracy_by_class_has_a_panel_for_each_of_12_conditions() -> None:
    alphas = [0.01 * 2**power for power in range(12)]
    many = named(*({"strategy": "fedavg", "alpha": alpha} for alpha in alphas))
    table = of_classes(**dict.fromkeys(many.index, (0.1, 0.2, 0.3)))
    figure = checked(accuracy_by_class(many, table, holdings()))
    assert titles(figure) == [f"α={alpha:g}" for alpha in alphas]
    assert [len(texts(axes)) for axes in panels(figure)] == [3] * 3 + [0] * 9  # of the runs a, b and c


PAIRS = ["run", "class", "predicted_class", "examples"]


def proxy() -> pd.DataFrame:
    return rows(PAIRS, ("a", 0, 0, 6), ("a", 0, 1, 2), ("a", 1, 1, 3), ("a", 1, 0, 9), ("b", 0, 1, 2))


def teacher() -> pd.DataFrame:
    return rows(PAIRS, ("a", 0, 0, 9), ("a", 0, 2, 1), ("a", 1, 1, 10))


def written(axes: Axes) -> dict[tuple[int, int], str]:
    return {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axes.texts}


def test_confusions_of_teacher_and_proxy() -> None:
    figure = checked(confusions(proxy(), teacher(), dict(enumerate(NAMES))))
    of_teacher, of_proxy = panels(figure)
    assert titles(figure) == [
        "teacher, on clients' examples:\n95.0 % correct",
        "proxy, on the test set:\n40.9 % correct",
    ]
    assert written(of_teacher) == {(0, 0): "90", (0, 2): "10", (1, 1): "100"}
    assert written(of_proxy) == {(0, 0): "60", (0, 1): "40", (1, 0): "75", (1, 1): "25"}
    grid = of_proxy.images[0].get_array()
    assert np.ma.filled(grid, np.nan)[:2] == pytest.approx(np.array([[60, 40, 0], [75, 25, 0]]))
    assert np.ma.getmaskarray(grid)[2].all()  # the test set has no ship
    assert {axes.images[0].get_clim() for axes in (of_teacher, of_proxy)} == {(0, 100)}
    assert [tick.get_text() for tick in of_proxy.get_xticklabels()] == list(NAMES)
    assert labels(figure) == {"class", "predicted class", "share of the class (%)"}


def test_confusions_of_one_model_and_of_none() -> None:
    assert titles(checked(confusions(proxy(), None, {}))) == ["proxy, on the test set:\n40.9 % correct"]
    assert titles(checked(confusions(None, teacher(), {}))) == ["teacher, on clients' examples:\n95.0 % correct"]
    assert confusions(proxy().iloc[:0], None, {0: "cat"}) is None


def test_confusions_take_names_as_series_and_classes_without_names() -> None:
    names = pd.Series(["cat"], index=pd.Index([0.0], name="class"))
    (axes,) = panels(checked(confusions(proxy(), None, names)))
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["cat", "1"]


def test_confusions_shorten_long_class_names() -> None:
    names = {place: f"a very long\nname of a class, number {place}" for place in range(12)}
    table = rows(["run", "class", "predicted_class", "examples"], *(("a", place, place, 5) for place in names))
    figure = checked(confusions(table, table, names))
    (first, _) = panels(figure)
    shown = [tick.get_text() for tick in first.get_yticklabels()]
    assert shown[:2] == ["a very long nam…number 0", "a very long nam…number 1"]


def test_confusions_of_100_classes_have_no_numbers() -> None:
    table = rows(PAIRS, *(("a", c, c, 5) for c in range(100)))
    figure = checked(confusions(table, table, {c: f"class number {c}" for c in range(100)}))
    first, _ = panels(figure)
    assert texts(first) == []
    assert first.images[0].get_array().shape == (100, 100)
    assert [tick.get_text() for tick in first.get_xticklabels()][:3] == [f"class number {c}" for c in (0, 4, 8)]
