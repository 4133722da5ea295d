"""Dependencies point downward, and only those that must import Ray do."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fedray"

LAYERS = [
    {"errors", "types", "section", "seeding", "losses", "distillation", "arithmetic", "allocator"},
    {"models", "teachers.bank", "teachers.blend", "teachers.network", "teachers.published", "objective", "aggregation"},
    {"strategies", "teachers.sections"},
    {"data.partition", "data.dataset", "data.views", "data.decoded", "data.sources"},
    {"config", "evaluation", "search"},
    {"spec_errors", "space", "data.federation"},
    {"labels"},
    {"shard", "spec_file"},
    {"graphed"},
    {"client"},
    {"files", "remote", "storage"},
    {"environment"},
    {"teachers", "rows", "stopping", "cluster"},
    {"worker", "tables", "checkpoint"},
    {"folder", "results"},
    {"study"},
    {"backends"},
    {"asking", "cohort", "doctor"},
    {"lessons", "costs", "checking"},
    {"workload", "probe"},
    {"driver"},
    {"runner", "display"},
    {"planning", "estimate", "board"},
    {"study_display", "doctor_display"},
    {"plan_display"},
    {"tuning"},
    {"cli_teachers"},
    {"cli"},
]
MAY_IMPORT_RAY = {
    "backends.ray_actors", "backends.actor_pool", "backends.commons", "backends.dispatch", "backends.totals",
    "cluster", "doctor.examination", "runner",
    "tuning.schedulers", "tuning.searcher", "tuning.sweep", "tuning.trial", "tuning.watch",
}  # fmt: skip

FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py")
}


def imports(path: Path) -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def layer(module: str) -> int:
    for height, names in enumerate(LAYERS):
        if any(module == name or module.startswith(f"{name}.") for name in names):
            return height
    raise AssertionError(f"{module} is in no layer")


@pytest.mark.parametrize("module", FILES)
def test_imports_point_downward(module: str) -> None:
    for target in imports(FILES[module]):
        if target.startswith("fedray."):
            below = target.removeprefix("fedray.")
            assert layer(below) <= layer(module), f"{module} imports {target}"


@pytest.mark.parametrize("module", FILES)
def test_only_those_that_must_import_ray(module: str) -> None:
    uses = any(target.split(".")[0] == "ray" for target in imports(FILES[module]))
    assert uses == (module in MAY_IMPORT_RAY)


def test_neither_the_command_nor_the_driver_waits_for_torch() -> None:
    """Each worker imports it; where the driver did, it would take their cores and their memory meanwhile."""
    for module, heavy in (
        ("cli", "ray|torch|numpy|rich"),
        ("runner", "ray|torch|pandas"),
        ("driver", "torch|pandas"),
    ):
        script = f"import fedray.{module}, sys; print(*sys.modules.keys() & set('{heavy}'.split('|')))"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [], module


def test_analysis_reads_files_only() -> None:
    for path in (PACKAGE.parent / "analysis").rglob("*.py"):
        assert not {target.split(".")[0] for target in imports(path)} & {"ray", "torch"}
