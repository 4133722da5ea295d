"""The hash of code changes with what Python executes, and with nothing else."""

import ast
import importlib
import linecache
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from textwrap import dedent

import pytest

from fedray import code_hash as module
from fedray.code_hash import FITTING_CODE, NUMERIC_CODE, NoSourceError, code_hash, source_hash

PACKAGE = Path(module.__file__).parent

WITHOUT_NUMBERS = {
    "cache", "cli", "code_hash", "config", "doctor", "errors", "files", "import_path", "locks", "registry", "results",
    "section", "study", "testing", "types", "user_code", "user_modules", "__init__", "__main__",
}  # fmt: skip
"""Packages and modules that decide no number: they read specs, store results, print, and start processes."""

SOURCE = '''
"""A module."""
import numpy as np

def loss(x: float, weight: float = 0.5) -> float:
    """A loss."""
    # half of the square
    return weight * x ** 2


class Term:
    weight: int = 1
    """A field."""
    pass
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A module."""', ""),
        ('    """A loss."""\n', ""),
        ('    """A field."""\n', '    """Another text."""\n'),
        ("    # half of the square\n", ""),
        ("weight * x ** 2", "(weight * x**2)  # as in the paper"),
        ("(x: float, weight: float = 0.5)", "(\n    x: float,\n    weight: float = 0.50,\n)"),
        ("    pass\n", "    pass\n\n\n"),
    ],
)  # fmt: skip
def test_comments_docstrings_and_layout_do_not_count(old: str, new: str) -> None:
    assert old in SOURCE
    assert source_hash(SOURCE.replace(old, new)) == source_hash(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("weight * x ** 2", "weight * x ** 3"),
        ("weight * x ** 2", "weight * (x * 2)"),
        ("0.5", "0.25"),
        ("weight: int = 1", "weight: int = 2"),
        ("import numpy as np", "import torch as np"),
        ("return weight", "return -weight"),
        ("def loss", "def losses"),
        ("x: float, weight", "weight: float, x"),
    ],
)
def test_code_counts(old: str, new: str) -> None:
    assert old in SOURCE
    assert source_hash(SOURCE.replace(old, new)) != source_hash(SOURCE)


def test_every_module_decides_numbers_or_is_listed_as_one_that_does_not() -> None:
    tops = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert tops == WITHOUT_NUMBERS | {name.split(".")[0] for name in NUMERIC_CODE}


@pytest.mark.parametrize("edited", ["losses/functional.py", "training/local_update.py", "results/rows.py"])
def test_an_edited_package_has_another_hash(tmp_path: Path, edited: str) -> None:
    shutil.copytree(PACKAGE, tmp_path / "fedray", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-c", "from fedray.code_hash import code_hash; print(code_hash())"]

    def hashed() -> str:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    first = hashed()
    assert first == code_hash()
    file = tmp_path / "fedray" / edited
    file.write_text("# a comment\n" + file.read_text())
    (tmp_path / "fedray" / "cli" / "exits.py").write_text("CODE = 1\n")
    assert hashed() == first
    file.write_text(file.read_text() + "\n\nCONSTANT = 1\n")
    assert hashed() != first


def imported_modules(name: str) -> set[str]:
    """The modules of fedray that a module of it imports, inside functions too."""
    names = module._imported((PACKAGE.joinpath(*name.split(".")[1:])).with_suffix(".py").read_text(), name, "x.py")
    return {
        each
        for each in names
        if each.startswith("fedray.") and PACKAGE.joinpath(*each.split(".")[1:]).with_suffix(".py").exists()
    }


def test_the_code_that_fits_teachers_is_listed() -> None:
    """Other modules that it imports read data, whose content is in the key, or hold spec fields and types."""
    pending, found = ["fedray.teachers.supervised", "fedray.teachers.adapted"], set[str]()
    while pending:
        if (name := pending.pop()) not in found:
            found.add(name)
            pending += imported_modules(name)
    listed = tuple(f"fedray.{name}" for name in FITTING_CODE)
    others = {name for name in found if not name.startswith(listed)}
    without_numbers = {"errors", "registry", "section", "types", "files", "cache", "teachers.sections"}
    assert {name for name in others if not name.startswith("fedray.data.")} <= {f"fedray.{n}" for n in without_numbers}


class TestUserObjects:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """A folder on the import path with a package `moonpack` that imports a module `moonhelp`."""
        files = {
            "moonpack/__init__.py": "",
            "moonpack/moon.py": "import numpy\nfrom moonpack import terms\nfrom .more import SCALE\n\n"
            "class Moon:\n    def loss(self):\n        import moonhelp\n\n"
            "        return terms.square(moonhelp.TWO) * SCALE\n",
            "moonpack/terms.py": "def square(x):\n    return x * x\n",
            "moonpack/more.py": "SCALE = 3\n",
            "moonpack/unused.py": "OTHER = 1\n",
            "moonhelp.py": "TWO = 2\n",
        }
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        yield tmp_path
        for name in [name for name in sys.modules if name.startswith("moon")]:
            del sys.modules[name]

    def hashed(self) -> str:
        for name in [name for name in sys.modules if name.startswith("moon")]:
            del sys.modules[name]
        importlib.invalidate_caches()
        linecache.clearcache()
        return code_hash((), [importlib.import_module("moonpack.moon").Moon])

    @pytest.mark.parametrize("edited", ["moonpack/moon.py", "moonpack/terms.py", "moonpack/more.py", "moonhelp.py"])
    def test_the_modules_that_a_class_imports_count(self, folder: Path, edited: str) -> None:
        first = self.hashed()
        (folder / edited).write_text("# a comment\n" + (folder / edited).read_text())
        assert self.hashed() == first
        (folder / edited).write_text((folder / edited).read_text() + "\nMORE = 1\n")
        assert self.hashed() != first

    def test_other_modules_do_not_count(self, folder: Path) -> None:
        first = self.hashed()
        (folder / "moonpack/unused.py").write_text("OTHER = 2\n")
        assert self.hashed() == first

    @pytest.mark.usefixtures("folder")
    def test_instances_functions_and_partial_functions_count_by_their_definition(self) -> None:
        terms = importlib.import_module("moonpack.terms")
        moon = importlib.import_module("moonpack.moon").Moon
        assert code_hash((), [moon()]) == code_hash((), [moon])
        assert code_hash((), [terms.square]) == code_hash((), [partial(terms.square, 3)]) != code_hash((), [moon])
        assert code_hash((), [moon, terms.square]) == code_hash((), [terms.square, moon])

    def test_fedrays_own_classes_are_part_of_its_packages(self) -> None:
        from fedray.strategies.fedavg import FedAvg

        assert code_hash(("losses",), [FedAvg]) == code_hash(("losses",))

    def test_a_class_of_a_notebook_counts_by_its_cell(self) -> None:
        def cell(name: str, text: str) -> object:
            namespace: dict[str, object] = {"__name__": "__main__"}
            linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
            exec(compile(text, name, "exec"), namespace)
            return namespace["Moon"]

        text = dedent("""
            class Moon:
                def loss(self):
                    return 1
            """)
        first, same, other = (
            cell(f"<cell {number}>", source)
            for number, source in enumerate((text, "# again\n" + text, text.replace("return 1", "return 2")))
        )
        assert code_hash((), [first]) == code_hash((), [same]) != code_hash((), [other])

    def test_a_class_without_source_is_refused(self) -> None:
        namespace: dict[str, object] = {"__name__": "__main__"}
        exec("class Moon:\n    def loss(self): return 1\n", namespace)
        with pytest.raises(NoSourceError, match="Moon"):
            code_hash((), [namespace["Moon"]])


def test_hash_of_all_numeric_code_is_fast() -> None:
    script = "import time; from fedray.code_hash import code_hash; t = time.process_time(); code_hash(); "
    script += "print(time.process_time() - t)"
    seconds = [
        float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
        for _ in range(2)
    ]
    assert min(seconds) < 0.3


def test_sources_parse_to_the_same_tokens_as_their_own_unparsed_form() -> None:
    for file in (PACKAGE / "losses").glob("*.py"):
        text = file.read_text()
        assert source_hash(ast.unparse(ast.parse(text))) == source_hash(text)
