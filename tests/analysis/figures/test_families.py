import pytest
from helpers.frames import named, rows
from matplotlib.figure import Figure

from analysis.figures.families import chosen, joined, present, share_legend, styles_of
from analysis.figures.style import COLORS

TEACHERS = ("RN50", "RN101", "ViT-B-16", "ViT-B-32", "ViT-L-14")
BEST = (0.3, 0.7, 0.4, 0.6, 0.5)


def many() -> list[dict[str, object]]:
    """FedAvg, and five teachers with two λ each."""
    targets = [
        {"strategy": "fedlpfm", "teacher": teacher, "lam": lam, "last": last if lam == 0.5 else 0.9 - last}
        for teacher, last in zip(TEACHERS, BEST, strict=True)
        for lam in (0.5, 1.0)
    ]
    return [*targets, {"strategy": "fedavg", "last": 0.1}]


def test_chosen_are_the_families_with_the_best_settings() -> None:
    shown, note = chosen(named(*many()))
    # of (0.3, 0.6), (0.7, 0.2), (0.4, 0.5), (0.6, 0.3), (0.5, 0.4): at best 0.6, 0.7, 0.5, 0.6, 0.5
    assert present(shown["family"]) == ["FedAvg", "Fed-LPFM, RN101", "Fed-LPFM, RN50", "Fed-LPFM, ViT-B-32"]
    assert note == "the 3 most accurate teachers of each algorithm; 2 more are not shown"


def test_chosen_are_all_of_few_families() -> None:
    table = named({"strategy": "fedavg"}, {"strategy": "fedprox"}, {"strategy": "fedlpfm", "lam": 0.5})
    shown, note = chosen(table)
    assert list(shown.index) == ["a", "b", "c"]
    assert note == ""


def test_chosen_families_without_accuracy_come_last() -> None:
    runs = [{**run, "last": float("nan")} if run.get("teacher") == "RN101" else run for run in many()]
    assert "Fed-LPFM, RN101" not in present(chosen(named(*runs))[0]["family"])


def test_styles_of_chosen_families_differ_most() -> None:
    styles = styles_of(named(*many()))
    shown = [styles[f"Fed-LPFM, {teacher}"] for teacher in ("RN101", "RN50", "ViT-B-32")]
    assert len({str(line["linestyle"]) for line in shown}) == 3
    assert {line["color"] for family, line in styles.items() if family != "FedAvg"} == {COLORS["Fed-LPFM"]}
    assert styles_of(chosen(named(*many()))[0]) == {
        f: styles[f] for f in styles if styles[f] in [*shown, styles["FedAvg"]]
    }


def test_joined_rows_have_family_and_condition_of_their_run() -> None:
    runs = named({"strategy": "fedprox", "alpha": 0.5}, {"strategy": "fedavg", "alpha": 0.1})
    table = rows(["run", "accuracy"], ["b", 0.1], ["a", 0.2], ["z", 0.3], ["b", 0.4])
    with_labels = joined(runs, table)
    assert with_labels["accuracy"].tolist() == [0.1, 0.2, 0.4]
    assert with_labels["family"].tolist() == ["FedAvg", "FedProx", "FedAvg"]
    assert with_labels["condition"].tolist() == ["α=0.1", "α=0.5", "α=0.1"]
    assert present(with_labels["family"]) == ["FedAvg", "FedProx"]


@pytest.mark.parametrize(("letters", "columns"), [(6, 6), (30, 3), (300, 1)])
def test_legend_has_as_many_columns_as_fit(letters: int, columns: int) -> None:
    figure = Figure(figsize=(9, 3), layout="constrained")
    line = {"color": "#0072B2", "linestyle": "-"}
    share_legend(figure, {f"{place}" * letters: line for place in range(6)}, "a sentence")
    (legend,) = figure.legends
    assert legend._ncols == columns
    assert legend.get_title().get_text() == "a sentence"
