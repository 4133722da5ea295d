import math
from collections.abc import Sequence

import numpy as np
import pytest

from analysis.stats import MIN_PAIRS, holm, paired_p


@pytest.mark.parametrize(
    ("degrees", "t", "p"),
    [(2, 4.303, 0.05), (3, 5.841, 0.01), (4, 2.776, 0.05), (9, 2.262, 0.05), (9, 1.383, 0.2), (29, 3.659, 0.001)],
)
def test_paired_p_equals_the_printed_table(degrees: int, t: float, p: float) -> None:
    """Two-sided critical values of Student's t with three digits, from textbooks."""
    pairs = degrees + 1
    shape = np.arange(pairs) - (pairs - 1) / 2
    for sign in (1, -1):
        mean = sign * t * shape.std(ddof=1) / math.sqrt(pairs)
        assert paired_p(list(shape + mean)) == pytest.approx(p, rel=2e-3)


def test_paired_p_equals_the_closed_form_for_three_pairs() -> None:
    """With two degrees of freedom, p = 1 - t / √(2 + t²)."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        values = rng.normal(0.01, 0.02, 3)
        t = abs(values.mean()) / (values.std(ddof=1) / math.sqrt(3))
        assert paired_p(list(values)) == pytest.approx(1 - t / math.sqrt(2 + t * t))


def test_paired_p_equals_the_integrated_density() -> None:
    """The area of Student's density beyond ±t, by Simpson's rule in x = tan u."""
    values = [0.021, 0.034, -0.008, 0.017, 0.025, 0.002]
    t = np.mean(values) / (np.std(values, ddof=1) / math.sqrt(6))
    u = np.linspace(-math.atan(t), math.atan(t), 2001)
    density = (
        math.gamma(3) / (math.sqrt(5 * math.pi) * math.gamma(2.5)) * (1 + np.tan(u) ** 2 / 5) ** -3 / np.cos(u) ** 2
    )
    weights = np.array([1, *[4, 2] * 999, 4, 1]) * (u[1] - u[0]) / 3
    assert paired_p(values) == pytest.approx(1 - float(weights @ density), abs=1e-9)


def test_paired_p_of_a_mean_of_zero_is_one() -> None:
    assert paired_p([-1, 0, 1]) == 1


@pytest.mark.parametrize("values", [[], [0.1], [0.1, 0.2], [0.1] * 5, [0.0] * 3, [0.3 - 0.2, 0.4 - 0.3, 0.1]])
def test_paired_p_of_few_or_equal_values_is_nan(values: Sequence[float]) -> None:
    """Too few values, or values that are equal except for rounding."""
    assert MIN_PAIRS == 3
    assert math.isnan(paired_p(values))


def test_holm_by_hand() -> None:
    """Four p-values are multiplied by 4, 3, 2 and 1, from the smallest to the largest, and do not decrease."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_equals_the_published_example() -> None:
    """The 15 p-values of Benjamini and Hochberg (J. R. Stat. Soc. B 57:289, 1995).

    There, both Bonferroni's and Hochberg's procedure reject three of them at 0.05; Holm's lies between the two.
    """
    published = [
        0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344,
        0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000,
    ]  # fmt: skip
    corrected = holm(published)
    assert corrected[:4] == pytest.approx([0.0015, 0.0056, 0.0247, 0.114])
    assert (corrected <= 0.05).sum() == 3
    assert corrected[9:].tolist() == [1.0] * 6


def test_holm_equals_its_definition() -> None:
    """p̃₍ᵢ₎ = max over j ≤ i of min((m - j + 1) p₍ⱼ₎, 1)."""
    rng = np.random.default_rng(1)
    for count in range(1, 9):
        ps = rng.uniform(0, 0.3, count)
        ranks = np.argsort(np.argsort(ps))
        ordered = sorted(ps)
        slow = [max(min((count - j) * ordered[j], 1) for j in range(rank + 1)) for rank in ranks]
        assert holm(list(ps)) == pytest.approx(slow)


def test_holm_ignores_nan() -> None:
    assert holm([math.nan, 0.02, math.nan, 0.01]) == pytest.approx([math.nan, 0.02, math.nan, 0.02], nan_ok=True)
    assert holm([math.nan]) == pytest.approx([math.nan], nan_ok=True)
    assert holm([]).tolist() == []
