from pathlib import Path

import jsonschema
import pytest
import yaml

from fedray.errors import SpecError
from fedray.spec_file import flatten, load, schema, to_yaml

TUNE_SPACES = Path(__file__).parents[1] / "tune_spaces"
README = (Path(__file__).parents[1] / "README.md").read_text()
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
    assert (flat["teacher.prompts"], flat["teacher.view"], flat["teacher.mode"]) == ("single", "fixed", "bank")
    assert flat["evaluation.batch_size"] == 500
    assert set(flatten(yaml.safe_load(EXAMPLE))) <= set(flat)


NESTED = """
data: {public_fraction: 0.1}
strategy: {name: fedlpfm, lam: 1, loss: {name: function_matching, mixup: 0.2}}
teacher:
  kind: several
  view: same
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
        {"teacher": {"kind": "several", "teachers": [{"kind": "zero_shot"}]}},
        {"teacher": {"kind": "adapted", "backbone": {"kind": "precomputed", "file": "x"}}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema())
        with pytest.raises(SpecError):
            load(spec(tmp_path, yaml.safe_dump(bad)))
