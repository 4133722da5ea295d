"""launch/docker: the files fit the published schemas, and the commands of the services run without containers."""

import copy
import fnmatch
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from helpers.nodes import ROOT, clean_environment, free_port, kill_session, shell, short_folder, write_space

FOLDER = ROOT / "launch" / "docker"
SCHEMA = yaml.safe_load(Path(__file__).with_name("compose_fields.yaml").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
GPU: dict[str, Any] = yaml.safe_load((FOLDER / "compose.gpu.yaml").read_text())
TOKEN = "0123456789abcdef" * 4


def instructions() -> list[tuple[str, str]]:
    """Return the keyword and arguments of each instruction of the Dockerfile."""
    lines = re.sub(r"(?m)^\s*#.*\n", "", (FOLDER / "Dockerfile").read_text()).replace("\\\n", " ").splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def arguments_of(keyword: str) -> list[str]:
    return [arguments for word, arguments in instructions() if word == keyword]


def schema_errors(document: Any) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(document)]


@pytest.mark.parametrize("document", [COMPOSE, GPU], ids=["compose", "gpu"])
def test_all_fields_are_in_the_schema(document: Any) -> None:
    assert schema_errors(document) == []


def test_misspelt_field_is_reported() -> None:
    wrong = copy.deepcopy(COMPOSE)
    wrong["services"]["head"]["comand"] = wrong["services"]["head"].pop("command")
    wrong["services"]["worker"]["depends_on"]["head"]["condition"] = "healthy"
    assert len(schema_errors(wrong)) == 2


def test_nodes_require_a_token_from_the_environment() -> None:
    for service in COMPOSE["services"].values():
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")


def test_no_port_is_published() -> None:
    assert not any("ports" in service or "network_mode" in service for service in COMPOSE["services"].values())
    assert COMPOSE["networks"] == {"nodes": {"internal": "${FEDRAY_INTERNAL:-true}"}}
    assert "--include-dashboard=false" in COMPOSE["services"]["head"]["command"]


def test_volumes_and_networks_are_declared() -> None:
    for service in COMPOSE["services"].values():
        named = {volume.split(":")[0] for volume in service["volumes"] if not volume.startswith(".")}
        assert named == set(COMPOSE["volumes"])
        assert set(service["networks"]) == set(COMPOSE["networks"])
        for volume in service["volumes"]:
            assert not volume.startswith(".") or (FOLDER / volume.split(":")[0]).is_dir()


def test_copied_files_exist_and_are_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    allowed = [line[1:] for line in ignored if line.startswith("!")]
    assert "*" in ignored
    for sources in arguments_of("COPY"):
        for source in [word for word in sources.split()[:-1] if not word.startswith("--")]:
            assert (ROOT / source).exists()
            assert any(fnmatch.fnmatch(source, pattern) for pattern in allowed), source


def test_commands_of_the_image_are_valid_shell() -> None:
    assert len(arguments_of("RUN")) == 4
    for command in arguments_of("RUN"):
        result = subprocess.run(["bash", "-n", "-c", command], text=True, capture_output=True, check=False)
        assert (result.returncode, result.stderr) == (0, "")


def test_image_does_not_run_as_root_and_requires_a_token() -> None:
    assert arguments_of("USER") == ["1000:1000"]
    settings = dict(word.split("=", 1) for line in arguments_of("ENV") for word in line.split())
    assert settings["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_TOKEN" not in settings
    folders = [volume.split(":")[1] for volume in COMPOSE["services"]["head"]["volumes"] if not volume.startswith(".")]
    assert all(folder in arguments_of("RUN")[1].split() for folder in folders)


@contextmanager
def containers() -> Iterator[tuple[Path, Any]]:
    """Yield a folder, and functions that run services and health checks without containers, at local addresses."""
    with ExitStack() as stack:
        folder = stack.enter_context(short_folder())
        address, port = "127.0.0.2", free_port()

        def start(service: str, node_address: str, override: Sequence[str] = ()) -> subprocess.Popen[str]:
            spec = COMPOSE["services"][service]
            words = [*spec.get("entrypoint", []), *(override or spec["command"])]
            for old, new in {
                "head:6379": f"{address}:{port}",
                "--port=6379": f"--port={port}",
                "${WORKER_CPUS:-2}": "2",
                "$$": "$",
                "/specs": str(folder),
                "/results": f"{folder}/results",
                "ray start ": f"ray start --node-ip-address={node_address} --object-store-memory=200000000 ",
            }.items():
                words = [word.replace(old, new) for word in words]
            if words[:2] == ["ray", "start"]:
                words += [f"--node-ip-address={node_address}", "--object-store-memory=200000000"]
            environment = clean_environment(folder) | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
            environment |= {"RAY_TMPDIR": f"{folder}/{node_address}", "RAY_ADDRESS": f"{address}:{port}"}
            if service != "run":
                del environment["RAY_ADDRESS"]
            process = stack.enter_context(
                subprocess.Popen(words, env=environment, text=True, stderr=subprocess.PIPE, start_new_session=True)
            )
            stack.callback(kill_session, process.pid)
            return process

        def is_healthy(service: str) -> bool:
            command = COMPOSE["services"][service]["healthcheck"]["test"][1:]
            words = [word.replace("head:6379", f"{address}:{port}") for word in command]
            environment = clean_environment(folder) | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
            return shell(words, environment).returncode == 0

        yield folder, (start, is_healthy)


@pytest.mark.slow
@pytest.mark.ray
def test_services_form_a_cluster_and_run_a_sweep() -> None:
    with containers() as (folder, (start, is_healthy)):
        write_space(folder / "quickstart.yaml")
        assert not is_healthy("head")
        start("head", "127.0.0.2")
        for _ in range(30):
            if is_healthy("head"):
                break
            time.sleep(1)
        start("worker", "127.0.0.3")
        assert is_healthy("worker")
        run = start("run", "127.0.0.4")
        assert run.wait(timeout=240) == 0, run.communicate()
        assert (folder / "results" / "quickstart" / "DONE").exists()
        refused = start("run", "127.0.0.4", ["fedray", "run", "/specs/none.yaml"])
        assert refused.wait(timeout=120) == 2
