"""Spec files and spaces are loaded as experiments."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.specs import README_EXAMPLE, SPACE, write_spec

from fedray.config.experiment import EXECUTION_SECTIONS, Experiment
from fedray.config.key import trial_key
from fedray.config.loader import Space, load, parse_experiment, read
from fedray.config.search import Search
from fedray.config.yaml_files import flatten, to_yaml
from fedray.errors import SpecError
from fedray.training.schedules import StepSchedule

TUNE_SPACES = Path(__file__).parents[2] / "tune_spaces"


def test_readme_example_is_an_experiment(tmp_path: Path) -> None:
    (run,) = load(write_spec(tmp_path, README_EXAMPLE))
    assert run.name == "study"
    assert run.experiment.training.schedule == StepSchedule(every=200)
    assert run.experiment.teacher is not None
    assert run.experiment.strategy.needs_teacher


def test_space_has_every_combination_in_the_order_of_its_axes(tmp_path: Path) -> None:
    space = SPACE.replace("training:", "partition: {kind: dirichlet}, training:")
    runs = load(write_spec(tmp_path, space))
    assert [run.label for run in runs] == [
        "strategy=fedavg, alpha=0.1",
        "strategy=fedavg, alpha=1.0",
        "strategy=fedlpfm lam=0.5, alpha=0.1",
        "strategy=fedlpfm lam=0.5, alpha=1.0",
    ]
    assert len({run.name for run in runs}) == 4
    assert all(run.name.startswith("study/") and " " not in run.name for run in runs)
    assert [run.experiment.strategy.name for run in runs] == ["fedavg", "fedavg", "fedlpfm", "fedlpfm"]


def test_inactive_axis_takes_the_value_of_the_base(tmp_path: Path) -> None:
    """FedAvg, which has no λ, gets one trial."""
    text = """
base: {teacher: {kind: precomputed, file: x.parquet}}
space:
  strategy.name: {grid: [fedavg, fedlpfm]}
  strategy.lam: {grid: [0.25, 0.5], when: {strategy.name: fedlpfm}}
"""
    assert [run.label for run in load(write_spec(tmp_path, text))] == [
        "strategy=fedavg",
        "strategy=fedlpfm, lam=0.25",
        "strategy=fedlpfm, lam=0.5",
    ]


def test_random_values_derive_from_the_seed_of_the_base(tmp_path: Path) -> None:
    text = "base: {seed: 5}\nspace: {training.optimizer.lr: {loguniform: [0.001, 0.1]}}\nsearch: {samples: 3}"
    drawn = [run.experiment.training.optimizer.lr for run in load(write_spec(tmp_path, text))]
    assert len(set(drawn)) == 3
    assert all(0.001 <= lr <= 0.1 for lr in drawn)
    assert [
        run.experiment.training.optimizer.lr for run in load(write_spec(tmp_path, text.replace("3", "2")))
    ] == drawn[:2]


@pytest.mark.parametrize("samples", ["0", "two", "1.5"])
def test_samples_must_be_a_positive_integer(tmp_path: Path, samples: str) -> None:
    with pytest.raises(SpecError, match=r"search\.samples is .*, but must be"):
        load(write_spec(tmp_path, f"space: {{seed: {{randint: [0, 9]}}}}\nsearch: {{samples: {samples}}}"))


OTHER_VALUES: dict[str, Any] = {
    "seed": 1,
    "data.train": "torchvision:MNIST",
    "data.test": "torchvision:MNIST",
    "data.augment": "crop_flip",
    "data.size": 16,
    "data.image_column": "photo",
    "data.label_column": "kind",
    "data.train_limit": 100,
    "data.test_limit": 100,
    "data.public_fraction": 0.1,
    "data.normalize": "imagenet",
    "partition.kind": "iid",
    "partition.clients": 7,
    "partition.alpha": 0.3,
    "partition.min_examples": 2,
    "proxy.name": "resnet18",
    "proxy.stem": "cifar",
    "proxy.norm": "group",
    "proxy.init": "file:weights.safetensors",
    "teacher": {"kind": "precomputed", "file": "x.parquet"},
    "strategy.name": "fedprox",
    "strategy.weighting": "uniform",
    "strategy.distillation": {"lam": 0.0},
    "aggregation.name": "median",
    "server.name": "adam",
    "server.lr": 0.5,
    "training.rounds": 11,
    "training.local_epochs": 2,
    "training.local_steps": 7,
    "training.batch_size": 63,
    "training.optimizer.name": "adam",
    "training.optimizer.lr": 0.02,
    "training.optimizer.momentum": 0.8,
    "training.optimizer.state": "kept",
    "training.optimizer.nesterov": True,
    "training.optimizer.weight_decay": 0.0,
    "training.schedule.name": "cosine",
    "training.schedule.warm_up": 3,
    "training.clip_norm": 2.0,
    "training.participation": 0.5,
    "training.memory_format": "contiguous",
    "training.precision": "bfloat16",
    "training.fast_layers": False,
    "training.failures": "drop",
    "training.min_cohort": 2,
    "training.deadline": 30.0,
    "training.late": "drop",
    "evaluation.every": 2,
    "evaluation.batch_size": 499,
}
"""A non-default value for each field that decides a result."""


def test_key_depends_on_every_field_that_decides_the_result(tmp_path: Path) -> None:
    def key_with(*overrides: str) -> str:
        (run,) = load(write_spec(tmp_path, to_yaml(Experiment())), overrides)
        return trial_key(run.experiment)

    fields = flatten(Experiment().model_dump(mode="json"))
    assert set(OTHER_VALUES) == {field for field in fields if field.split(".")[0] not in EXECUTION_SECTIONS}
    also = {"training.local_steps": ["training.local_epochs=null"]}
    changed = [key_with(f"{field}={json.dumps(value)}", *also.get(field, [])) for field, value in OTHER_VALUES.items()]
    assert len({key_with(), *changed}) == 1 + len(OTHER_VALUES)
    for field in ("resources.backend=serial", "resources.clients_per_actor=3", "resources.cpus_per_client=2",
                  "resources.gpus_per_client=0.1", "checkpoint.every=5"):  # fmt: skip
        assert key_with(field) == key_with()


def test_key_does_not_depend_on_the_notation_of_the_spec(tmp_path: Path) -> None:
    (plain,) = load(write_spec(tmp_path, "{}"))
    (whole,) = load(write_spec(tmp_path, to_yaml(plain.experiment)))
    (other,) = load(write_spec(tmp_path, "training: {rounds: 10, optimizer: {lr: 1.0e-2}}\nseed: 0"))
    assert trial_key(plain.experiment) == trial_key(whole.experiment) == trial_key(other.experiment)
    assert len(trial_key(plain.experiment)) == 8
    assert set(trial_key(plain.experiment)) <= set("0123456789abcdef")


def test_plain_experiment_is_a_space_without_axes(tmp_path: Path) -> None:
    space = read(
        write_spec(tmp_path, "seed: 3\nsearch: {metric: test_loss}"), ["training.rounds=2", "search.samples=4"]
    )
    assert space.axes == []
    assert space.base == {"seed": 3, "training": {"rounds": 2}}
    assert space.search == Search(metric="test_loss", samples=4)
    (run,) = space.runs()
    assert (run.name, run.label, run.assignment, run.experiment.training.rounds) == ("study", "", {}, 2)


RANDOM_SEARCH = """
base: {seed: 4}
space: {training.optimizer.lr: {grid: [0.1, 0.2]}, training.optimizer.momentum: {uniform: [0.5, 0.9]}}
search: {metric: test_loss, algorithm: random, samples: 5}
"""


@pytest.mark.parametrize(
    ("base", "seed"), [("{}", 0), ("{seed: 7}", 7), ("{seed: abc}", 0), ("{seed: [1]}", 0), ("{seed: null}", 0)]
)
def test_seed_of_a_space_is_the_seed_of_the_base(tmp_path: Path, base: str, seed: int) -> None:
    assert (
        read(write_spec(tmp_path, f"base: {base}\nspace: {{training.optimizer.lr: {{uniform: [0.1, 1]}}}}")).seed
        == seed
    )


def test_invalid_seed_of_a_space_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"with lr=0\.1: seed is 'abc', but must be"):
        load(write_spec(tmp_path, "base: {seed: abc}\nspace: {training.optimizer.lr: {grid: [0.1]}}"))


def test_run_of_an_assignment_equals_the_run_of_the_space(tmp_path: Path) -> None:
    space: Space = read(write_spec(tmp_path, RANDOM_SEARCH))
    for run in space.runs():
        assert space.run(run.assignment) == run


def test_message_starts_with_the_source_of_the_experiment() -> None:
    with pytest.raises(SpecError, match=r"^here: training.optimizer.lr is -1, but must be above 0\.$"):
        parse_experiment({"training": {"optimizer": {"lr": -1}}}, "here")


def test_equal_experiments_run_once(tmp_path: Path) -> None:
    assert len(load(write_spec(tmp_path, "base: {}\nspace: {seed: {grid: [1, 2, 1]}}"))) == 2


def test_base_can_be_another_file(tmp_path: Path) -> None:
    write_spec(tmp_path, "training: {rounds: 9}", "base.yaml")
    runs = load(write_spec(tmp_path, "base: base.yaml\nspace: {seed: {grid: [1, 2]}}"))
    assert [run.experiment.training.rounds for run in runs] == [9, 9]


@pytest.mark.parametrize("name", ["quickstart", "cifar10_class_split", "cifar10_mobilenet"])
def test_shipped_spaces_are_valid(name: str) -> None:
    assert len(load(TUNE_SPACES / f"{name}.yaml")) >= 2


def test_equal_floats_are_one_trial(tmp_path: Path) -> None:
    text = "base: {}\nspace: {training.optimizer.lr: {grid: [0.3, 0.30000000000000004, 3e-1, 0.1]}}"
    assert [run.label for run in load(write_spec(tmp_path, text))] == ["lr=0.3", "lr=0.1"]


def test_numbers_with_exponents_are_numbers_everywhere(tmp_path: Path) -> None:
    axes = "{training.optimizer.lr: {loguniform: [1e-4, 1e-1]}}"
    text = f"base: {{training: {{rounds: 1e1}}}}\nspace: {axes}\nsearch: {{samples: 2e0}}"
    runs = load(write_spec(tmp_path, text))
    assert len(runs) == 2
    assert all(run.experiment.training.rounds == 10 for run in runs)


def test_seed_of_a_space_may_be_a_whole_float(tmp_path: Path) -> None:
    text = "base: {seed: 7e0}\nspace: {training.optimizer.lr: {uniform: [0.1, 1]}}"
    assert read(write_spec(tmp_path, text)).seed == 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base: 0\nspace: {seed: {grid: [1]}}", "base must hold sections"),
        ("base: {}\nspace: []", "space must map fields to axes"),
        ("search: false\nseed: 1", "search is False, but must be a section"),
        ("space: {seed: {grid: [1]}}\nsearch: {samples: 1e12}", "samples is 1000000000000, but must be"),
        ("space: {seed: {grid: [1]}}\nsearch: {samples: true}", "samples is True, but must be"),
        (f"space: {{seed: {{grid: {list(range(1000))}}}, training.rounds: {{grid: {list(range(1, 1000))}}}}}",
         "has more than 100,000 combinations"),
    ],
)  # fmt: skip
def test_invalid_space_is_one_sentence(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(write_spec(tmp_path, text))
    assert expected in str(caught.value)


def test_a_space_sweeps_the_weight_of_an_added_term(tmp_path: Path) -> None:
    text = """
base: {teacher: {kind: precomputed, file: x.parquet}, strategy: {name: scaffold}}
space: {strategy.name: {grid: [fedavg, scaffold]}, strategy.distillation.lam: {grid: [0.25, 0.5]}}
"""
    runs = load(write_spec(tmp_path, text))
    strategies = [run.experiment.strategy for run in runs]
    terms = [(strategy.name, strategy.distillation.lam) for strategy in strategies if strategy.distillation]
    assert terms == [("fedavg", 0.25), ("fedavg", 0.5), ("scaffold", 0.25), ("scaffold", 0.5)]
    assert [run.label for run in runs][:2] == ["strategy=fedavg, lam=0.25", "strategy=fedavg, lam=0.5"]
