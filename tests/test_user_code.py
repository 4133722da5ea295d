"""Modules of the user's travel with an experiment; a process without them imports what has arrived."""

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedray import user_code
from fedray.config.experiment import Experiment
from fedray.config.loader import parse_experiment
from fedray.user_code import UserCode, install, user_objects

FILES = {
    "travel/__init__.py": "",
    "travel/moon.py": """
from fedray.strategies.base import Strategy
from fedray.types import LossTerm

class Moon(Strategy):
    def objectives(self):
        from travelhelp import weight
        from . import constants
        return {"proxy": [LossTerm("cross_entropy", weight() * constants.TWO)]}
""",
    "travel/constants.py": "TWO = 2\n",
    "travel/unused.py": "import missing\n",
    "travelhelp.py": "import numpy\n\ndef weight():\n    return 1.5\n",
}
RECEIVER = """
import pickle, sys, inspect
experiment = pickle.load(open(sys.argv[1], "rb"))
strategy = experiment.strategy
print(strategy.objectives()["proxy"][0].weight, strategy.name)
print(inspect.getsource(type(strategy)).splitlines()[0])
print(len(pickle.dumps(experiment)) > 1000)  # it travels on
from fedray.code_hash import code_hash
print(code_hash((), [type(strategy)]))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on this process's import path only."""
    for name, text in FILES.items():
        (tmp_path / "code" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "code" / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "code")
    yield tmp_path / "code"
    for name in [name for name in sys.modules if name.startswith("travel")]:
        del sys.modules[name]


def moon() -> Experiment:
    return parse_experiment({"strategy": {"name": "travel.moon:Moon"}}, "spec")


def test_modules_are_those_of_the_class_and_their_imports(folder: Path) -> None:
    sources = UserCode.of(user_objects(moon())).sources
    assert list(sources) == ["travel", "travel.constants", "travel.moon", "travelhelp"]
    assert sources["travelhelp"].text == FILES["travelhelp.py"]
    assert sources["travel"].path == str(folder / "travel" / "__init__.py")
    assert (sources["travel"].is_package, sources["travel.moon"].is_package) == (True, False)


def test_built_in_experiment_has_no_code() -> None:
    assert user_objects(Experiment()) == []
    assert pickle.loads(pickle.dumps(Experiment())) == Experiment()


def test_another_process_imports_what_has_arrived(folder: Path, tmp_path: Path) -> None:
    from fedray.code_hash import code_hash

    experiment = moon()
    (tmp_path / "experiment.pickle").write_bytes(pickle.dumps(experiment))
    hashed = code_hash((), [type(experiment.strategy)])
    folder.rename(tmp_path / "elsewhere")
    command = [sys.executable, "-c", RECEIVER, str(tmp_path / "experiment.pickle")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert done.stdout.split("\n")[:3] == ["3.0 travel.moon:Moon", "class Moon(Strategy):", "True"]
    assert done.stdout.split("\n")[3] == hashed


def test_changed_module_is_imported_anew(folder: Path) -> None:
    code = UserCode.of(user_objects(moon()))
    changed = dict(code.sources)
    path = changed["travelhelp"].path
    changed["travelhelp"] = type(changed["travelhelp"])(path, "def weight():\n    return 4.0\n", is_package=False)
    assert moon().strategy.objectives()["proxy"][0].weight == 3.0
    before = list(sys.meta_path)
    try:
        install(changed)
        assert moon().strategy.objectives()["proxy"][0].weight == 8.0
    finally:
        sys.meta_path[:] = before
        user_code._finder.sources.clear()
    assert folder.exists()
