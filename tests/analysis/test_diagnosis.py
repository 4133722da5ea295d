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
FEDLPFM = {"name": "fedlpfm", "lam": 0.5}
Curve = Callable[[Mapping[str, Any], float, int], Sequence[float]]


def report_data(root: Path, strategies: Sequence[Mapping[str, Any]], accuracy: Curve, **more: Any) -> ReportData:
    return ReportData.of(load(write_study(root, strategies, accuracy=accuracy, **more)))


def findings_about(data: ReportData, topic: str) -> list[Finding]:
    findings = diagnose(data.named, data.rounds, data.clients)
    return [finding for finding in findings if finding.topic == topic]


def falling(strategy: Mapping[str, Any], alpha: float, seed: int) -> list[float]:
    """FedAvg loses 20 points per decade, Fed-LPFM 10, 8 or 12."""
    start = 0.2 if strategy == FEDAVG else 0.3 + (0, 0.02, -0.02)[seed]
    return [start if alpha == 0.05 else 0.4] * 12


def test_heterogeneity_slopes_and_their_difference_to_fedavg(tmp_path: Path) -> None:
    study = report_data(tmp_path, [FEDAVG, FEDLPFM], falling)
    table = slopes(study.best, "partition.alpha")
    assert table.loc["FedAvg"].tolist() == pytest.approx([0.2, 0.2, 0.2])
    assert table.loc["Fed-LPFM"].tolist() == pytest.approx([0.1, 0.08, 0.12])
    fall, saved = findings_about(study, "Heterogeneity")
    assert fall.sentence == (
        "From Dirichlet α = 0.5 to 0.05, accuracy changes by -10.0 points for Fed-LPFM and -20.0 for FedAvg "
        "(linear fit over the logarithm)."
    )
    assert fall.is_warning
    assert len(fall.runs) == 12
    # differences of 10, 12 and 8 points: t = 0.1 / (0.02 / √3) = 8.66, and with 2 degrees p = 1 - t / √(t² + 2) = 0.013
    assert saved.sentence == (
        "Fed-LPFM loses 10.0 points less per decade than FedAvg: a significant difference (3 seeds, p = 0.013)."
    )


def test_heterogeneity_corrects_p_over_families(tmp_path: Path) -> None:
    """The smaller p, 0.013, is doubled; the differences of the other teacher are -1, 0 and 1 points."""
    for seed in range(3):
        for alpha in (0.05, 0.5):
            for name, strategy in (("ViT-B-16", FEDAVG), ("ViT-B-32", FEDLPFM), ("RN50", FEDLPFM)):
                accuracy = falling(strategy, alpha, seed)
                if (name, alpha) == ("RN50", 0.05):
                    accuracy = [0.19 + 0.01 * seed] * 12
                folder, teacher = tmp_path / f"{name}{alpha}{seed}", {"kind": "zero_shot", "model": name}
                write_run(folder, strategy=strategy, alpha=alpha, seed=seed, accuracy=accuracy, teacher=teacher)
    _, *rest = findings_about(ReportData.of(load(tmp_path)), "Heterogeneity")
    other, better = (finding.sentence for finding in rest)
    assert other.startswith("Fed-LPFM, RN50 loses as much per decade as FedAvg: ")
    assert "no significant difference" in other
    assert better.startswith(
        "Fed-LPFM, ViT-B-32 loses 10.0 points less per decade than FedAvg: a significant difference"
    )
    assert better.endswith("(3 seeds, p = 0.026).")


def test_heterogeneity_slopes_do_not_mix_data_sets(tmp_path: Path) -> None:
    """More data adds ten points and α none; a partition with other data has no slope."""
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

    _, saved = findings_about(report_data(tmp_path, [FEDAVG, FEDLPFM], curve, seeds=(0, 1)), "Heterogeneity")
    assert saved.sentence == (
        "Fed-LPFM loses 1.5 points less per decade than FedAvg: +5.0 and -2.0 with 2 seeds, too few for a test."
    )


def test_heterogeneity_of_two_seeds_is_not_tested(tmp_path: Path) -> None:
    _, saved = findings_about(report_data(tmp_path, [FEDAVG, FEDLPFM], falling, seeds=(0, 1)), "Heterogeneity")
    assert saved.sentence.endswith("than FedAvg: +10.0 and +12.0 with 2 seeds, too few for a test.")


def test_heterogeneity_ignores_seeds_without_all_values(tmp_path: Path) -> None:
    study = report_data(tmp_path, [FEDAVG, FEDLPFM], falling, alphas=(0.05, 0.5, 5.0), seeds=(0,))
    _, saved = findings_about(study, "Heterogeneity")
    assert saved.sentence.endswith("with 1 seed, too few for a test.")
    lacking = study.best[(study.best["family"] != "Fed-LPFM") | (study.best["partition.alpha"] < 5)]
    table = slopes(lacking, "partition.alpha")
    assert table.loc["FedAvg"].notna().all()
    assert table.loc["Fed-LPFM"].isna().all()


def test_heterogeneity_of_one_condition_has_no_finding(tmp_path: Path) -> None:
    assert findings_about(report_data(tmp_path, [FEDAVG], falling, alphas=(0.05,)), "Heterogeneity") == []


def test_update_agreement_warns_below_the_minimum_cosine(tmp_path: Path) -> None:
    columns = {"update_cosine": 0.2, "update_norm": 0.5, "update_drift": 2.0}
    study = report_data(tmp_path, [FEDAVG], falling, alphas=(0.05,), per_round=columns)
    (apart,) = findings_about(study, "Agreement of client updates")
    assert apart.sentence == (
        "The mean cosine between client updates and their mean is 0.20 for FedAvg; "
        "their drift is up to 4.0 times the length of the mean (FedAvg)."
    )
    assert apart.is_warning
    agreeing = report_data(
        tmp_path / "b", [FEDAVG], falling, alphas=(0.05,), per_round=columns | {"update_cosine": 0.9}
    )
    assert not findings_about(agreeing, "Agreement of client updates")[0].is_warning


def test_client_spread_is_the_std_of_train_accuracies(tmp_path: Path) -> None:
    study = report_data(tmp_path, [FEDAVG], falling, alphas=(0.05,), train_accuracy=(0.9, 0.5, 0.9, 0.5))
    (spread,) = findings_about(study, "Accuracy across clients")
    # deviations of 0.2 each: (4 · 0.2² / 3)^½ = 0.231
    assert spread.sentence == (
        "The standard deviation of train accuracy across clients in the last round is 23.1 points for FedAvg."
    )
    assert spread.is_warning


def test_worst_class_finding_counts_cells_below_one_percent(tmp_path: Path) -> None:
    study = report_data(tmp_path, [FEDAVG, FEDLPFM], falling, per_round={"worst_class_accuracy": 0.004})
    (left,) = findings_about(study, "Worst class")
    assert left.sentence.startswith(
        "In 4 of 4 cells the mean accuracy of a round's worst class is under 1 % (on α=0.05 and α=0.5); the highest"
    )
    assert findings_about(report_data(tmp_path / "b", [FEDAVG], falling), "Worst class") == []


@pytest.mark.parametrize(
    ("accuracy", "verdict"), [(0.35, "is less accurate than proxies"), (0.89, "is more accurate than every")]
)
def test_teacher_accuracy_is_compared_with_the_best_proxy(accuracy: float, verdict: str, tmp_path: Path) -> None:
    """The mean accuracy of the proxies is 30 % at α=0.05 and 40 % at α=0.5."""
    (teacher,) = findings_about(report_data(tmp_path, [FEDAVG, FEDLPFM], falling, teacher_accuracy=accuracy), "Teacher")
    assert teacher.is_warning == (accuracy == 0.35)
    assert verdict in teacher.sentence
    assert f"its accuracy is {100 * accuracy:.1f} %" in teacher.sentence
    assert teacher.sentence.endswith("that of the best proxy (α=0.5) is 40.0 % on the test set.")
    assert len(teacher.runs) == 6  # runs of Fed-LPFM


def test_teacher_accuracy_is_compared_by_condition(tmp_path: Path) -> None:
    """Accuracies of 40 and 60 % against proxies of 30 and 50 %: the teacher is better in both conditions."""
    for alpha, teacher_accuracy, level in ((0.05, 0.4, 0.3), (0.5, 0.6, 0.5)):
        write_run(
            tmp_path / f"{alpha}",
            strategy=FEDLPFM,
            alpha=alpha,
            accuracy=[level] * 12,
            teacher_accuracy=teacher_accuracy,
        )
    (teacher,) = findings_about(ReportData.of(load(tmp_path)), "Teacher")
    assert not teacher.is_warning


def by_lam(best: float) -> Curve:
    return lambda strategy, *_: [0.5 - abs(strategy.get("lam", 0) - best) / 4] * 12


@pytest.mark.parametrize(
    ("best", "topic", "words", "is_warning"),
    [
        (
            0.25,
            "Best λ at an edge",
            "for α=0.05 and α=0.5 is 0.25, the smallest value tried, with a lead of 6.2 points; sma",
            True,
        ),
        (
            0.75,
            "Best λ at an edge",
            "is 0.75, the largest value tried, with a lead of 6.2 points; larger values were not",
            True,
        ),
        (0.5, "Best λ", "the best λ for α=0.05 and α=0.5 is 0.5, inside the range tried (0.25 to 0.75).", False),
    ],
)
def test_best_lambda_at_the_edge_of_the_range(
    best: float, topic: str, words: str, is_warning: bool, tmp_path: Path
) -> None:
    strategies = [{"name": "fedlpfm", "lam": lam} for lam in (0.25, 0.5, 0.75)]
    (edge,) = findings_about(report_data(tmp_path, strategies, by_lam(best)), topic)
    assert words in edge.sentence
    assert edge.is_warning == is_warning


def test_best_lambda_counts_fedavg_as_zero(tmp_path: Path) -> None:
    strategies = [FEDAVG, *({"name": "fedlpfm", "lam": lam} for lam in (0.25, 0.5))]
    (inside,) = findings_about(report_data(tmp_path / "a", strategies, by_lam(0.25), alphas=(0.1,)), "Best λ")
    assert inside.sentence.endswith("the best λ is 0.25, inside the range tried (0 to 0.5).")
    (none,) = findings_about(report_data(tmp_path / "b", strategies, by_lam(0.0), alphas=(0.1,)), "Best λ at an edge")
    assert none.sentence.endswith(
        "the best λ is 0, without a teacher, with a lead of 6.2 points; no smaller value is possible."
    )
    assert none.is_warning


def test_best_lambda_of_an_added_term_counts_the_same_algorithm_as_zero(tmp_path: Path) -> None:
    scaffold: dict[str, Any] = {"name": "scaffold"}
    swept = [scaffold | {"distillation": {"lam": lam}} for lam in (0.25, 0.5)]
    curve: Curve = lambda s, *_: by_lam(0.25)(s.get("distillation", {"lam": 0.9 if s["name"] == "fedavg" else 0.0}))  # noqa: E731
    (inside,) = findings_about(report_data(tmp_path, [FEDAVG, scaffold, *swept], curve, alphas=(0.1,)), "Best λ")
    assert inside.sentence.endswith("the best λ is 0.25, inside the range tried (0 to 0.5).")


def test_best_lambda_of_two_algorithms_has_their_names(tmp_path: Path) -> None:
    added = [{"name": "scaffold", "distillation": {"lam": lam}} for lam in (0.25, 0.5, 0.75)]
    own = [{"name": "fedlpfm", "lam": lam} for lam in (0.25, 0.5, 0.75)]
    curve: Curve = lambda s, *_: by_lam(0.5)(s.get("distillation", s))  # noqa: E731
    first, second = findings_about(report_data(tmp_path, [*own, *added], curve, alphas=(0.1,)), "Best λ")
    assert first.sentence.startswith("With Fed-LPFM and ViT-B-32 the best λ is 0.5")
    assert second.sentence.startswith("With SCAFFOLD + KD and ViT-B-32 the best λ is 0.5")


def test_best_lambda_with_a_small_lead_does_not_warn(tmp_path: Path) -> None:
    strategies = [{"name": "fedlpfm", "lam": lam} for lam in (0.25, 0.5, 0.75)]
    (edge,) = findings_about(
        report_data(tmp_path, strategies, lambda s, *_: [0.5 - s["lam"] / 100] * 12), "Best λ at an edge"
    )
    assert not edge.is_warning


def test_best_lambda_is_that_of_the_best_setting(tmp_path: Path) -> None:
    """At λ=0.25 one temperature is the best of all settings and another one the worst."""
    levels = {(0.25, 1.0): 0.5, (0.25, 4.0): 0.1, (0.5, 1.0): 0.4, (0.5, 4.0): 0.4, (0.75, 1.0): 0.3, (0.75, 4.0): 0.3}
    strategies = [{"name": "fedlpfm", "lam": lam, "temperature": t} for lam, t in levels]
    curve: Curve = lambda s, *_: [levels[s["lam"], s["temperature"]]] * 12  # noqa: E731
    (edge,) = findings_about(report_data(tmp_path, strategies, curve, alphas=(0.1,)), "Best λ at an edge")
    assert "the best λ is 0.25, the smallest value tried, with a lead of 10 points" in edge.sentence


def test_best_lambda_of_one_is_the_end_of_a_convex_range(tmp_path: Path) -> None:
    strategies = [{"name": "fedlpfm", "lam": lam} for lam in (0.0, 0.5, 1.0)]
    (edge,) = findings_about(report_data(tmp_path, strategies, by_lam(1.0)), "Best λ at an edge")
    assert "no larger value is possible" in edge.sentence
    assert not edge.is_warning


def test_best_lambda_of_one_is_no_end_of_an_additive_range(tmp_path: Path) -> None:
    strategies = [{"name": "fedlpfm", "lam": lam, "balance": "additive"} for lam in (0.0, 0.5, 1.0)]
    (edge,) = findings_about(report_data(tmp_path, strategies, by_lam(1.0)), "Best λ at an edge")
    assert edge.is_warning


def test_rising_curves_are_counted(tmp_path: Path) -> None:
    rising = [0.1 + 0.01 * number for number in range(12)]  # thirds of four rounds: four points apart
    study = report_data(tmp_path, [FEDAVG], lambda *_: rising, alphas=(0.05,))
    (curves,) = findings_about(study, "Convergence")
    assert curves.sentence.startswith(
        "1 of 1 curves is still rising: the last third of the rounds is up to 4.0 points above the third before"
    )
    assert curves.is_warning
    (flat,) = findings_about(report_data(tmp_path / "b", [FEDAVG, FEDLPFM], falling), "Convergence")
    assert flat.sentence.startswith("None of 4 curves is still rising")
    assert not flat.is_warning


def test_communication_warns_if_late_bytes_gain_nothing(tmp_path: Path) -> None:
    early = [0.1, *[0.3] * 11]  # 30 points for 12 rounds of 8,000 bytes: 3.2 kB per point
    study = report_data(tmp_path, [FEDAVG], lambda *_: early, alphas=(0.05,))
    (communication,) = findings_about(study, "Communication")
    assert communication.sentence == (
        "One point of accuracy costs 3.2 kB for FedAvg; 0 % of the gain came with the last third of the bytes."
    )
    assert communication.is_warning


def test_few_seeds_are_a_warning(tmp_path: Path) -> None:
    (few,) = findings_about(report_data(tmp_path, [FEDAVG], falling, seeds=(0, 1)), "Seeds")
    assert few.sentence.startswith("2 of 2 cells have fewer than 3 seeds")
    assert findings_about(report_data(tmp_path / "b", [FEDAVG], falling), "Seeds") == []


def test_diagnose_sorts_warnings_first(tmp_path: Path) -> None:
    study = report_data(tmp_path, [FEDAVG, FEDLPFM], falling, teacher_accuracy=0.9)
    is_warning = [finding.is_warning for finding in diagnose(study.named, study.rounds, study.clients)]
    assert is_warning == sorted(is_warning, reverse=True)
    assert {True, False} == set(is_warning)


def test_diagnose_of_no_runs_is_empty(tmp_path: Path) -> None:
    study = report_data(tmp_path, [FEDAVG], falling)
    assert diagnose(study.named.iloc[:0], study.rounds.iloc[:0], study.clients.iloc[:0]) == []
