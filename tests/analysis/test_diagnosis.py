from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.studies import write_run, write_study

from analysis.diagnosis import Finding, diagnose
from analysis.diagnosis.heterogeneity import slopes
from analysis.records import load
from analysis.report.data import ReportData

FEDAVG = {"name": "fedavg"}
TAUGHT = {"name": "fedlpfm", "lam": 0.5}
Curve = Callable[[Mapping[str, Any], float, int], Sequence[float]]


def material(root: Path, strategies: Sequence[Mapping[str, Any]], accuracy: Curve, **more: Any) -> ReportData:
    return ReportData.of(load(write_study(root, strategies, accuracy=accuracy, **more)))


def found(material: ReportData, about: str) -> list[Finding]:
    findings = diagnose(material.named, material.rounds, material.clients)
    return [finding for finding in findings if finding.about == about]


def falling(strategy: Mapping[str, Any], alpha: float, seed: int) -> list[float]:
    """FedAvg loses 20 points a decade, the taught one 10, 8 or 12."""
    start = 0.2 if strategy == FEDAVG else 0.3 + (0, 0.02, -0.02)[seed]
    return [start if alpha == 0.05 else 0.4] * 12


def test_heterogeneity_slopes_and_their_difference_to_fedavg(tmp_path: Path) -> None:
    study = material(tmp_path, [FEDAVG, TAUGHT], falling)
    table = slopes(study.best, "partition.alpha")
    assert table.loc["FedAvg"].tolist() == pytest.approx([0.2, 0.2, 0.2])
    assert table.loc["Fed-LPFM"].tolist() == pytest.approx([0.1, 0.08, 0.12])
    fall, saved = found(study, "Heterogeneity")
    assert fall.sentence == (
        "From 0.5 to 0.05 of Dirichlet's α, fitted over its logarithm, accuracy changes by -10.0 points for Fed-LPFM "
        "and -20.0 for FedAvg."
    )
    assert fall.warns
    assert len(fall.runs) == 12
    # saved 10, 12 and 8 points: t = 0.1 / (0.02 / √3) = 8.66, and with 2 degrees p = 1 - t / √(t² + 2) = 0.013
    assert saved.sentence == (
        "Fed-LPFM flattens the fall: a decade costs it 10.0 points less than FedAvg (3 seeds, p = 0.013)."
    )


def test_heterogeneity_corrects_p_over_families(tmp_path: Path) -> None:
    """The smaller p, 0.013, is doubled; what the other teacher saves, -1, 0 and 1 points, is not sure."""
    for seed in range(3):
        for alpha in (0.05, 0.5):
            for name, strategy in (("ViT-B-16", FEDAVG), ("ViT-B-32", TAUGHT), ("RN50", TAUGHT)):
                accuracy = falling(strategy, alpha, seed)
                if (name, alpha) == ("RN50", 0.05):
                    accuracy = [0.19 + 0.01 * seed] * 12
                folder, teacher = tmp_path / f"{name}{alpha}{seed}", {"kind": "zero_shot", "model": name}
                write_run(folder, strategy=strategy, alpha=alpha, seed=seed, accuracy=accuracy, teacher=teacher)
    _, *rest = found(ReportData.of(load(tmp_path)), "Heterogeneity")
    other, better = (finding.sentence for finding in rest)
    assert other.startswith("Whether Fed-LPFM, RN50 flattens the fall cannot be told")
    assert "Fed-LPFM, ViT-B-32 flattens the fall: a decade costs it 10.0 points less" in better
    assert better.endswith("(3 seeds, p = 0.026).")


def test_heterogeneity_slopes_do_not_mix_data_sets(tmp_path: Path) -> None:
    """Ten points for more data, and for α none: of unequal partitions of both, no slope."""
    for limit, level in ((100, 0.3), (1000, 0.4)):
        for alpha in (0.05, 0.5):
            data = {"train": "digits", "test": "digits", "train_limit": limit}
            write_run(tmp_path / f"{limit}-{alpha}", data=data, alpha=alpha, accuracy=[level] * 12)
    data |= {"train_limit": 5000}
    write_run(tmp_path / "larger", data=data, alpha=0.5, accuracy=[0.9] * 12)
    study = ReportData.of(load(tmp_path))
    assert slopes(study.named, "partition.alpha").loc["FedAvg"].tolist() == pytest.approx([0.0])


def test_heterogeneity_of_two_seeds_that_disagree_is_undecided(tmp_path: Path) -> None:
    def curve(strategy: Mapping[str, Any], alpha: float, seed: int) -> list[float]:
        start = 0.2 if strategy == FEDAVG else (0.25, 0.18)[seed]
        return [start if alpha == 0.05 else 0.4] * 12

    _, saved = found(material(tmp_path, [FEDAVG, TAUGHT], curve, seeds=(0, 1)), "Heterogeneity")
    assert saved.sentence == (
        "Whether Fed-LPFM flattens the fall cannot be told: a decade costs it 1.5 points less than FedAvg "
        "(+5.0 and -2.0 with 2 seeds, too few for a test)."
    )


def test_heterogeneity_of_two_seeds_is_not_tested(tmp_path: Path) -> None:
    _, saved = found(material(tmp_path, [FEDAVG, TAUGHT], falling, seeds=(0, 1)), "Heterogeneity")
    assert saved.sentence.startswith("Whether Fed-LPFM flattens the fall cannot be told")
    assert "(+10.0 and +12.0 with 2 seeds, too few for a test)" in saved.sentence


def test_heterogeneity_ignores_seeds_without_all_values(tmp_path: Path) -> None:
    study = material(tmp_path, [FEDAVG, TAUGHT], falling, alphas=(0.05, 0.5, 5.0), seeds=(0,))
    _, saved = found(study, "Heterogeneity")
    assert saved.sentence.startswith("Whether Fed-LPFM flattens the fall cannot be told")
    lacking = study.best[(study.best["family"] != "Fed-LPFM") | (study.best["partition.alpha"] < 5)]
    table = slopes(lacking, "partition.alpha")
    assert table.loc["FedAvg"].notna().all()
    assert table.loc["Fed-LPFM"].isna().all()


def test_heterogeneity_of_one_condition_has_no_finding(tmp_path: Path) -> None:
    assert found(material(tmp_path, [FEDAVG], falling, alphas=(0.05,)), "Heterogeneity") == []


def test_update_agreement_warns_below_the_minimum_cosine(tmp_path: Path) -> None:
    columns = {"update_cosine": 0.2, "update_norm": 0.5, "update_drift": 2.0}
    study = material(tmp_path, [FEDAVG], falling, alphas=(0.05,), per_round=columns)
    (apart,) = found(study, "Clients' updates")
    assert apart.sentence == (
        "Client updates have a mean cosine to their mean of 0.20 for FedAvg; "
        "they drift from it by up to 4.0 times its length (FedAvg)."
    )
    assert apart.warns
    agreeing = material(tmp_path / "b", [FEDAVG], falling, alphas=(0.05,), per_round=columns | {"update_cosine": 0.9})
    assert not found(agreeing, "Clients' updates")[0].warns


def test_client_spread_is_the_std_of_train_accuracies(tmp_path: Path) -> None:
    study = material(tmp_path, [FEDAVG], falling, alphas=(0.05,), train_accuracy=(0.9, 0.5, 0.9, 0.5))
    (spread,) = found(study, "Clients' spread")
    # deviations of 0.2 each: (4 · 0.2² / 3)^½ = 0.231
    assert spread.sentence == (
        "Clients' accuracies on their own examples in the last round deviate by 23.1 points with FedAvg."
    )
    assert spread.warns


def test_worst_class_finding_counts_cells_below_one_percent(tmp_path: Path) -> None:
    study = material(tmp_path, [FEDAVG, TAUGHT], falling, per_round={"worst_class_accuracy": 0.004})
    (left,) = found(study, "Worst class")
    assert left.sentence.startswith(
        "In 4 of 4 cells the worst class of a round is under 1 % on average (on α=0.05 and α=0.5); in the best"
    )
    assert found(material(tmp_path / "b", [FEDAVG], falling), "Worst class") == []


@pytest.mark.parametrize(("right", "says"), [(0.35, "is worse than proxies"), (0.89, "is better than any proxy")])
def test_teacher_accuracy_is_compared_with_the_best_proxy(right: float, says: str, tmp_path: Path) -> None:
    """The proxies reach 30 % on average where α=0.05, and 40 % where α=0.5."""
    (teacher,) = found(material(tmp_path, [FEDAVG, TAUGHT], falling, teacher_accuracy=right), "Teacher")
    assert teacher.warns == (right == 0.35)
    assert says in teacher.sentence
    assert f"right on {100 * right:.1f} %" in teacher.sentence
    assert teacher.sentence.endswith("and the best proxy (α=0.5) on 40.0 % of the test set.")
    assert len(teacher.runs) == 6  # those that were taught


def test_teacher_accuracy_is_compared_by_condition(tmp_path: Path) -> None:
    """Right on 60 % of easy examples and 40 % of hard ones, with proxies of 50 and 30 %: better on both."""
    for alpha, right, level in ((0.05, 0.4, 0.3), (0.5, 0.6, 0.5)):
        write_run(tmp_path / f"{alpha}", strategy=TAUGHT, alpha=alpha, accuracy=[level] * 12, teacher_accuracy=right)
    (teacher,) = found(ReportData.of(load(tmp_path)), "Teacher")
    assert not teacher.warns


def by_lam(best: float) -> Curve:
    return lambda strategy, *_: [0.5 - abs(strategy.get("lam", 0) - best) / 4] * 12


@pytest.mark.parametrize(
    ("best", "about", "says", "warns"),
    [
        (0.25, "λ at its edge", "for α=0.05 and α=0.5 is 0.25, the smallest that was tried, by 6.2 points; sma", True),
        (0.75, "λ at its edge", "is 0.75, the largest that was tried, by 6.2 points; larger ones were not tr", True),
        (0.5, "λ", "the best λ for α=0.05 and α=0.5 is 0.5, inside what was tried (0.25 to 0.75).", False),
    ],
)
def test_best_lambda_at_the_edge_of_the_range(best: float, about: str, says: str, warns: bool, tmp_path: Path) -> None:
    strategies = [{"name": "fedlpfm", "lam": lam} for lam in (0.25, 0.5, 0.75)]
    (edge,) = found(material(tmp_path, strategies, by_lam(best)), about)
    assert says in edge.sentence
    assert edge.warns == warns


def test_best_lambda_counts_fedavg_as_zero(tmp_path: Path) -> None:
    strategies = [FEDAVG, *({"name": "fedlpfm", "lam": lam} for lam in (0.25, 0.5))]
    (inside,) = found(material(tmp_path / "a", strategies, by_lam(0.25), alphas=(0.1,)), "λ")
    assert inside.sentence.endswith("the best λ is 0.25, inside what was tried (0 to 0.5).")
    (none,) = found(material(tmp_path / "b", strategies, by_lam(0.0), alphas=(0.1,)), "λ at its edge")
    assert none.sentence.endswith("the best λ is 0, no teacher at all, by 6.2 points; there is nothing beyond it.")
    assert none.warns


def test_best_lambda_with_a_small_lead_does_not_warn(tmp_path: Path) -> None:
    strategies = [{"name": "fedlpfm", "lam": lam} for lam in (0.25, 0.5, 0.75)]
    (edge,) = found(material(tmp_path, strategies, lambda s, *_: [0.5 - s["lam"] / 100] * 12), "λ at its edge")
    assert not edge.warns


def test_best_lambda_is_that_of_the_best_setting(tmp_path: Path) -> None:
    """At λ=0.25 one temperature is best of all and another worst: what counts is not their mean."""
    levels = {(0.25, 1.0): 0.5, (0.25, 4.0): 0.1, (0.5, 1.0): 0.4, (0.5, 4.0): 0.4, (0.75, 1.0): 0.3, (0.75, 4.0): 0.3}
    strategies = [{"name": "fedlpfm", "lam": lam, "temperature": t} for lam, t in levels]
    curve: Curve = lambda s, *_: [levels[s["lam"], s["temperature"]]] * 12  # noqa: E731
    (edge,) = found(material(tmp_path, strategies, curve, alphas=(0.1,)), "λ at its edge")
    assert "the best λ is 0.25, the smallest that was tried, by 10 points" in edge.sentence


def test_best_lambda_of_one_is_the_end_of_a_convex_range(tmp_path: Path) -> None:
    strategies = [{"name": "fedlpfm", "lam": lam} for lam in (0.0, 0.5, 1.0)]
    (edge,) = found(material(tmp_path, strategies, by_lam(1.0)), "λ at its edge")
    assert "there is nothing beyond it" in edge.sentence
    assert not edge.warns


def test_best_lambda_of_one_is_no_end_of_an_additive_range(tmp_path: Path) -> None:
    strategies = [{"name": "fedlpfm", "lam": lam, "balance": "additive"} for lam in (0.0, 0.5, 1.0)]
    (edge,) = found(material(tmp_path, strategies, by_lam(1.0)), "λ at its edge")
    assert edge.warns


def test_rising_curves_are_counted(tmp_path: Path) -> None:
    rising = [0.1 + 0.01 * number for number in range(12)]  # thirds of four rounds: four points apart
    study = material(tmp_path, [FEDAVG], lambda *_: rising, alphas=(0.05,))
    (curves,) = found(study, "Curves")
    assert curves.sentence.startswith(
        "1 of 1 curve is not flat yet: the last third of the rounds lies up to 4.0 points above the one before (FedAvg,"
    )
    assert curves.warns
    (flat,) = found(material(tmp_path / "b", [FEDAVG, TAUGHT], falling), "Curves")
    assert flat.sentence == "None of 4 curves has a last third that lies more than a point above the one before."
    assert not flat.warns


def test_communication_warns_if_late_bytes_gain_nothing(tmp_path: Path) -> None:
    early = [0.1, *[0.3] * 11]  # 30 points for 12 rounds of 8,000 bytes, hence 3.2 kB each, and all of them at once
    study = material(tmp_path, [FEDAVG], lambda *_: early, alphas=(0.05,))
    (communication,) = found(study, "Communication")
    assert communication.sentence == (
        "A point of accuracy costs 3.2 kB with FedAvg, down and up; "
        "the last third of the bytes brought 0 % of what was gained."
    )
    assert communication.warns


def test_few_seeds_are_a_warning(tmp_path: Path) -> None:
    (few,) = found(material(tmp_path, [FEDAVG], falling, seeds=(0, 1)), "Seeds")
    assert few.sentence.startswith("2 of 2 cells rest on fewer than 3 seeds")
    assert found(material(tmp_path / "b", [FEDAVG], falling), "Seeds") == []


def test_diagnose_sorts_warnings_first(tmp_path: Path) -> None:
    study = material(tmp_path, [FEDAVG, TAUGHT], falling, teacher_accuracy=0.9)
    warns = [finding.warns for finding in diagnose(study.named, study.rounds, study.clients)]
    assert warns == sorted(warns, reverse=True)
    assert {True, False} == set(warns)


def test_diagnose_of_no_runs_is_empty(tmp_path: Path) -> None:
    study = material(tmp_path, [FEDAVG], falling)
    assert diagnose(study.named.iloc[:0], study.rounds.iloc[:0], study.clients.iloc[:0]) == []
