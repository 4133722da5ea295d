import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.studies import TEACHER, write_run

from analysis.labels import backbone, name_runs, teacher_method, teacher_name
from analysis.records import load
from fedray.results.specs import varying_fields

LPFM = {"name": "fedlpfm", "lam": 0.5}
PROBED = {"kind": "adapted", "backbone": {"kind": "zero_shot", "model": "RN50"}}
TUNED = {**PROBED, "method": "fine_tune"}
TABLE = {"kind": "precomputed", "file": "data/clip-vit-b-32-openai.parquet"}


def runs(tmp_path: Path, *specs: dict[str, Any]) -> pd.DataFrame:
    for place, spec in enumerate(specs):
        write_run(tmp_path / "s" / f"{place:03d}", **spec)
    return load(tmp_path / "s").runs


def labels(tmp_path: Path, *specs: dict[str, Any], targets: Sequence[bool] | None = None) -> list[tuple[str, str]]:
    """Return `setting` and `condition` of each run."""
    table = runs(tmp_path, *specs)
    named = name_runs(table, None if targets is None else pd.Series(targets, index=table.index))
    return list(zip(named["setting"].astype(str), named["condition"].astype(str), strict=True))


def settings(tmp_path: Path, *specs: dict[str, Any], targets: Sequence[bool] | None = None) -> list[str]:
    return [setting for setting, _ in labels(tmp_path, *specs, targets=targets)]


def conditions(tmp_path: Path, *specs: dict[str, Any]) -> list[str]:
    return [condition for _, condition in labels(tmp_path, *specs)]


def test_one_run(tmp_path: Path) -> None:
    assert labels(tmp_path, {"alpha": 0.5}) == [("FedAvg", "Dirichlet α=0.5")]


def test_name_runs_labels_the_four_algorithms(tmp_path: Path) -> None:
    """Fields that follow from the algorithm, such as FML's weighting, are omitted."""
    specs = [{"strategy": {"name": name}} for name in ("fml", "fedlpfm", "fedprox", "fedavg")]
    assert settings(tmp_path, *specs) == ["FML", "Fed-LPFM", "FedProx", "FedAvg"]


def test_settings_contain_the_fields_that_vary(tmp_path: Path) -> None:
    specs = [{"strategy": {"name": "fedprox", "mu": mu}} for mu in (0.01, 1)] + [{}]
    assert settings(tmp_path / "a", *specs) == ["FedProx, μ=0.01", "FedProx, μ=1", "FedAvg"]
    specs = [{"strategy": LPFM | {"lam": lam, "temperature": t}} for lam, t in ((0.25, 1), (0.5, 1), (0.5, 4))]
    assert settings(tmp_path / "b", *specs) == ["Fed-LPFM, λ=0.25, T=1", "Fed-LPFM, λ=0.5, T=1", "Fed-LPFM, λ=0.5, T=4"]
    specs = [{"strategy": LPFM | {"loss": {"name": name}}} for name in ("kd", "dkd")]
    assert settings(tmp_path / "c", *specs) == ["Fed-LPFM, kd", "Fed-LPFM, dkd"]
    specs = [{"proxy": {"name": "cnn"}}, {"proxy": {"name": "resnet18", "norm": "group"}}]
    assert settings(tmp_path / "d", *specs) == ["FedAvg, cnn", "FedAvg, resnet18, norm group"]
    specs = [{"training": {"rounds": 3, "optimizer": {"lr": lr}}} for lr in (0.1, 0.05)]
    assert settings(tmp_path / "e", *specs) == ["FedAvg, lr 0.1", "FedAvg, lr 0.05"]


def test_settings_contain_fields_that_vary_within_an_algorithm(tmp_path: Path) -> None:
    """A learning rate that depends on the algorithm only is omitted."""
    specs = [{"strategy": {"name": name}, "training": {"rounds": 3, "optimizer": {"lr": lr}}}
             for name, lr in (("fedavg", 0.1), ("fedprox", 0.01))]  # fmt: skip
    assert settings(tmp_path, *specs) == ["FedAvg, lr 0.1", "FedProx, lr 0.01"]


def test_settings_contain_weighting_if_it_varies(tmp_path: Path) -> None:
    specs = [{"strategy": {"name": "fedavg", "weighting": w}} for w in ("examples", "uniform")]
    assert settings(tmp_path, *specs, {"strategy": {"name": "fml"}}) == [
        "FedAvg, weighting examples", "FedAvg, weighting uniform", "FML, weighting uniform",
    ]  # fmt: skip


def test_labels_omit_seeds_and_execution_fields(tmp_path: Path) -> None:
    table = runs(
        tmp_path,
        {"seed": 0, "resources": {"backend": "serial"}, "evaluation": {"batch_size": 100}},
        {"seed": 1, "checkpoint": {"every": 5}},
    )
    assert varying_fields(table) == []
    assert name_runs(table)["setting"].nunique() == 1


def test_settings_of_equal_private_models_are_equal(tmp_path: Path) -> None:
    specs = [{"strategy": {"name": "fml"}}, {"strategy": {"name": "fml", "private": {"name": "cnn"}}}]
    assert settings(tmp_path, *specs) == ["FML", "FML, private cnn"]


def test_settings_distinguish_null_from_a_value(tmp_path: Path) -> None:
    specs = [{"training": {"rounds": 3, "clip_norm": norm}} for norm in (None, 2.0)]
    assert settings(tmp_path, *specs) == ["FedAvg", "FedAvg, clip_norm 2"]


def test_families_contain_the_teacher_if_there_are_several(tmp_path: Path) -> None:
    specs = [{"strategy": LPFM, "teacher": teacher} for teacher in (TEACHER, TEACHER | {"model": "RN50"}, TABLE)]
    assert settings(tmp_path, *specs, {"teacher": TEACHER}, {"teacher": None}) == [
        "Fed-LPFM, ViT-B-32", "Fed-LPFM, RN50", "Fed-LPFM, clip-vit-b-32-openai", "FedAvg", "FedAvg",
    ]  # fmt: skip


def test_labels_omit_a_teacher_that_is_not_used(tmp_path: Path) -> None:
    specs = [{"strategy": LPFM | {"lam": lam}, "teacher": TEACHER | {"model": model}}
             for lam in (0, 0.5) for model in ("RN50", "ViT-B-32")]  # fmt: skip
    assert settings(tmp_path, *specs) == [
        "Fed-LPFM, λ=0", "Fed-LPFM, λ=0", "Fed-LPFM, RN50, λ=0.5", "Fed-LPFM, ViT-B-32, λ=0.5",
    ]  # fmt: skip


def test_labels_omit_temperature_without_a_teacher(tmp_path: Path) -> None:
    specs = [{"strategy": LPFM | {"lam": lam, "temperature": t}} for lam in (0, 0.5) for t in (1, 2)]
    assert settings(tmp_path, *specs) == ["Fed-LPFM, λ=0"] * 2 + ["Fed-LPFM, λ=0.5, T=1", "Fed-LPFM, λ=0.5, T=2"]


def test_name_runs_takes_the_runs_that_use_a_teacher(tmp_path: Path) -> None:
    specs = [{"strategy": LPFM, "teacher": TEACHER | {"model": model}} for model in ("RN50", "ViT-B-32")]
    assert settings(tmp_path, *specs, targets=[True, False]) == ["Fed-LPFM", "Fed-LPFM"]


def test_name_runs_without_a_lambda_column(tmp_path: Path) -> None:
    named = name_runs(runs(tmp_path, {}, {"strategy": {"name": "fedprox"}}))
    assert named["teacher_name"].tolist() == ["", ""]
    assert named["family"].tolist() == ["FedAvg", "FedProx"]


def test_settings_end_with_the_teachers_parameters(tmp_path: Path) -> None:
    specs = [{"strategy": LPFM, "teacher": PROBED | {"lr": lr}} for lr in (0.1, 0.01)]
    assert settings(tmp_path / "a", *specs) == ["Fed-LPFM, lr 0.1", "Fed-LPFM, lr 0.01"]
    specs += [{"strategy": LPFM, "teacher": TUNED | {"lr": 0.01}}]
    assert settings(tmp_path / "b", *specs) == [
        "Fed-LPFM, probed RN50, lr 0.1", "Fed-LPFM, probed RN50, lr 0.01", "Fed-LPFM, tuned RN50",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("teacher", "name", "method", "network"),
    [
        (TEACHER, "ViT-B-32", "zero_shot", "ViT-B-32"),
        (TABLE, "clip-vit-b-32-openai", "precomputed", ""),
        (PROBED, "probed RN50", "linear_probe", "RN50"),
        (TUNED, "tuned RN50", "fine_tune", "RN50"),
        ({"kind": "classifier", "model": "swin_tiny"}, "swin_tiny", "classifier", "swin_tiny"),
        ({"kind": "ensemble", "teachers": [TEACHER, TABLE]}, "all of ViT-B-32, clip-vit-b-32-openai", "zero_shot", ""),
        ({"kind": "ensemble", "assignment": "random", "teachers": [PROBED, TUNED]},
         "random of probed RN50, tuned RN50", "linear_probe", ""),
    ],
)  # fmt: skip
def test_teacher_name_method_and_backbone(
    tmp_path: Path, teacher: dict[str, Any], name: str, method: str, network: str
) -> None:
    (row,) = runs(tmp_path, {"strategy": LPFM, "teacher": teacher}).to_dict("records")
    assert teacher_name(row) == name
    assert teacher_method(row) == method
    assert backbone(row) == network


def test_teacher_name_of_the_supervised_teacher(tmp_path: Path) -> None:
    data = {"train": "digits", "test": "digits", "public_fraction": 0.2}
    (row,) = runs(tmp_path, {"strategy": LPFM, "teacher": {"kind": "supervised"}, "data": data}).to_dict("records")
    assert teacher_name(row) == "stand-in"


def test_conditions_of_one_partition_kind(tmp_path: Path) -> None:
    assert conditions(tmp_path / "a", {"alpha": 1}, {"alpha": 0.05}) == ["α=1", "α=0.05"]
    per_client = [{"partition": {"kind": "class_split", "classes_per_client": c, "clients": 4}} for c in (1, 2)]
    assert conditions(tmp_path / "b", *per_client) == ["1 class per client", "2 classes per client"]
    assert conditions(tmp_path / "c", per_client[1]) == ["2 classes per client"]


def test_conditions_of_several_partition_kinds(tmp_path: Path) -> None:
    """Each kind has its own parameter, as with axes that have `when`."""
    partitions = [
        {"kind": "dirichlet", "alpha": 0.1},
        {"kind": "dirichlet_per_client", "alpha": 0.1},
        {"kind": "class_split", "classes_per_client": 2},
        {"kind": "shards", "shards_per_client": 3},
        {"kind": "iid"},
    ]
    assert conditions(tmp_path, *({"partition": p | {"clients": 4}} for p in partitions)) == [
        "Dirichlet α=0.1", "Dirichlet per client α=0.1", "2 classes per client", "3 shards per client", "iid",
    ]  # fmt: skip


def test_conditions_contain_short_names_of_data_sets(tmp_path: Path) -> None:
    sources = [
        ("torchvision:CIFAR100", "torchvision:CIFAR100"),
        ("parquet:data/cifar10/train-*.parquet", "parquet:data/cifar10/test-*.parquet"),
        ("folder:data/office-home/train", "folder:data/office-home/val"),
        ("digits", "digits"),
    ]
    specs = [{"data": {"train": train, "test": test}, "alpha": alpha} for train, test in sources for alpha in (0.1, 1)]
    assert conditions(tmp_path, *specs[:7]) == [
        "CIFAR100, α=0.1", "CIFAR100, α=1", "cifar10, α=0.1", "cifar10, α=1", "office-home, α=0.1", "office-home, α=1",
        "digits, α=0.1",
    ]  # fmt: skip


def test_conditions_distinguish_data_sets_of_equal_names(tmp_path: Path) -> None:
    data = [{"train": f"folder:{place}/pets/train", "test": "folder:a/pets/test"} for place in ("a", "b")]
    assert conditions(tmp_path / "a", *({"data": d} for d in data)) == ["folder:a/pets/train", "folder:b/pets/train"]
    limits = [{"data": {"train": "digits", "test": "digits", "train_limit": limit}} for limit in (None, 200)]
    assert conditions(tmp_path / "b", *limits) == ["Dirichlet α=0.1", "train_limit 200"]


def test_labels_are_sorted_by_algorithm_and_value(tmp_path: Path) -> None:
    """Algorithms as in STRATEGIES, numbers by size and not as texts."""
    specs = [{"strategy": LPFM | {"lam": lam}, "alpha": 1} for lam in (1, 0.5, 0.25)]
    specs += [{"strategy": {"name": "fml"}, "alpha": 10}]
    specs += [{"strategy": {"name": "fedprox", "mu": mu}, "alpha": 0.5} for mu in (10, 2)]
    named = name_runs(runs(tmp_path, *specs, {"alpha": 2}))
    assert named["setting"].cat.categories.tolist() == [
        "FedAvg", "FedProx, μ=2", "FedProx, μ=10", "FML", "Fed-LPFM, λ=0.25", "Fed-LPFM, λ=0.5", "Fed-LPFM, λ=1",
    ]  # fmt: skip
    assert named["family"].cat.categories.tolist() == ["FedAvg", "FedProx", "FML", "Fed-LPFM"]
    assert named["condition"].cat.categories.tolist() == ["α=0.5", "α=1", "α=2", "α=10"]


def test_unknown_algorithm_is_labelled_with_its_name(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "s" / "a")
    (folder / "spec.yaml").write_text((folder / "spec.yaml").read_text().replace("name: fedavg", "name: later"))
    named = name_runs(runs(tmp_path, {}, {"strategy": LPFM}))
    assert named["setting"].cat.categories.tolist() == ["FedAvg", "Fed-LPFM", "later"]


def added(name: str, **term: Any) -> dict[str, Any]:
    """A strategy that adds the teacher's term."""
    return {"strategy": {"name": name, "distillation": term}, "teacher": TEACHER}


def test_label_of_an_algorithm_with_the_teachers_term(tmp_path: Path) -> None:
    specs = [added("scaffold"), {"strategy": {"name": "scaffold"}}, {"strategy": LPFM}, added("fedavg"), {}]
    table = runs(tmp_path, *specs)
    named = name_runs(table)
    assert named["setting"].tolist() == ["SCAFFOLD + KD", "SCAFFOLD", "Fed-LPFM", "FedAvg + KD", "FedAvg"]
    assert named["teacher_name"].tolist() == ["ViT-B-32", "", "ViT-B-32", "ViT-B-32", ""]
    assert named["setting"].cat.categories.tolist() == [
        "FedAvg", "FedAvg + KD", "Fed-LPFM", "SCAFFOLD", "SCAFFOLD + KD",
    ]  # fmt: skip


def test_settings_contain_the_fields_of_the_teachers_term(tmp_path: Path) -> None:
    specs = [added("moon", lam=lam, temperature=t) for lam in (0, 0.5) for t in (1, 2)]
    assert settings(tmp_path / "a", *specs) == ["MOON + KD, λ=0"] * 2 + [
        "MOON + KD, λ=0.5, T=1",
        "MOON + KD, λ=0.5, T=2",
    ]
    specs = [added("fedprox", loss={"name": name}) for name in ("kd", "dkd")]
    assert settings(tmp_path / "b", *specs) == ["FedProx + KD, kd", "FedProx + KD, dkd"]


def test_weight_of_the_global_teacher_is_no_weight_of_a_foundation_model(tmp_path: Path) -> None:
    specs = [{"strategy": {"name": "global_teacher", "lam": 0.5, "temperature": t}, "teacher": TEACHER} for t in (1, 2)]
    table = runs(tmp_path, *specs)
    named = name_runs(table)
    assert named["teacher_name"].tolist() == ["", ""]
    assert named["setting"].tolist() == ["Global teacher, T=1", "Global teacher, T=2"]


def test_equal_labels_mean_equal_specs(tmp_path: Path) -> None:
    """In a space with conditional axes, specs that differ in more than the seed have different labels."""
    strategies: list[dict[str, Any]] = [
        {"name": "fedavg"},
        *({"name": "fedprox", "mu": mu} for mu in (0.01, 0.1)),
        *(
            {"name": "fml", "beta": beta, "private": private}
            for beta in (0.1, 0.5)
            for private in (None, {"name": "cnn"})
        ),
        *({"name": "fedlpfm", "lam": lam, "balance": b} for lam in (0.25, 1) for b in ("convex", "additive")),
    ]
    partitions = [{"kind": "iid"}, *({"kind": "dirichlet", "alpha": a} for a in (0.1, 1))]
    norms = (None, "group")
    points = list(itertools.product(strategies, partitions, norms))
    specs = [{"strategy": s, "partition": p | {"clients": 4}, "proxy": {"norm": n}} for s, p, n in points]
    all_labels = labels(tmp_path, *specs, *(spec | {"seed": 1} for spec in specs))
    assert len(set(all_labels)) == len(points)
    assert all_labels[: len(points)] == all_labels[len(points) :]
