import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from fedray.config.experiment import EXECUTION_SECTIONS, Experiment
from fedray.config.loader import Space, key, load, parse_experiment, read
from fedray.config.schema import schema
from fedray.config.search import Search
from fedray.config.yaml_files import flatten, to_yaml
from fedray.errors import SpecError

TUNE_SPACES = Path(__file__).parents[2] / "tune_spaces"
README = (Path(__file__).parents[2] / "README.md").read_text()
EXAMPLE = README.split("```yaml\n")[1].split("```")[0]


def spec(tmp_path: Path, text: str, name: str = "study.yaml") -> Path:
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_the_example_of_the_readme_is_an_experiment(tmp_path: Path) -> None:
    (run,) = load(spec(tmp_path, EXAMPLE))
    assert run.name == "study"
    assert run.experiment.training.decay_every == 200
    assert run.experiment.teacher is not None
    assert run.experiment.strategy.needs_teacher


def test_yaml_out_and_in_is_the_same_experiment_with_every_default(tmp_path: Path) -> None:
    (run,) = load(spec(tmp_path, EXAMPLE))
    text = to_yaml(run.experiment)
    (again,) = load(spec(tmp_path, text, "resolved.yaml"))
    assert again.experiment == run.experiment
    flat = flatten(yaml.safe_load(text))
    assert (flat["teacher.prompts"], flat["teacher.view"], flat["teacher.mode"]) == ("single", "plain", "cached")
    assert flat["evaluation.batch_size"] == 500
    assert set(flatten(yaml.safe_load(EXAMPLE))) <= set(flat)


NESTED = """
data: {public_fraction: 0.1}
strategy: {name: fedlpfm, lam: 1, loss: {name: function_matching, mixup: 0.2}}
teacher:
  kind: ensemble
  view: proxy
  mode: online
  assignment: [0, [0, 1], 2]
  teachers:
    - {kind: zero_shot, prompts: ["one {}", "two {}"]}
    - {kind: classifier, model: resnet18, class_map: {"0": [1, 2], "1": [3]}}
    - {kind: adapted, backbone: {kind: supervised, epochs: 2}, method: fine_tune}
"""


def test_teachers_inside_teachers_survive_yaml_out_and_in(tmp_path: Path) -> None:
    (run,) = load(spec(tmp_path, NESTED))
    text = to_yaml(run.experiment)
    (again,) = load(spec(tmp_path, text, "resolved.yaml"))
    assert again.experiment == run.experiment
    tree = yaml.safe_load(text)
    assert tree["strategy"]["loss"]["mixup"] == 0.2
    assert tree["teacher"]["assignment"] == [0, [0, 1], 2]
    assert [teacher["kind"] for teacher in tree["teacher"]["teachers"]] == ["zero_shot", "classifier", "adapted"]
    assert tree["teacher"]["teachers"][1]["class_map"] == {"0": [1, 2], "1": [3]}
    assert tree["teacher"]["teachers"][2]["backbone"]["epochs"] == 2


def test_overrides_set_dotted_fields_with_yaml_values(tmp_path: Path) -> None:
    (run,) = load(spec(tmp_path, EXAMPLE), ["strategy.lam=0.25", "seed=7", "training.lr=1e-3", "data.train_limit=null"])
    assert (run.experiment.seed, run.experiment.training.lr) == (7, 0.001)
    assert run.experiment.strategy.model_dump()["lam"] == 0.25


def test_another_kind_leaves_behind_the_fields_it_does_not_know(tmp_path: Path) -> None:
    (run,) = load(spec(tmp_path, EXAMPLE), ["strategy.name=fedprox", "strategy.mu=0.5", "partition.kind=iid"])
    assert run.experiment.strategy.model_dump() == {"name": "fedprox", "weighting": "examples", "mu": 0.5}
    assert run.experiment.partition.model_dump() == {"kind": "iid", "clients": 10}


def test_another_loss_leaves_behind_the_parameters_it_does_not_know(tmp_path: Path) -> None:
    text = "strategy: {name: fedlpfm, loss: {name: dkd, alpha: 2, beta: 3}}\nteacher: {kind: zero_shot}"
    (run,) = load(spec(tmp_path, text), ["strategy.loss.name=dist"])
    assert run.experiment.strategy.model_dump()["loss"] == {"name": "dist", "beta": 3.0, "gamma": 1.0}


def test_an_override_makes_a_section_that_the_file_lacks(tmp_path: Path) -> None:
    (run,) = load(spec(tmp_path, "seed: 1"), ["training.rounds=3"])
    assert run.experiment.training.rounds == 3


SPACE = """
base: {teacher: {kind: precomputed, file: x.parquet}, training: {rounds: 4}}
space:
  strategy: {grid: [{name: fedavg}, {name: fedlpfm, lam: 0.5}]}
  partition.alpha: {grid: [0.1, 1.0]}
"""


def test_a_space_is_every_combination_in_the_order_of_its_axes(tmp_path: Path) -> None:
    space = SPACE.replace("training:", "partition: {kind: dirichlet}, training:")
    runs = load(spec(tmp_path, space))
    assert [run.label for run in runs] == [
        "strategy=fedavg, alpha=0.1",
        "strategy=fedavg, alpha=1.0",
        "strategy=fedlpfm lam=0.5, alpha=0.1",
        "strategy=fedlpfm lam=0.5, alpha=1.0",
    ]
    assert len({run.name for run in runs}) == 4
    assert all(run.name.startswith("study/") and " " not in run.name for run in runs)
    assert [run.experiment.strategy.name for run in runs] == ["fedavg", "fedavg", "fedlpfm", "fedlpfm"]


def test_an_axis_that_does_not_apply_is_left_to_the_base(tmp_path: Path) -> None:
    """No trial is repeated for a λ that FedAvg does not have."""
    text = """
base: {teacher: {kind: precomputed, file: x.parquet}}
space:
  strategy.name: {grid: [fedavg, fedlpfm]}
  strategy.lam: {grid: [0.25, 0.5], when: {strategy.name: fedlpfm}}
"""
    assert [run.label for run in load(spec(tmp_path, text))] == [
        "strategy=fedavg",
        "strategy=fedlpfm, lam=0.25",
        "strategy=fedlpfm, lam=0.5",
    ]


def test_samples_draw_values_from_the_seed_of_the_base(tmp_path: Path) -> None:
    text = "base: {seed: 5}\nspace: {training.lr: {loguniform: [0.001, 0.1]}}\nsearch: {samples: 3}"
    drawn = [run.experiment.training.lr for run in load(spec(tmp_path, text))]
    assert len(set(drawn)) == 3
    assert all(0.001 <= lr <= 0.1 for lr in drawn)
    assert [run.experiment.training.lr for run in load(spec(tmp_path, text.replace("3", "2")))] == drawn[:2]


@pytest.mark.parametrize("samples", ["0", "two", "1.5"])
def test_samples_are_counted(tmp_path: Path, samples: str) -> None:
    with pytest.raises(SpecError, match=r"search\.samples is .*, but must be"):
        load(spec(tmp_path, f"space: {{seed: {{randint: [0, 9]}}}}\nsearch: {{samples: {samples}}}"))


def test_an_override_of_an_axis_fixes_it(tmp_path: Path) -> None:
    space = SPACE.replace("training:", "partition: {kind: dirichlet}, training:")
    runs = load(spec(tmp_path, space), ["partition.alpha=0.3"])
    assert [run.label for run in runs] == ["strategy=fedavg, alpha=0.3", "strategy=fedlpfm lam=0.5, alpha=0.3"]


def test_a_long_label_is_cut_and_told_apart(tmp_path: Path) -> None:
    values = [["x" * 300 + "a"], ["x" * 300 + "b"]]
    runs = load(spec(tmp_path, yaml.safe_dump({"base": {}, "space": {"data.train": {"grid": [v[0] for v in values]}}})))
    assert len({run.name for run in runs}) == 2
    assert all(len(run.name) < 130 for run in runs)


def labels(tmp_path: Path, space: dict[str, Any]) -> list[str]:
    text = yaml.safe_dump({"base": {"data": {"public_fraction": 0.2}}, "space": space}, sort_keys=False)
    return [run.label for run in load(spec(tmp_path, text))]


CLIP = {"kind": "zero_shot", "pretrained": "openai"}


@pytest.mark.parametrize(
    ("axis", "values", "expected"),
    [
        ("training.lr", [0.1 + 0.2, 1e-5, 1.0], ["lr=0.3", "lr=1e-05", "lr=1.0"]),
        ("seed", [1, 2], ["seed=1", "seed=2"]),
        ("strategy.name", ["fedavg", "fml"], ["strategy=fedavg", "strategy=fml"]),
        ("teacher", [None, {"kind": "supervised"}], ["teacher=None", "teacher=supervised"]),
        ("teacher", [{**CLIP, "model": "RN50"}], ["teacher=zero_shot pretrained=openai model=RN50"]),
        # Of sections, what tells them apart.
        ("strategy", [{"name": "fml"}, {"name": "fedprox", "mu": 0.1}], ["strategy=fml", "strategy=fedprox mu=0.1"]),
        ("strategy", [{"name": "fedprox", "mu": mu} for mu in (0.1, 1)], ["strategy=mu=0.1", "strategy=mu=1"]),
        (
            "teacher",
            [{**CLIP, "model": "RN50"}, {**CLIP, "model": "RN50", "prompts": "cifar18"}],
            ["teacher=zero_shot pretrained=openai model=RN50", "teacher=prompts=cifar18"],
        ),
        # A file by its name, and a model by its own.
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
def test_labels_say_what_tells_trials_apart(tmp_path: Path, axis: str, values: list[Any], expected: list[str]) -> None:
    assert labels(tmp_path, {axis: {"grid": values}}) == expected


def test_a_run_is_in_a_folder_of_its_label_and_its_key(tmp_path: Path) -> None:
    strategies = "[{name: fedavg}, {name: fedprox, mu: 0.1}]"
    runs = load(
        spec(tmp_path, f"base: {{}}\nspace: {{strategy: {{grid: {strategies}}}, training.lr: {{grid: [0.1]}}}}")
    )
    assert [run.name for run in runs] == [
        f"study/strategy=fedavg,lr=0.1-{key(runs[0].experiment)}",
        f"study/strategy=fedprox_mu=0.1,lr=0.1-{key(runs[1].experiment)}",
    ]
    assert load(spec(tmp_path, "seed: 3"))[0].name == "study"


OTHERS: dict[str, Any] = {
    "seed": 1,
    "data.train": "torchvision:MNIST",
    "data.test": "torchvision:MNIST",
    "data.augment": "crop_flip",
    "data.size": 16,
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
    "training.rounds": 11,
    "training.local_epochs": 2,
    "training.batch_size": 63,
    "training.lr": 0.02,
    "training.momentum": 0.8,
    "training.weight_decay": 0.0,
    "training.decay_every": 5,
    "training.decay_factor": 0.5,
    "training.participation": 0.5,
    "training.memory_format": "contiguous",
    "training.precision": "bfloat16",
    "training.failures": "drop",
    "training.min_cohort": 2,
    "training.deadline": 30.0,
    "training.late": "drop",
    "evaluation.every": 2,
    "evaluation.batch_size": 499,
}
"""Another value for each field that decides a result."""


def test_what_a_trial_is_known_by_is_all_that_decides_its_result(tmp_path: Path) -> None:
    def known_by(*overrides: str) -> str:
        (run,) = load(spec(tmp_path, to_yaml(Experiment())), overrides)
        return key(run.experiment)

    fields = flatten(Experiment().model_dump(mode="json"))
    assert set(OTHERS) == {field for field in fields if field.split(".")[0] not in EXECUTION_SECTIONS}
    changed = [known_by(f"{field}={json.dumps(value)}") for field, value in OTHERS.items()]
    assert len({known_by(), *changed}) == 1 + len(OTHERS)
    for field in ("resources.backend=serial", "resources.clients_per_actor=3", "resources.cpus_per_client=2",
                  "resources.gpus_per_client=0.1", "checkpoint.every=5"):  # fmt: skip
        assert known_by(field) == known_by()


def test_what_a_trial_is_known_by_does_not_depend_on_how_it_is_written(tmp_path: Path) -> None:
    (plain,) = load(spec(tmp_path, "{}"))
    (whole,) = load(spec(tmp_path, to_yaml(plain.experiment)))
    (other,) = load(spec(tmp_path, "training: {rounds: 10, lr: 1.0e-2}\nseed: 0"))
    assert key(plain.experiment) == key(whole.experiment) == key(other.experiment)
    assert len(key(plain.experiment)) == 8
    assert set(key(plain.experiment)) <= set("0123456789abcdef")


def test_a_plain_experiment_is_a_space_without_axes(tmp_path: Path) -> None:
    found = read(spec(tmp_path, "seed: 3\nsearch: {metric: loss}"), ["training.rounds=2", "search.samples=4"])
    assert found.axes == []
    assert found.base == {"seed": 3, "training": {"rounds": 2}}
    assert found.search == Search(metric="loss", samples=4)
    (run,) = found.runs()
    assert (run.name, run.label, run.assignment, run.experiment.training.rounds) == ("study", "", {}, 2)


SEARCHED = """
base: {seed: 4}
space: {training.lr: {grid: [0.1, 0.2]}, training.momentum: {uniform: [0.5, 0.9]}}
search: {metric: loss, algorithm: random, samples: 5}
"""


def test_a_space_says_how_it_is_searched(tmp_path: Path) -> None:
    found = read(spec(tmp_path, SEARCHED), ["search.scheduler=asha", "search.grace=2", "search.log_to=[]", "seed=5"])
    assert found.search == Search(metric="loss", algorithm="random", samples=5, scheduler="asha", grace=2, log_to=())
    assert [(axis.field, axis.kind) for axis in found.axes] == [
        ("training.lr", "grid"),
        ("training.momentum", "uniform"),
    ]
    assert found.first() == {"training.lr": 0.1, "training.momentum": 0.5}
    runs = found.runs()
    assert len(runs) == 5  # points, not combinations
    assert {run.experiment.training.lr for run in runs} <= {0.1, 0.2}
    assert len({run.experiment.training.momentum for run in runs}) == 5
    assert {run.experiment.seed for run in runs} == {5}
    on_grid = read(spec(tmp_path, SEARCHED), ["search.algorithm=grid"])
    assert len(on_grid.runs()) == 10
    assert len(read(spec(tmp_path, SEARCHED), ["training.lr=0.3"]).runs()) == 5


@pytest.mark.parametrize(
    ("base", "seed"), [("{}", 0), ("{seed: 7}", 7), ("{seed: abc}", 0), ("{seed: [1]}", 0), ("{seed: null}", 0)]
)
def test_draws_are_made_with_the_seed_of_the_base(tmp_path: Path, base: str, seed: int) -> None:
    assert read(spec(tmp_path, f"base: {base}\nspace: {{training.lr: {{uniform: [0.1, 1]}}}}")).seed == seed


def test_a_seed_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"with lr=0\.1: seed is 'abc', but must be"):
        load(spec(tmp_path, "base: {seed: abc}\nspace: {training.lr: {grid: [0.1]}}"))


def test_a_choice_is_the_same_trial_as_the_files_own(tmp_path: Path) -> None:
    found: Space = read(spec(tmp_path, SEARCHED))
    for run in found.runs():
        assert found.run(run.assignment) == run


@pytest.mark.parametrize(
    ("search", "direction"),
    [
        ({}, "max"),
        ({"metric": "loss"}, "min"),
        ({"metric": "loss", "mode": "max"}, "max"),
        ({"metric": "last_ten"}, "max"),
        ({"metric": "accuracy", "mode": "min"}, "min"),
    ],
    ids=str,
)
def test_which_way_is_better(search: dict[str, Any], direction: str) -> None:
    assert Search.model_validate(search).direction == direction


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ("sheduler: asha", "unknown field 'search.sheduler'; did you mean 'scheduler'? ('search' has metric, mode,"),
        ("metric: acuracy", "search.metric is 'acuracy', but must be one of accuracy, last_ten, loss,"),
        ("metric: acuracy", "; did you mean 'accuracy'?"),
        ("algorithm: tpe", "search.algorithm is 'tpe', but must be one of grid, random, optuna"),
        ("scheduler: hyperband", "search.scheduler is 'hyperband', but must be one of none, asha, median, pbt"),
        ("mode: biggest", "search.mode is 'biggest', but must be one of max, min"),
        ("samples: 0", "search.samples is 0, but must be at least 1"),
        ("grace: 0", "search.grace is 0, but must be at least 1"),
        ("reduction: 1", "search.reduction is 1, but must be at least 2"),
        ("retries: -1", "search.retries is -1, but must be at least 0"),
        ("max_concurrent: 0", "search.max_concurrent is 0, but must be auto or at least 1"),
        ("scheduler: pbt", "search.mutations is null, but must be set for pbt, such as"),
        ("mutations: {training.lr: [0.1, 0.01]}", "search.mutations is {'training.lr': [0.1, 0.01]}, but must be set"),
        ("scheduler: pbt, mutations: {training.lr: [0.1]}", "search.mutations.training.lr is [0.1], but must have at"),
        ("log_to: [tensorbord]", "search.log_to.0 is 'tensorbord', but must be one of tensorboard, mlflow, wandb; did"),
        ("log_to: wandb", "search.log_to is 'wandb', but must be a list"),
    ],
)
def test_one_sentence_for_what_is_wrong_with_a_search(tmp_path: Path, search: str, said: str) -> None:
    file = spec(tmp_path, f"space: {{seed: {{grid: [1, 2]}}}}\nsearch: {{{search}}}")
    with pytest.raises(SpecError) as caught:
        read(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert said in str(caught.value)


def test_what_proposes_as_results_come_needs_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"search.algorithm is optuna, .*: use fedray sweep\.$"):
        load(spec(tmp_path, "space: {seed: {grid: [1, 2]}}\nsearch: {algorithm: optuna}"))


def test_an_experiment_says_where_it_comes_from() -> None:
    with pytest.raises(SpecError, match=r"^here: training.lr is -1, but must be above 0\.$"):
        parse_experiment({"training": {"lr": -1}}, "here")


def test_equal_experiments_run_once(tmp_path: Path) -> None:
    assert len(load(spec(tmp_path, "base: {}\nspace: {seed: {grid: [1, 2, 1]}}"))) == 2


def test_a_base_may_be_another_file(tmp_path: Path) -> None:
    spec(tmp_path, "training: {rounds: 9}", "base.yaml")
    runs = load(spec(tmp_path, "base: base.yaml\nspace: {seed: {grid: [1, 2]}}"))
    assert [run.experiment.training.rounds for run in runs] == [9, 9]


@pytest.mark.parametrize("name", ["quickstart", "cifar10_class_split", "cifar10_mobilenet"])
def test_shipped_spaces_are_valid(name: str) -> None:
    assert len(load(TUNE_SPACES / f"{name}.yaml")) >= 2


def test_the_schema_accepts_what_we_accept_and_refuses_what_we_refuse(tmp_path: Path) -> None:
    good = [yaml.safe_load(file.read_text()) for file in TUNE_SPACES.glob("*.yaml")]
    for document in [*(yaml.safe_load(text) for text in (EXAMPLE, SPACE, NESTED)), *good]:
        jsonschema.validate(document, schema())
    for bad in (
        {"seeed": 1},
        {"base": {"seeed": 1}, "space": {}},
        {"space": {"seed": [1]}},
        {"training": {"lr": -1}},
        {"strategy": {"name": "fedsgd"}},
        {"teacher": {"kind": "ensemble", "teachers": [{"kind": "zero_shot"}]}},
        {"teacher": {"kind": "adapted", "backbone": {"kind": "precomputed", "file": "x"}}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema())
        with pytest.raises(SpecError):
            load(spec(tmp_path, yaml.safe_dump(bad)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("space: {strategy.nmae: {grid: [fedavg]}}", "unknown field 'strategy.nmae'; did you mean 'name'?"),
        ("space: {trainig.lr: {grid: [1]}}", "unknown field 'trainig.lr'; did you mean 'training'?"),
        (
            "space: {strategy.mu: {grid: [1], when: {strategy.nam: fedprox}}}",
            "'when' of the axis strategy.mu has an unknown field 'strategy.nam'; did you mean 'name'?",
        ),
        (
            "space: {training.lr: {grid: [1, 2]}}\nsearch: {scheduler: pbt, mutations: {training.lr: [1, -5]}}",
            "search.mutations: training.lr is -5.0, but must be above 0.",
        ),
        (
            "space: {seed: {grid: [1, 2]}}\nsearch: {scheduler: pbt, mutations: {seed: [1, 2]}}",
            "search.mutations has seed, but only fields of training and strategy may change during a run.",
        ),
    ],
)
def test_fields_that_there_are_not(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SpecError) as error:
        read(spec(tmp_path, f"base: {{}}\n{text}"))
    assert str(error.value).endswith(f"yaml: {said}")
