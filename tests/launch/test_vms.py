"""launch/vms: the recipes fit the schema of Ray's cluster launcher and require a token."""

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
    config: dict[str, Any] = yaml.safe_load(recipe.read_text())
    return config


def start_commands(config: dict[str, Any]) -> list[str]:
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    return [command for command in commands if "ray start" in command]


def test_one_recipe_is_for_a_cloud_and_one_for_own_machines() -> None:
    assert [read(recipe)["provider"]["type"] for recipe in RECIPES] == ["aws", "local"]


@recipes
def test_recipe_fits_the_schema_of_ray(recipe: Path) -> None:
    validate(read(recipe), SCHEMA)


@recipes
def test_recipe_copies_all_files_of_the_installation(recipe: Path) -> None:
    mounts = read(recipe)["file_mounts"]
    copied = {local for remote, local in mounts.items() if remote == f"~/fedray/{local}"}
    assert {path for path in copied if not (ROOT / path).exists()} == set()
    packages = re.findall(r'"(\w+)\*"', (ROOT / "pyproject.toml").read_text())
    assert copied >= {*packages, "pyproject.toml", "constraints.txt", "Makefile", "README.md", "LICENSE"}


@recipes
def test_nodes_require_a_token_and_have_no_dashboard(recipe: Path) -> None:
    config = read(recipe)
    head, worker = start_commands(config)
    assert "--head" in head
    assert "--include-dashboard=false" in head
    assert "$RAY_HEAD_IP:6379" in worker
    for start in (head, worker):
        assert start.startswith("RAY_AUTH_MODE=token ")
        assert "0.0.0.0" not in start
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"][0]


def test_cloud_recipe_starts_its_maximum_number_of_workers() -> None:
    """fedray requests no machines from the autoscaler."""
    config = read(ROOT / "launch" / "vms" / "aws.yaml")
    types = config["available_node_types"]
    workers = [kind for name, kind in types.items() if name != config["head_node_type"]]
    assert config["head_node_type"] in types
    assert sum(kind["min_workers"] for kind in workers) == config["max_workers"]
    assert all(kind["min_workers"] == kind["max_workers"] for kind in workers)
