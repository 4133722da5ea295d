"""Labels and folder names of trials."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.specs import write_spec

from fedray.config.key import trial_key
from fedray.config.loader import load


def labels(tmp_path: Path, space: dict[str, Any]) -> list[str]:
    text = yaml.safe_dump({"base": {"data": {"public_fraction": 0.2}}, "space": space}, sort_keys=False)
    return [run.label for run in load(write_spec(tmp_path, text))]


CLIP = {"kind": "zero_shot", "pretrained": "openai"}


@pytest.mark.parametrize(
    ("axis", "values", "expected"),
    [
        ("training.optimizer.lr", [0.1 + 0.2, 1e-5, 1.0], ["lr=0.3", "lr=1e-05", "lr=1.0"]),
        ("seed", [1, 2], ["seed=1", "seed=2"]),
        ("strategy.name", ["fedavg", "fml"], ["strategy=fedavg", "strategy=fml"]),
        ("teacher", [None, {"kind": "supervised"}], ["teacher=None", "teacher=supervised"]),
        ("teacher", [{**CLIP, "model": "RN50"}], ["teacher=zero_shot pretrained=openai model=RN50"]),
        # Sections are labelled by the fields in which they differ.
        ("strategy", [{"name": "fml"}, {"name": "fedprox", "mu": 0.1}], ["strategy=fml", "strategy=fedprox mu=0.1"]),
        ("strategy", [{"name": "fedprox", "mu": mu} for mu in (0.1, 1)], ["strategy=mu=0.1", "strategy=mu=1"]),
        (
            "teacher",
            [{**CLIP, "model": "RN50"}, {**CLIP, "model": "RN50", "prompts": "cifar18"}],
            ["teacher=zero_shot pretrained=openai model=RN50", "teacher=prompts=cifar18"],
        ),
        # A file is labelled by its stem, a model by its whole name.
        ("teacher", [{**CLIP, "model": "ViT-B-32"}, {**CLIP, "model": "RN50"}], ["teacher=ViT-B-32", "teacher=RN50"]),
        (
            "teacher",
            [{"kind": "precomputed", "file": f"logits/{name}.parquet"} for name in ("vit.b", "rn50")],
            ["teacher=vit.b", "teacher=rn50"],
        ),
        (
            "teacher",
            [{"kind": "classifier", "model": f"resnet50.{tag}_in1k"} for tag in ("a1", "a2")],
            ["teacher=resnet50.a1_in1k", "teacher=resnet50.a2_in1k"],
        ),
    ],
)  # fmt: skip
def test_label_shows_how_trials_differ(tmp_path: Path, axis: str, values: list[Any], expected: list[str]) -> None:
    assert labels(tmp_path, {axis: {"grid": values}}) == expected


def test_runs_with_long_equal_labels_have_distinct_names(tmp_path: Path) -> None:
    values = [["x" * 300 + "a"], ["x" * 300 + "b"]]
    runs = load(
        write_spec(tmp_path, yaml.safe_dump({"base": {}, "space": {"data.train": {"grid": [v[0] for v in values]}}}))
    )
    assert len({run.name for run in runs}) == 2
    assert all(len(run.name) < 130 for run in runs)


def test_name_of_a_run_has_its_label_and_its_trial_key(tmp_path: Path) -> None:
    strategies = "[{name: fedavg}, {name: fedprox, mu: 0.1}]"
    runs = load(
        write_spec(
            tmp_path, f"base: {{}}\nspace: {{strategy: {{grid: {strategies}}}, training.optimizer.lr: {{grid: [0.1]}}}}"
        )
    )
    assert [run.name for run in runs] == [
        f"study/strategy=fedavg,lr=0.1-{trial_key(runs[0].experiment)}",
        f"study/strategy=fedprox_mu=0.1,lr=0.1-{trial_key(runs[1].experiment)}",
    ]
    assert load(write_spec(tmp_path, "seed: 3"))[0].name == "study"
