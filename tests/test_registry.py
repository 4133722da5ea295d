"""Classes from outside the package: by reference, by entry point, as objects; and those that are refused."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml
from helpers.specs import write_spec

from fedray.config.experiment import Experiment
from fedray.config.key import set_fields_of, trial_key
from fedray.config.loader import load, parse_experiment
from fedray.config.schema import schema
from fedray.config.yaml_files import read_yaml, to_yaml
from fedray.errors import SpecError
from fedray.registry import Registry
from fedray.strategies import STRATEGIES
from fedray.strategies.fedprox import FedProx

CODE = """
from typing import ClassVar, Literal
from pydantic import Field
from fedray.strategies.base import Strategy
from fedray.strategies.fedavg import FedAvg
from fedray.strategies.fedprox import FedProx
from fedray.types import LossTerm

class Scaled(Strategy):
    scale: float = Field(2.0, gt=0)
    def objectives(self):
        return {"proxy": [LossTerm("cross_entropy", self.scale)]}

class Near(FedProx):
    mu: float = Field(0.5, ge=0)

class Renamed(FedAvg):
    name: Literal["renamed"] = "renamed"

class Unfinished(Strategy):
    pass

def function():
    pass
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of an importable module with CODE."""
    (tmp_path / "outside.py").write_text(CODE)
    (tmp_path / "broken.py").write_text("import fedray\n1 +")
    monkeypatch.syspath_prepend(tmp_path)
    yield "outside"
    sys.modules.pop("outside", None)


@pytest.fixture
def entry_point(module: str, tmp_path: Path) -> str:
    """The name of an installed entry point of the class Renamed, and of `scaled`."""
    package = tmp_path / "plugin-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        f"[fedray.strategies]\nrenamed = {module}:Renamed\nscaled = {module}:Scaled\n"
    )
    return "renamed"


@pytest.fixture
def message() -> Callable[..., str]:
    """Return the sentence about an invalid experiment."""

    def of(**sections: object) -> str:
        with pytest.raises(SpecError) as caught:
            parse_experiment(sections, "spec")
        return str(caught.value).removeprefix("spec: ")

    return of


def test_class_is_found_by_its_reference(module: str, tmp_path: Path) -> None:
    (run,) = load(write_spec(tmp_path, f"strategy: {{name: '{module}:Scaled', scale: 3}}"))
    assert set_fields_of(run.experiment.strategy) == {"name": "outside:Scaled", "scale": 3.0}
    assert run.experiment.strategy.objectives()["proxy"][0].weight == 3.0


def test_subclass_of_a_built_in_class_has_a_name_and_defaults_of_its_own(module: str) -> None:
    experiment = parse_experiment({"strategy": {"name": f"{module}:Near"}}, "spec")
    dump = {"name": "outside:Near", "weighting": "examples", "distillation": None, "mu": 0.5}
    assert experiment.strategy.model_dump() == dump
    assert isinstance(experiment.strategy, FedProx)


def test_instance_equals_its_mapping_and_its_yaml(module: str, tmp_path: Path) -> None:
    by_name = parse_experiment({"strategy": {"name": f"{module}:Scaled", "scale": 3}}, "spec")
    instance = Experiment(strategy=sys.modules[module].Scaled(scale=3))
    assert instance == by_name
    assert trial_key(instance) == trial_key(by_name)
    (tmp_path / "written.yaml").write_text(to_yaml(instance))
    assert load(tmp_path / "written.yaml")[0].experiment == instance
    assert set_fields_of(instance.strategy) == {"name": "outside:Scaled", "scale": 3.0}


def test_spec_with_a_class_from_outside_is_read_without_importing_it(module: str, tmp_path: Path) -> None:
    spec = to_yaml(parse_experiment({"strategy": {"name": f"{module}:Scaled"}}, "spec"))
    del sys.modules[module]
    assert read_yaml(write_spec(tmp_path, spec))["strategy"]["name"] == "outside:Scaled"
    assert module not in sys.modules


def test_class_is_found_by_its_entry_point(module: str, entry_point: str) -> None:
    by_entry_point = parse_experiment({"strategy": {"name": "scaled"}}, "spec")
    assert by_entry_point == parse_experiment({"strategy": {"name": f"{module}:Scaled"}}, "spec")
    assert parse_experiment({"strategy": {"name": entry_point}}, "spec").strategy.name == "renamed"
    jsonschema.validate({"strategy": {"name": "scaled", "scale": 3}}, schema())


def test_fields_of_a_class_from_outside_are_axes_and_overrides(module: str, tmp_path: Path) -> None:
    text = f"base: {{strategy: {{name: '{module}:Scaled'}}}}\nspace: {{strategy.scale: {{grid: [1, 2]}}}}"
    assert [run.label for run in load(write_spec(tmp_path, text))] == ["scale=1", "scale=2"]
    text = f"""
    space:
      strategy.name: {{grid: [fedavg, '{module}:Scaled']}}
      strategy.scale: {{grid: [1, 2], when: {{strategy.name: '{module}:Scaled'}}}}
    """
    assert [run.label for run in load(write_spec(tmp_path, text))] == [
        "strategy=fedavg", "strategy=outside:Scaled, scale=1", "strategy=outside:Scaled, scale=2",
    ]  # fmt: skip
    spec = write_spec(tmp_path, "strategy: {name: fedprox, mu: 1}")
    (run,) = load(spec, [f"strategy.name={module}:Scaled", "strategy.scale=4"])
    assert set_fields_of(run.experiment.strategy) == {"name": "outside:Scaled", "scale": 4.0}


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ({"name": "outside:Scaled", "scale": 0}, "strategy.scale is 0, but must be above 0."),
        (
            {"name": "outside:Scaled", "scael": 1},
            "unknown field 'strategy.scael'; did you mean 'scale'? "
            "('strategy' has name, weighting, distillation, scale).",
        ),
        ({"name": "outside:Scale"}, "is 'outside:Scale', but module 'outside' has no object 'Scale'; did you mean"),
        ({"name": "nowhere:Scaled"}, "but module 'nowhere' cannot be imported (ModuleNotFoundError: No module named"),
        ({"name": "broken:Scaled"}, "cannot be imported (SyntaxError: invalid syntax (broken.py, line 2))."),
        ({"name": "outside:function"}, "is 'outside:function', but must be a subclass of fedray.strategies.base"),
        ({"name": "pathlib:Path"}, "strategy is 'pathlib:Path', but must be a subclass of fedray.strategies.base"),
        ({"name": "outside:Unfinished"}, "strategy is 'outside:Unfinished', but must define objectives."),
        ({"name": "outside:Renamed"}, "must leave out the field 'name', since no entry point is called 'renamed'."),
        ({"name": "fedray.models.proxies:Proxy"}, "but must be a subclass of fedray.strategies.base.Strategy."),
        ({"name": "outside.Scaled"}, "strategy is 'outside.Scaled', but must be one of fedavg, fedprox, fml, fedlpfm"),
        ({"name": ["fedavg"]}, "strategy is \"['fedavg']\", but must be one of fedavg"),
        ({"name": None}, "strategy is 'None', but must be one of fedavg"),
    ],
    ids=lambda part: str(part)[:40],
)
@pytest.mark.usefixtures("module")
def test_unusable_class_is_one_sentence(message: Callable[..., str], strategy: object, expected: str) -> None:
    assert expected in message(strategy=strategy)


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        (
            {"teacher": {"kind": "outside:Scaled"}},
            "teacher is 'outside:Scaled', but must be a subclass of fedray.teachers.sections.TeacherSection.",
        ),
        ({"partition": {"kind": "outside:Scaled"}}, "but must be a subclass of fedray.data.partition.Partition."),
        ({"partition": {"kind": "dirichlt"}}, "shards, file; did you mean 'dirichlet'?"),
        (
            {"strategy": {"name": "fedlpfm", "loss": {"name": "outside:Scaled"}}},
            "strategy.loss is 'outside:Scaled', but must be a subclass of fedray.losses.distillation.Distillation.",
        ),
        ({"proxy": {"name": "outside:Scaled"}}, "proxy is 'outside:Scaled', but must be a subclass of fedray.models."),
        ({"proxy": {"name": "outside:absent"}}, "but module 'outside' has no object 'absent'"),
        ({"proxy": {"name": "resnet81"}}, "proxy.name is 'resnet81', but must be one of cnn, resnet18"),
        ({"proxy": {"name": "cnn", "norm": "x"}}, "proxy.norm is 'x', but must be one of batch, group"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("module")
def test_every_registry_refuses_other_classes(
    message: Callable[..., str], sections: dict[str, object], expected: str
) -> None:
    assert expected in message(**sections)


def test_class_in_place_of_an_instance_is_one_sentence(message: Callable[..., str]) -> None:
    assert "but must be a section, such as {name: ...}" in message(strategy=FedProx)


def test_schema_lists_built_in_classes_and_admits_references() -> None:
    document = schema()
    names = {part["properties"]["name"].get("const") for part in document["$defs"].values() if "properties" in part
             and "name" in part["properties"]}  # fmt: skip
    assert names >= set(STRATEGIES)
    jsonschema.validate({"strategy": {"name": "mypackage.moon:Moon", "mu": 3}}, document)
    for bad in ({"name": "fedsgd"}, {"name": "fedprox", "mu": -1}, {"name": "fedavg", "mu": 1}, {}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"strategy": bad}, document)


def test_registry_is_a_mapping_of_the_built_in_classes(module: str) -> None:
    before = dict(STRATEGIES)
    STRATEGIES.resolve(f"{module}:Scaled")
    assert dict(STRATEGIES) == before
    assert list(before)[:4] == ["fedavg", "fedprox", "fml", "fedlpfm"]
    assert isinstance(STRATEGIES, Registry)
    assert yaml.safe_dump(list(STRATEGIES))
