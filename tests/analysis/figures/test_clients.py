import numpy as np
import pandas as pd
import pytest
from helpers.frames import checked, labels, legend, named, panels, rounded, rows, titles
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from analysis.figures.clients import partitions, spread
from analysis.figures.style import COLORS

CLIENTS = ["run", "round", "client", "train_accuracy"]
HELD = ["run", "client", "class", "class_name", "examples"]
NAMES = ("cat", "dog", "ship")


def runs() -> pd.DataFrame:
    return named(
        {"strategy": "fedprox", "alpha": 0.1},
        {"strategy": "fedavg", "alpha": 0.1, "seed": 1},
        {"strategy": "fedavg", "alpha": 0.1, "seed": 2},
        {"strategy": "fedavg", "alpha": 0.5, "seed": 2},
    )


def of_clients(**accuracies: tuple[float, ...]) -> pd.DataFrame:
    return rows(
        CLIENTS, *((run, 9, place, acc) for run, values in accuracies.items() for place, acc in enumerate(values))
    )


def dots(axes: Axes, color: str) -> list[float]:
    strips = [drawn for drawn in axes.collections if to_hex(drawn.get_facecolor()[0]) == color.lower()]
    return sorted(round(float(x), 6) for drawn in strips for x in drawn.get_offsets()[:, 0])


def test_spread_draws_a_dot_for_each_client_of_each_seed() -> None:
    figure = checked(spread(runs(), of_clients(a=(0.5, 0.9), b=(0.1, 0.2, np.nan), c=(0.3, 0.6), d=(0.7,))))
    first, second = panels(figure)
    assert titles(figure) == ["α=0.1", "α=0.5"]
    assert [tick.get_text() for tick in first.get_yticklabels()] == ["FedAvg", "FedProx"]
    assert dots(first, COLORS["FedAvg"]) == [10, 20, 30, 60]
    assert dots(first, COLORS["FedProx"]) == [50, 90]
    assert dots(second, COLORS["FedAvg"]) == [70]
    bar, median = first.lines[:2]
    assert list(bar.get_xdata()) == pytest.approx([17.5, 37.5])  # quartiles of 10, 20, 30, 60
    assert list(median.get_xdata()) == pytest.approx([25])
    heights = first.collections[0].get_offsets()[:, 1]
    assert len({round(float(y), 3) for y in heights}) == 4
    assert np.abs(heights).max() < 0.3  # each dot is in its row
    assert labels(figure) == {"train accuracy (%)"}
    assert legend(figure) == ["a client", "median", "middle half"]


def test_spread_without_clients_is_none() -> None:
    assert spread(runs(), of_clients(a=(np.nan,))) is None
    assert spread(runs(), of_clients()) is None


def test_spread_of_100_clients_wraps_long_family_names() -> None:
    name = "clip-vit-large-patch14-336-with-a-name-that-goes-on"
    many = named(*({"strategy": "fedlpfm", "lam": 0.5, "teacher": f"{name}-{place}"} for place in range(3)))
    accuracy = tuple(place / 100 for place in range(100))
    figure = checked(spread(many, of_clients(a=accuracy, b=accuracy, c=accuracy)))
    (axes,) = panels(figure)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [
        f"Fed-LPFM,\nclip-vit-large-\npatch14-336-with-a-name-\nthat-goes-on-{place}" for place in range(3)
    ]
    assert len(dots(axes, COLORS["Fed-LPFM"])) == 300


def bubbles(axes: Axes) -> dict[tuple[float, ...], float]:
    """Areas by client and row."""
    (drawn,) = axes.collections
    return dict(zip(rounded(drawn.get_offsets()), drawn.get_sizes().tolist(), strict=True))


def holdings(*cells: tuple[str, int, int, int]) -> pd.DataFrame:
    return rows(HELD, *((run, client, c, NAMES[c], n) for run, client, c, n in cells))


def test_partitions_areas_are_proportional_to_examples() -> None:
    table = holdings(("c", 0, 0, 80), ("c", 0, 2, 20), ("c", 1, 2, 0), ("c", 2, 0, 40), ("d", 1, 0, 160))
    figure = checked(partitions(runs(), table))
    first, second = panels(figure)
    assert titles(figure) == ["α=0.1, seed 2", "α=0.5, seed 2"]
    areas, of_other = bubbles(first), bubbles(second)
    assert set(areas) == {(0, 0), (0, 1), (2, 0)}  # no bubble without examples, no row for a class without examples
    assert areas[0, 0] == pytest.approx(4 * areas[0, 1])
    assert areas[0, 0] == pytest.approx(2 * areas[2, 0])
    assert of_other[1, 0] == pytest.approx(2 * areas[0, 0])  # panels have one scale
    assert [tick.get_text() for tick in first.get_yticklabels()] == ["cat", "ship"]
    assert labels(figure) == {"client", "class"}
    assert legend(figure) == ["20", "50", "200"]
    sizes = [line.get_markersize() for line in figure.legends[0].get_lines()]
    assert sizes[0] ** 2 / 20 == pytest.approx(areas[0, 0] / 80)


def test_partitions_draw_one_run_of_the_smallest_seed() -> None:
    again = named(
        {"strategy": "fedavg", "seed": 3}, {"strategy": "fedprox", "seed": 3}, {"strategy": "fedavg", "seed": 1}
    )
    table = holdings(("a", 0, 0, 10), ("b", 0, 0, 10), ("c", 1, 1, 10))
    figure = checked(partitions(again, table))
    assert titles(figure) == ["Dirichlet α=0.1, seed 1"]
    assert set(bubbles(panels(figure)[0])) == {(1, 0)}
    without = checked(partitions(again, table[table["run"] != "c"]))
    assert titles(without) == ["Dirichlet α=0.1, seed 3"]
    assert set(bubbles(panels(without)[0])) == {(0, 0)}


def test_partitions_without_examples_are_none() -> None:
    assert partitions(runs(), holdings()) is None
    assert partitions(runs(), holdings(("a", 0, 0, 0))) is None


def test_partitions_draw_20_of_100_clients_and_classes() -> None:
    cells = [("a", client, c, f"class {c}", 1 + c) for client in range(100) for c in range(100)]
    figure = checked(partitions(runs(), rows(HELD, *cells)))
    (axes,) = panels(figure)
    assert len(bubbles(axes)) == 400
    assert labels(figure) == {"client (the first 20 of 100)", "class (the first 20 of 100)"}
