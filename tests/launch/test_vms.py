"""launch/vms: what Ray's cluster launcher makes of the recipes before it begins, and what they must say."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray.autoscaler
import yaml
from jsonschema import validate

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "launch" / "vms").glob("*.yaml"))
SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())

recipes = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)


def read(recipe: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(recipe.read_text())
    return found


def starts(config: dict[str, Any]) -> list[str]:
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    return [command for command in commands if "ray start" in command]


def test_there_is_one_for_machines_and_one_for_a_cloud() -> None:
    assert [read(recipe)["provider"]["type"] for recipe in RECIPES] == ["aws", "local"]


@recipes
def test_fits_rays_schema(recipe: Path) -> None:
    validate(read(recipe), SCHEMA)


@recipes
def test_brings_all_that_the_software_is_installed_from(recipe: Path) -> None:
    mounts = read(recipe)["file_mounts"]
    brought = {here for there, here in mounts.items() if there == f"~/fedray/{here}"}
    assert {path for path in brought if not (ROOT / path).exists()} == set()
    packages = re.findall(r'"(\w+)\*"', (ROOT / "pyproject.toml").read_text())
    assert brought >= {*packages, "pyproject.toml", "constraints.txt", "Makefile", "README.md", "LICENSE"}


@recipes
def test_every_node_asks_for_the_token_and_none_shows_a_dashboard(recipe: Path) -> None:
    config = read(recipe)
    head, worker = starts(config)
    assert "--head" in head
    assert "--include-dashboard=false" in head
    assert "$RAY_HEAD_IP:6379" in worker
    for start in (head, worker):
        assert start.startswith("RAY_AUTH_MODE=token ")
        assert "0.0.0.0" not in start
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"][0]


def test_the_cloud_has_as_many_workers_as_it_may() -> None:
    """fedray takes what is there, and asks the autoscaler for nothing."""
    config = read(ROOT / "launch" / "vms" / "aws.yaml")
    types = config["available_node_types"]
    workers = [kind for name, kind in types.items() if name != config["head_node_type"]]
    assert config["head_node_type"] in types
    assert sum(kind["min_workers"] for kind in workers) == config["max_workers"]
    assert all(kind["min_workers"] == kind["max_workers"] for kind in workers)
