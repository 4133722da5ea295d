"""launch/vms/onprem.yaml on three hosts, controlled over ssh from a fourth.

The test changes addresses, user, key and the size of the nodes, and links the software instead of installing it.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.cluster import wait
from helpers.hosts import ROOT, Host, Hosts, missing_requirement

MISSING = [
    tool for tool in ("sshd", "rsync", "ssh-keygen", "tmux") if shutil.which(tool, path="/usr/sbin:/usr/bin") is None
]
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif(missing_requirement() is not None, reason=missing_requirement() or ""),
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
]

RECIPE = ROOT / "launch" / "vms" / "onprem.yaml"
SPEC = """
data: {train: digits, test: digits, train_limit: 400, test_limit: 60}
partition: {kind: iid, clients: 6}
proxy: {name: cnn}
training: {rounds: 4, batch_size: 16, optimizer: {lr: 0.05}}
"""
SSHD = """
HostKey /root/host_key
ListenAddress {address}
AuthorizedKeysFile /root/.ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
"""
AUTOSCALER = {"RAY_UP_enable_autoscaler_v2": "0"}
"""Setting from launch/vms/README.md."""

SIZE = "--num-cpus=1 --object-store-memory=200000000"


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with Hosts(4) as hosts:
        key = hosts.shared / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        for host in (hosts[0], hosts[1], hosts[2]):
            start_sshd(host, Path(f"{key}.pub"))
        yield hosts


@pytest.fixture(scope="module")
def laptop(hosts: Hosts) -> Host:
    laptop = hosts[3]
    laptop.run(["sh", "-c", f"mkdir -m 700 .ssh && install -m 600 {hosts.shared}/key .ssh/id_ed25519"], check=True)
    laptop.run(["ray", "get-auth-token", "--generate"], check=True)
    return laptop


def start_sshd(host: Host, public: Path) -> None:
    """Start an ssh server that accepts the key."""
    config = host.home / "sshd_config"
    config.write_text(SSHD.format(address=host.address))
    words = "mkdir -p -m 755 /run/sshd && mkdir -m 700 .ssh && ssh-keygen -q -t ed25519 -N '' -f host_key"
    host.run(["sh", "-c", f"{words} && install -m 600 {public} .ssh/authorized_keys"], check=True)
    host.run(["/usr/sbin/sshd", "-f", "/root/sshd_config"], check=True)


def write_recipe(hosts: Hosts) -> Path:
    """Write the recipe with the changes of this test and return its path."""
    config: dict[str, Any] = yaml.safe_load(RECIPE.read_text())
    head, *workers = (host.address for host in (hosts[0], hosts[1], hosts[2]))
    config["provider"] |= {"head_ip": head, "worker_ips": workers}
    config["auth"]["ssh_user"] = "root"
    install = next(at for at, command in enumerate(config["setup_commands"]) if command.startswith("make "))
    config["setup_commands"][install] = f"ln -sfn {sys.prefix} ~/fedray/.venv"
    for kind in ("head", "worker"):
        config[f"{kind}_start_ray_commands"][-1] += f" {SIZE}"
    path = hosts.shared / "onprem.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_up_exec_and_down(hosts: Hosts, laptop: Host) -> None:
    config, spec = write_recipe(hosts), hosts.shared / "tiny.yaml"
    spec.write_text(SPEC)

    def ray(*words: str | Path) -> str:
        result = laptop.run(["env", "-C", ROOT, "ray", *words], AUTOSCALER | {"TERM": "dumb"}, seconds=200)
        assert result.returncode == 0, result.stdout
        return result.stdout

    ray("up", "-y", config)
    ray("exec", config, waiting_for(3))
    assert "Active:" in ray("exec", config, "RAY_AUTH_MODE=token ray status")
    for host in (hosts[0], hosts[1], hosts[2]):
        assert host.run(["stat", "-c", "%a", "/root/.ray/auth_token"]).stdout == "600\n"
    ray("rsync-up", config, spec, "~/fedray/tiny.yaml")
    ray("exec", "--tmux", config, "cd fedray && RAY_ADDRESS=auto fedray run tiny.yaml --resume")
    wait((hosts[0].home / "fedray" / "results" / "tiny" / "DONE").exists)
    ray("rsync-down", config, "~/fedray/results/", "/root/results/")
    clients = (laptop.home / "results" / "tiny" / "clients.csv").read_text()
    assert {name for name in ("host1", "host2", "host3") if name in clients} == {"host1", "host2", "host3"}
    assert "8265" not in hosts[0].run(["ss", "-ltn"]).stdout
    output = ray("down", "-y", config)
    assert not runs_ray(hosts[0]), output
    wait(lambda: not runs_ray(hosts[1]) and not runs_ray(hosts[2]))


def runs_ray(host: Host) -> bool:
    return host.run(["pgrep", "raylet"]).stdout != ""


def waiting_for(nodes: int) -> str:
    """Return a command that ends when the cluster has `nodes` nodes."""
    count = "import ray; ray.init('auto', log_to_driver=False); print(len([n for n in ray.nodes() if n['Alive']]))"
    return f'until [ "$(python -c "{count}" 2>/dev/null)" = {nodes} ]; do sleep 1; done'
