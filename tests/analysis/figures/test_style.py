import subprocess
import sys

import pytest

from analysis.figures import style
from fedray.strategies.base import Strategy
from fedray.strategies.fedavg import FedAvg

BACKGROUNDS = ("#ffffff", "#16181c")


def luminance(color: str) -> float:
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("color", [*style.COLORS.values(), *style.OTHER_COLORS])
def test_colors_have_contrast_on_light_and_dark_backbackgrounds(color: str, background: str) -> None:
    assert contrast(color, background) >= 3  # WCAG 2.2, 1.4.11: graphics


def test_no_two_strategies_have_one_color() -> None:
    assert len(set(style.COLORS.values())) == len(style.COLORS)


def test_text_color_is_used_for_text_only() -> None:
    assert style.TEXT_COLOR not in {*style.COLORS.values(), *style.OTHER_COLORS, style.FAINT_COLOR}


def test_color_is_that_of_the_strategy_class() -> None:
    assert style.color("FedAvg") == style.COLORS["FedAvg"]
    assert style.color("FedAvg") == FedAvg.color
    assert style.color("unknown") == Strategy.color


def test_styles_of_one_color_differ_in_dashes_and_marker() -> None:
    styles = style.styles([("FedAvg", "FedAvg"), *((f"Fed-LPFM, {place}", "Fed-LPFM") for place in range(4))])
    of_fedlpfm = [styles[f"Fed-LPFM, {place}"] for place in range(4)]
    assert {line["color"] for line in of_fedlpfm} == {style.COLORS["Fed-LPFM"]}
    assert len({str(line["linestyle"]) for line in of_fedlpfm}) == 4
    assert len({line["marker"] for line in of_fedlpfm}) == 4
    assert styles["FedAvg"]["linestyle"] == "-"


def test_styles_of_unknown_algorithms_differ_in_dashes() -> None:
    styles = style.styles([("ab", "ab"), ("ba", "ba")])
    assert styles["ab"]["linestyle"] != styles["ba"]["linestyle"]


@pytest.mark.parametrize("color", ["#000000", "#ffffff", "#808080", "#7f3b08", "#e08214", *style.COLORS.values()])
def test_text_color_on_a_backbackground_has_the_higher_contrast(color: str) -> None:
    background = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    wanted = "black" if contrast(color, "#000000") > contrast(color, "#ffffff") else "white"
    assert style.text_color_on(background) == wanted


def test_columns_of_panels_fill_their_rows() -> None:
    assert [style.columns_of(count) for count in (1, 2, 3, 4, 5, 6, 7, 10, 12)] == [1, 2, 3, 2, 3, 3, 3, 3, 3]
    assert style.columns_of(4, 2) == 2
    assert style.size_of(7)[1] == pytest.approx(3 * 2.7 + 0.3)


def test_label_outer_labels_the_outer_panels() -> None:
    with style.new_figure(9, 5) as figure:
        axes = style.panels(figure, ["A", "B", "C", "D", "E"], sharex=True, sharey=True)
        style.label_outer(axes, "round", "accuracy (%)")
    assert [panel.get_title("left") for panel in axes] == ["A", "B", "C", "D", "E"]
    assert [panel.get_xlabel() for panel in axes] == [
        "",
        "",
        "round",
        "round",
        "round",
    ]  # no panel is below the third one
    assert [panel.get_ylabel() for panel in axes] == ["accuracy (%)", "", "", "accuracy (%)", ""]
    figure.draw_without_rendering()
    shown = [any(label.get_visible() for label in panel.get_xticklabels()) for panel in axes]
    assert shown == [False, False, True, True, True]
    assert not figure.axes[5].axison


def test_label_ends_do_not_overlap() -> None:
    ends = [(1.0, 0.5 + place / 1000, f"family {place}", "#0072B2") for place in range(12)]
    with style.new_figure(7.2, 3.6) as figure:
        (axes,) = style.panels(figure, [""])
        axes.set(xlim=(0, 1), ylim=(0, 1))
        style.label_ends(axes, [*reversed(ends), (1.0, 0.99, "above", "#D55E00"), (1.0, 0.02, "below", "#D55E00")])
    heights = {text.get_text(): text.xyann[1] for text in axes.texts}
    assert [text.get_text() for text in axes.texts] == ["below", *(end[2] for end in ends), "above"]
    gaps = [after - before for before, after in zip(list(heights.values()), list(heights.values())[1:], strict=False)]
    assert min(gaps) >= 0.055 - 1e-9
    assert max(heights.values()) <= 1
    assert heights["below"] == 0.02
    assert heights["above"] == 1  # pushed up by the twelve labels below
    assert heights["family 0"] == pytest.approx(1 - 12 * 0.055)


def test_label_ends_of_many_labels_are_evenly_spaced() -> None:
    with style.new_figure(7.2, 3.6) as figure:
        (axes,) = style.panels(figure, [""])
        axes.set(ylim=(0, 1))
        style.label_ends(axes, [(1.0, 0.0, str(place), "#0072B2") for place in range(41)])
    assert [text.xyann[1] for text in axes.texts] == pytest.approx([place / 40 for place in range(41)])


def test_figures_do_not_import_pyplot() -> None:
    program = (
        "import sys; from analysis.figures import classes, clients, costs, curves, style, sweeps\n"
        "with style.new_figure(3, 3) as figure: style.panels(figure, ['A'])\n"
        "figure.draw_without_rendering(); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
