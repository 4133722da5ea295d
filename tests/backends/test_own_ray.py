"""The Ray that the command starts: where it listens, its token, and the working folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fedray

SPEC = """
data: {train_limit: 60, test_limit: 20}
training: {rounds: 2}
partition: {kind: iid, clients: 2}
"""
SCRIPT = """
import os, sys
import fedray
command = sys.argv[1]
loaded = fedray.read("spec.yaml")
if command == "run":
    rounds = fedray.rounds(loaded.runs()[0].experiment, "results")
    next(rounds)
else:
    import fedray.study.tune.sweep
    from fedray.backends.ray.cluster import start_ray
    start_ray()
import ray, psutil
me = psutil.Process()
for process in [me, *me.children(recursive=True)]:
    for connection in process.net_connections(kind="inet"):
        if connection.status == psutil.CONN_LISTEN:
            print(process.name(), connection.laddr.ip)
"""


@pytest.mark.ray
@pytest.mark.parametrize("command", ["run", pytest.param("sweep", marks=pytest.mark.slow)])
def test_own_ray_listens_on_the_loopback_address_only_and_writes_no_token(tmp_path: Path, command: str) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC)
    names = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"PYTHONPATH": str(Path(fedray.__file__).parents[1]), "HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, command], cwd=tmp_path, env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    listening = [line.rsplit(" ", 1) for line in done.stdout.splitlines()]
    assert {"gcs_server", "raylet"} <= {name for name, _ in listening}
    assert {address.removeprefix("::ffff:") for _, address in listening} == {"127.0.0.1"}
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("arguments", ["run {}/spec.yaml", "doctor", "schema", "teachers list"])
def test_deleted_working_folder_is_one_sentence(tmp_path: Path, arguments: str) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC)
    (tmp_path / "gone").mkdir()
    shell = f"cd gone && rmdir ../gone && '{sys.executable}' -m fedray {arguments.format(tmp_path)}"
    done = subprocess.run(
        shell, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(fedray.__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "fedray: the working folder cannot be used (No such file or directory); change into another one.\n"
    )
