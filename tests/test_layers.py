"""Imports point downward through the named layers, imports inside functions included; only four packages import Ray."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = [
    {
        "types",
        "errors",
        "seeding",
        "section",
        "cache",
        "files",
        "locks",
        "import_path",
        "registry",
        "user_code",
        "user_modules",
        "code_hash",
    },
    {"losses", "models", "aggregation"},
    {"data"},
    {"training"},
    {"teachers", "strategies"},
    {"config"},
    {"results"},
    {"workers"},
    {"backends"},
    {"server"},
    {"study", "doctor", "testing"},
    {"analysis"},
    {"cli"},
]
"""Packages from the ground up. A package may import those below it, and others of its own layer."""

MAY_IMPORT_RAY = ("fedray.backends.ray", "fedray.study", "fedray.doctor", "fedray.cli")


def modules() -> dict[str, Path]:
    """Path of every module of fedray and analysis, by dotted name. A package's own file is named after the package."""
    files = [path for top in ("fedray", "analysis") for path in (ROOT / top).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


MODULES = modules()
FACES = {"fedray", "fedray.__main__"}
"""The public API and the entry point: they import what they hand on."""


def imports(path: Path) -> set[str]:
    """The dotted names that a module imports, wherever in the file the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(name: str) -> int:
    """The height of a dotted name of fedray or analysis."""
    top, *rest = name.split(".")
    package = "analysis" if top == "analysis" else rest[0]
    heights = [height for height, names in enumerate(LAYERS) if package in names]
    assert heights, f"{name} is in no layer"
    return heights[0]


@pytest.mark.parametrize("module", sorted(MODULES.keys() - FACES))
def test_imports_point_downward(module: str) -> None:
    ours = [name for name in imports(MODULES[module]) if name.split(".")[0] in ("fedray", "analysis") and "." in name]
    upward = [name for name in ours if layer(name) > layer(module)]
    assert not upward, f"{module} imports {', '.join(sorted(upward))} from a layer above its own"


@pytest.mark.parametrize("module", sorted(MODULES.keys() - FACES))
def test_ray_is_imported_by_four_packages_only(module: str) -> None:
    if not module.startswith(MAY_IMPORT_RAY):
        assert not [name for name in imports(MODULES[module]) if name.split(".")[0] == "ray"]


def test_command_and_driver_start_without_torch() -> None:
    """Each worker imports torch: in the driver it would take the workers' cores and memory while they start."""
    for module, heavy in (
        ("cli.main", "ray|torch|numpy|rich"),
        ("study.session", "ray|torch|pandas"),
        ("server.driver", "torch|pandas"),
    ):
        script = f"import fedray.{module}, sys; print(*sys.modules.keys() & set('{heavy}'.split('|')))"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [], module


def test_analysis_imports_neither_ray_nor_torch() -> None:
    for path in (ROOT / "analysis").rglob("*.py"):
        assert not {name.split(".")[0] for name in imports(path)} & {"ray", "torch"}
