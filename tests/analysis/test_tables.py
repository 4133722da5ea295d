import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.studies import write_run, write_study

from analysis.labels import name_runs
from analysis.outcomes import comparable, outcomes, spent
from analysis.records import load
from analysis.tables import best_of_families, comparison, costs, label_order, reference, to_target, wide

FEDAVG, FEDPROX, FML = {"name": "fedavg"}, {"name": "fedprox", "mu": 0.01}, {"name": "fml"}
LPFM = {"name": "fedlpfm", "lam": 0.5}
Accuracy = Callable[[Mapping[str, Any], float, int], Sequence[float | None]]


def read(root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return labelled runs with their metrics, and their evaluated rounds."""
    records = load(root)
    runs, rounds, _ = comparable(name_runs(records.runs), records.rounds)
    return outcomes(runs, rounds, last=10).join(spent(records.rounds)), rounds


def study(tmp_path: Path, strategies: Sequence[Mapping[str, Any]], accuracy: Accuracy, **more: Any) -> pd.DataFrame:
    return read(write_study(tmp_path / "s", strategies, accuracy=accuracy, **more))[0]


def rows(table: pd.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    return {(str(row["setting"]), str(row["condition"])): row for row in table.to_dict("records")}


def by_seed(**levels: Sequence[float | None]) -> Accuracy:
    """Return curves with a constant level for each algorithm and seed."""
    return lambda strategy, _, seed: [levels[strategy["name"]][seed]]


def test_comparison_by_hand(tmp_path: Path) -> None:
    levels = by_seed(fedavg=[0.3, 0.4, 0.5], fedlpfm=[0.5, 0.5, 0.8])
    table = rows(comparison(study(tmp_path, [LPFM, FEDAVG], levels, alphas=[0.1])))
    assert list(table) == [("FedAvg", "Dirichlet α=0.1"), ("Fed-LPFM", "Dirichlet α=0.1")]
    base, ours = table.values()
    assert (base["seeds"], base["mean"], base["best"]) == (3, pytest.approx(0.4), False)
    assert (ours["seeds"], ours["mean"], ours["best"]) == (3, pytest.approx(0.6), True)
    assert base["std"] == pytest.approx(0.1)
    assert ours["std"] == pytest.approx(math.sqrt((0.01 + 0.01 + 0.04) / 2))
    assert math.isnan(base["difference to FedAvg"])
    assert ours["difference to FedAvg"] == pytest.approx(0.2)  # of 0.2, 0.1, 0.3
    assert ours["pairs to FedAvg"] == 3
    t = 0.2 / (0.1 / math.sqrt(3))
    assert ours["p to FedAvg"] == pytest.approx(1 - t / math.sqrt(2 + t * t))  # closed form of three pairs
    assert "difference to FedProx" not in ours


def test_comparison_with_two_baselines(tmp_path: Path) -> None:
    levels = by_seed(fedavg=[0.3, 0.4], fedprox=[0.5, 0.4], fml=[0.4, 0.4])
    table = rows(comparison(study(tmp_path, [FEDAVG, FEDPROX, FML], levels, alphas=[0.1], seeds=[0, 1])))
    avg, prox, fml = (table[name, "Dirichlet α=0.1"] for name in ("FedAvg", "FedProx", "FML"))
    assert prox["difference to FedAvg"] == pytest.approx(0.1)
    assert avg["difference to FedProx"] == pytest.approx(-0.1)
    assert (fml["difference to FedAvg"], fml["difference to FedProx"]) == pytest.approx((0.05, -0.05))
    assert math.isnan(fml["p to FedAvg"])  # two pairs


def test_comparison_without_a_baseline(tmp_path: Path) -> None:
    table = comparison(study(tmp_path, [LPFM, FML], by_seed(fedlpfm=[0.5], fml=[0.4]), alphas=[0.1], seeds=[0]))
    assert table.columns.tolist() == ["setting", "condition", "seeds", "mean", "std", "best"]
    assert table["best"].tolist() == [False, True]
    assert table["std"].isna().all()  # of one seed


def test_comparison_of_a_baseline_only(tmp_path: Path) -> None:
    table = comparison(study(tmp_path, [FEDAVG], by_seed(fedavg=[0.5]), alphas=[0.1], seeds=[0]))
    assert table["best"].tolist() == [True]
    assert "difference to FedAvg" not in table


def test_comparison_marks_equal_means_as_best(tmp_path: Path) -> None:
    """Means that are equal when rounded to 0.01 % count as equal."""
    levels = by_seed(fedavg=[0.4], fedprox=[0.40000001], fml=[0.3999])
    table = comparison(study(tmp_path, [FEDAVG, FEDPROX, FML], levels, alphas=[0.1], seeds=[0]))
    assert table["best"].tolist() == [True, True, False]


def test_comparison_of_other_metrics(tmp_path: Path) -> None:
    def curves(strategy: Mapping[str, Any], *_: float) -> list[float]:
        return [0.8, 0.2] if strategy["name"] == "fedavg" else [0.4, 0.4]

    named = study(tmp_path, [FEDAVG, FML], curves, alphas=[0.1], seeds=[0])
    means = {value: comparison(named, value)["mean"].tolist() for value in ("final", "best", "last", "worst_class")}
    assert means == {"final": [0.2, 0.4], "best": [0.8, 0.4], "last": [0.5, 0.4], "worst_class": [0.25, 0.2]}


def test_comparison_pairs_runs_of_the_same_seed(tmp_path: Path) -> None:
    """FedAvg lacks seed 0 and Fed-LPFM seed 3: two pairs remain, with differences of 0.1 and 0.3."""
    for seed, level in enumerate([0.2, 0.3, 0.4]):
        write_run(tmp_path / "s" / f"avg{seed}", seed=seed + 1, accuracy=[level])
    for seed, level in enumerate([0.9, 0.3, 0.6]):
        write_run(tmp_path / "s" / f"lpfm{seed}", seed=seed, accuracy=[level], strategy=LPFM)
    ours = rows(comparison(read(tmp_path / "s")[0]))["Fed-LPFM", "Dirichlet α=0.1"]
    assert ours["seeds"] == 3
    assert ours["mean"] == pytest.approx(0.6)
    assert (ours["pairs to FedAvg"], ours["difference to FedAvg"]) == (2, pytest.approx(0.2))
    assert math.isnan(ours["p to FedAvg"])


def test_comparison_without_a_common_seed_has_no_difference(tmp_path: Path) -> None:
    write_run(tmp_path / "s" / "a", seed=0)
    write_run(tmp_path / "s" / "b", seed=1, strategy=LPFM)
    assert "difference to FedAvg" not in comparison(read(tmp_path / "s")[0])


def test_comparison_over_several_conditions(tmp_path: Path) -> None:
    """`all` uses seeds with every condition; its differences use seeds that both settings have."""
    levels = {
        ("fedavg", 0.1): [0.2, 0.3],
        ("fedavg", 1): [0.4, 0.5],
        ("fedlpfm", 0.1): [0.4, 0.5],
        ("fedlpfm", 1): [0.5, 0.5],
    }
    for (name, alpha), seeds in levels.items():
        for seed, level in enumerate(seeds):
            if (name, alpha, seed) != ("fedlpfm", 1, 1):
                strategy = LPFM if name == "fedlpfm" else FEDAVG
                write_run(
                    tmp_path / "s" / f"{name}{alpha}{seed}", strategy=strategy, alpha=alpha, seed=seed, accuracy=[level]
                )
    table = comparison(read(tmp_path / "s")[0])
    assert table["condition"].cat.categories.tolist() == ["α=0.1", "α=1", "all"]
    found = rows(table)
    assert list(found) == [(s, c) for s in ("FedAvg", "Fed-LPFM") for c in ("α=0.1", "α=1", "all")]
    whole, ours = found["FedAvg", "all"], found["Fed-LPFM", "all"]
    assert (whole["seeds"], whole["mean"]) == (2, pytest.approx(0.35))
    assert whole["std"] == pytest.approx(math.sqrt(0.005))  # of 0.3 and 0.4
    assert (ours["seeds"], ours["mean"]) == (1, pytest.approx(0.45))  # of seed 0 only
    assert (ours["pairs to FedAvg"], ours["difference to FedAvg"]) == (1, pytest.approx(0.15))  # of 0.2 and 0.1
    assert math.isnan(ours["p to FedAvg"])


def test_comparison_counts_all_conditions_of_a_seed_as_one_pair(tmp_path: Path) -> None:
    """Three seeds with two conditions are three pairs, with mean differences of 0.1, 0.2 and 0.3."""
    offsets = {0.1: [0.05, 0.2, 0.35], 1: [0.15, 0.2, 0.25]}

    def levels(strategy: Mapping[str, Any], alpha: float, seed: int) -> list[float]:
        return [0.3 + 0.1 * seed + (offsets[alpha][seed] if strategy == LPFM else 0)]

    named = study(tmp_path, [FEDAVG, LPFM], levels, alphas=[0.1, 1])
    ours = rows(comparison(named))["Fed-LPFM", "all"]
    assert (ours["pairs to FedAvg"], ours["difference to FedAvg"]) == (3, pytest.approx(0.2))
    t = 0.2 / (0.1 / math.sqrt(3))
    assert ours["p to FedAvg"] == pytest.approx(1 - t / math.sqrt(2 + t * t))


def test_comparison_of_settings_without_all_conditions(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / "s" / f"a{seed}", alpha=0.1, seed=seed)
        write_run(tmp_path / "s" / f"b{seed}", alpha=1, seed=seed)
        write_run(tmp_path / "s" / f"c{seed}", alpha=1, seed=seed, strategy=LPFM)
    table = comparison(read(tmp_path / "s")[0])
    assert list(rows(table)) == [*(("FedAvg", c) for c in ("α=0.1", "α=1", "all")), ("Fed-LPFM", "α=1")]
    cells = wide(table, table["mean"].map("{:.2f}".format))
    assert cells.columns.tolist() == ["α=0.1", "α=1", "all"]
    assert cells.loc["Fed-LPFM"].tolist() == ["", "0.30", ""]
    assert cells.loc["FedAvg"].tolist() == ["0.30", "0.30", "0.30"]


def test_comparison_corrects_p_over_the_settings_of_a_condition(tmp_path: Path) -> None:
    """The p-values of three λ are multiplied by 3, 2 and 1, from the smallest to the largest."""
    offsets = {0.2: [0.10, 0.11, 0.12], 0.4: [0.10, 0.12, 0.14], 0.6: [0.05, 0.15, 0.30]}
    strategies = [FEDAVG, *(LPFM | {"lam": lam} for lam in offsets)]

    def levels(strategy: Mapping[str, Any], _: float, seed: int) -> list[float]:
        return [0.3 + (offsets[strategy["lam"]][seed] if "lam" in strategy else 0)]

    table = rows(comparison(study(tmp_path, strategies, levels, alphas=[0.1])))

    def p(lam: float) -> float:
        values = pd.Series(offsets[lam])
        t = values.mean() / (values.std() / math.sqrt(3))
        return 1 - t / math.sqrt(2 + t * t)

    found = [table[f"Fed-LPFM, λ={lam}", "Dirichlet α=0.1"]["p to FedAvg"] for lam in offsets]
    first = 3 * p(0.2)
    second = max(first, 2 * p(0.4))
    assert found == pytest.approx([first, second, max(second, p(0.6))])


def test_baseline_is_represented_by_its_best_setting(tmp_path: Path) -> None:
    """FedProx with two μ; a third one with one lucky seed is not chosen."""
    levels = {0.01: [0.3, 0.4, 0.5], 1.0: [0.2, 0.3, 0.4], 10.0: [0.9]}
    for mu, seeds in levels.items():
        for seed, level in enumerate(seeds):
            strategy = {"name": "fedprox", "mu": mu}
            write_run(tmp_path / "s" / f"{mu}-{seed}", strategy=strategy, seed=seed, accuracy=[level])
    for seed, level in enumerate([0.5, 0.6, 0.7]):
        write_run(tmp_path / "s" / f"lpfm-{seed}", strategy=LPFM, seed=seed, accuracy=[level])
    table = comparison(read(tmp_path / "s")[0])
    ours = rows(table)["Fed-LPFM", "Dirichlet α=0.1"]
    assert (ours["pairs to FedProx"], ours["difference to FedProx"]) == (3, pytest.approx(0.2))
    assert ours["FedProx is"] == "FedProx, μ=0.01"
    assert table.loc[table["setting"].astype(str).str.startswith("FedProx"), "difference to FedProx"].isna().all()


def test_baseline_has_one_setting_for_all_conditions(tmp_path: Path) -> None:
    """μ=1 is chosen for both conditions although it lacks a seed."""
    levels = {0.01: {0.1: [0.3, 0.3, 0.6], 1: [0.4, 0.4, 0.4]}, 1.0: {0.1: [0.35, 0.35], 1: [0.5, 0.4, 0.4]}}
    for mu, conditions in levels.items():
        for alpha, seeds in conditions.items():
            for seed, level in enumerate(seeds):
                strategy, folder = {"name": "fedprox", "mu": mu}, tmp_path / "s" / f"{mu}-{alpha}-{seed}"
                write_run(folder, strategy=strategy, alpha=alpha, seed=seed, accuracy=[level])
    for alpha in (0.1, 1):
        for seed in range(3):
            write_run(tmp_path / "s" / f"a-{alpha}-{seed}", strategy=LPFM, alpha=alpha, seed=seed, accuracy=[0.6])
    table = rows(comparison(read(tmp_path / "s")[0]))
    ours = [table["Fed-LPFM", condition] for condition in ("α=0.1", "α=1", "all")]
    assert [row["FedProx is"] for row in ours] == ["FedProx, μ=1"] * 3
    assert [row["pairs to FedProx"] for row in ours] == [2, 3, 2]
    assert ours[2]["difference to FedProx"] == pytest.approx((0.175 + 0.225) / 2)


def test_comparison_pairs_runs_of_the_same_training(tmp_path: Path) -> None:
    for lr, base, ours in ((0.1, 0.3, 0.5), (0.01, 0.6, 0.7)):
        training = {"rounds": 1, "optimizer": {"lr": lr}}
        write_run(tmp_path / "s" / f"a{lr}", accuracy=[base], training=training)
        write_run(tmp_path / "s" / f"b{lr}", accuracy=[ours], training=training, strategy=LPFM)
    table = rows(comparison(read(tmp_path / "s")[0]))
    found = {s: row["difference to FedAvg"] for (s, _), row in table.items() if s.startswith("Fed-")}
    assert found == pytest.approx({"Fed-LPFM, lr 0.1": 0.2, "Fed-LPFM, lr 0.01": 0.1})


def test_comparison_of_a_space_with_conditional_axes(tmp_path: Path) -> None:
    """λ for Fed-LPFM only, μ for FedProx only, α for Dirichlet only: every run is paired with FedAvg."""
    strategies = [FEDAVG, FEDPROX, FEDPROX | {"mu": 1}, LPFM, LPFM | {"lam": 1}, FML]
    for place, strategy in enumerate(strategies):
        for kind in ({"kind": "iid"}, {"kind": "dirichlet", "alpha": 0.1}, {"kind": "class_split"}):
            level = 0.3 + place / 100
            folder = tmp_path / "s" / f"{place}-{kind['kind']}"
            write_run(folder, strategy=strategy, partition=kind | {"clients": 4}, accuracy=[level])
    table = comparison(read(tmp_path / "s")[0])
    assert table["condition"].cat.categories.tolist() == ["2 classes per client", "Dirichlet α=0.1", "iid", "all"]
    assert len(table) == 6 * 4
    found = table[table["setting"] != "FedAvg"]
    assert found["pairs to FedAvg"].tolist() == [1, 1, 1, 1] * 5
    assert found.loc[found["setting"] == "Fed-LPFM, λ=1", "difference to FedAvg"].tolist() == pytest.approx([0.04] * 4)


def test_tables_without_evaluated_rounds_are_empty(tmp_path: Path) -> None:
    write_run(tmp_path / "s" / "a", accuracy=[])
    named, rounds = read(tmp_path / "s")
    assert comparison(named).empty
    assert to_target(named, rounds).empty
    assert costs(named).empty
    assert best_of_families(named).empty


def test_to_target_uses_fedavgs_accuracy(tmp_path: Path) -> None:
    curves: dict[str, dict[int, list[float]]] = {
        "fedavg": {0: [0.1, 0.2, 0.6], 1: [0.1, 0.3, 0.5]},  # last: 0.3 and 0.3
        "fedlpfm": {0: [0.3, 0.4, 0.5], 1: [0.1, 0.2, 0.2]},
    }
    write_study(tmp_path / "s", [FEDAVG, LPFM], [0.1], [0, 1], lambda strategy, _, seed: curves[strategy["name"]][seed])
    table = to_target(*read(tmp_path / "s"))
    assert table["target"].tolist() == pytest.approx([0.3, 0.3])
    assert table["reached"].tolist() == [2, 1]
    assert table["mean"].tolist() == [2.5, 1.0]
    assert table["seeds"].tolist() == [2, 2]


def test_to_target_uses_the_given_target(tmp_path: Path) -> None:
    write_study(tmp_path / "s", [LPFM, FML], [0.1], [0, 1], lambda *point: [0.1, 0.5 - point[-1] / 10, 0.6])
    named, rounds = read(tmp_path / "s")
    assert to_target(named, rounds, 0.45)["mean"].tolist() == [2.5, 2.5]
    nowhere = to_target(named, rounds, 0.9)
    assert nowhere["reached"].tolist() == [0, 0]
    assert nowhere["mean"].isna().all()
    assert to_target(named, rounds)["target"].tolist() == pytest.approx(
        [(1.2 / 3 + 1.1 / 3) / 2] * 2
    )  # of the first setting


def test_costs_by_hand(tmp_path: Path) -> None:
    for seed in (0, 1):
        per_round = {"seconds": 1.0 + seed, "bytes_down": 10, "bytes_up": 20}
        write_run(
            tmp_path / "s" / f"{seed}", strategy=LPFM, seed=seed, accuracy=[0.2, 0.4 + seed / 5], per_round=per_round
        )
    (row,) = costs(read(tmp_path / "s")[0]).to_dict("records")
    assert (row["seeds"], row["last"], row["seconds"]) == (2, pytest.approx(0.35), 3.0)
    assert (row["bytes"], row["teacher_flops"], row["client_flops"]) == (60, 6_000_000, 600_000)


def test_best_of_families_is_the_setting_with_the_best_mean(tmp_path: Path) -> None:
    """λ=0.9 is better on its only condition, which is the easier one."""
    for lam, levels in {0.1: {0.1: 0.2, 1: 0.6}, 0.5: {0.1: 0.4, 1: 0.5}, 0.9: {1: 0.9}}.items():
        for alpha, level in levels.items():
            write_run(tmp_path / "s" / f"{lam}-{alpha}", strategy=LPFM | {"lam": lam}, alpha=alpha, accuracy=[level])
    write_run(tmp_path / "s" / "avg", alpha=0.1, accuracy=[0.1])
    best = best_of_families(read(tmp_path / "s")[0])
    assert sorted(set(best["setting"].astype(str))) == ["Fed-LPFM, λ=0.5", "FedAvg"]
    assert len(best) == 3


def test_best_of_families_compares_common_cells(tmp_path: Path) -> None:
    """λ=0.5 lacks the hardest condition, and is worse on the common one."""
    for lam, levels in {0.25: {0.05: 0.28, 0.1: 0.38}, 0.5: {0.1: 0.31, 0.5: 0.61}}.items():
        for alpha, level in levels.items():
            write_run(tmp_path / "s" / f"{lam}-{alpha}", strategy=LPFM | {"lam": lam}, alpha=alpha, accuracy=[level])
    best = best_of_families(read(tmp_path / "s")[0])
    assert set(best["setting"].astype(str)) == {"Fed-LPFM, λ=0.25"}


def test_to_target_without_fedavg_is_nan(tmp_path: Path) -> None:
    write_study(tmp_path / "s" / "a", [FEDAVG], [0.1], [0], lambda *_: [0.4])
    write_study(tmp_path / "s" / "b", [LPFM], [0.1, 1], [0], lambda *_: [0.5])
    named, evaluated = read(tmp_path / "s")
    assert set(reference(named)["setting"].astype(str)) == {"FedAvg"}
    table = rows(to_target(named, evaluated))
    assert table["Fed-LPFM", "α=0.1"]["target"] == pytest.approx(0.4)
    assert math.isnan(table["Fed-LPFM", "α=1"]["target"])


def test_wide_table_keeps_the_order_of_labels() -> None:
    labels = pd.Categorical(["b", "a", "b"], categories=["c", "b", "a"], ordered=True)
    table = pd.DataFrame({"setting": ["x", "x", "y"], "condition": labels})
    cells = wide(table, pd.Series(["1", "2", "3"]))
    assert cells.columns.tolist() == ["b", "a"]
    assert cells.to_numpy().tolist() == [["1", "2"], ["3", ""]]
    assert label_order(pd.Series(["z", "y", "z"])) == ["z", "y"]
