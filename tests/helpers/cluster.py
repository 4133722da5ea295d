"""Ray over several hosts, as launch/README.md says: a head that asks for a token, and others that join it."""

import secrets
import subprocess
import time
from collections.abc import Callable, Mapping

from helpers.hosts import Hosts, Words

PORT = 6379
MEMORY = 200_000_000

SOON = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
}
"""A host that was switched off is given up after 15 seconds; Ray's own setting makes it 65."""


class Cluster:
    """So many cores of each host; the first host is the head."""

    def __init__(self, hosts: Hosts, cpus: int = 1, head_cpus: int = 1) -> None:
        self.hosts = hosts
        self.address = f"{hosts[0].address}:{PORT}"
        self.token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._cpus, self._head_cpus = cpus, head_cpus

    def start(self, *others: int) -> "Cluster":
        """Start Ray on the head and on others."""
        self._ray(0, "--head", f"--port={PORT}", "--include-dashboard=false")
        for index in others:
            self.join(index)
        return self

    def join(self, index: int) -> None:
        self._ray(index, f"--address={self.address}")

    def fedray(
        self, *words: object, env: Mapping[str, str] | None = None, seconds: float = 240
    ) -> subprocess.CompletedProcess[str]:
        """Run `fedray` on the head to its end."""
        return self.hosts[0].run(["fedray", *map(str, words)], self._environment(env), seconds)

    def begin(self, *words: object) -> "subprocess.Popen[str]":
        """Start `fedray` on the head; its lines are to be read."""
        return self.hosts[0].popen(["fedray", *map(str, words)], self._environment())

    def signal(self, process: "subprocess.Popen[str]", number: int) -> None:
        """To a `fedray` that was begun."""
        self.hosts[0].signal(process, number)

    def leave(self, index: int) -> None:
        """Stop Ray on one host, in order."""
        self.hosts[index].run(["ray", "stop"], seconds=60, check=True)

    def lose(self, index: int) -> None:
        """Switch a host off."""
        self.hosts[index].kill()

    def repair(self) -> "Cluster":
        """Have Ray on every host again."""
        for index, host in enumerate(self.hosts):
            if not host.is_on:
                host.start()
                self.join(index)
            elif not host.run(["pgrep", "raylet"]).stdout:
                self.join(index)
        return self

    def _environment(self, others: Mapping[str, str] | None = None) -> dict[str, str]:
        """A bank that is on each host alone, and a Ray that calls nobody."""
        own = {"RAY_ADDRESS": self.address, "FEDRAY_CACHE": "/tmp/bank", "RAY_USAGE_STATS_ENABLED": "0"}
        return own | self.token | dict(others or {})

    def _ray(self, index: int, *words: str) -> None:
        host = self.hosts[index]
        cpus = self._cpus if index else self._head_cpus
        size: Words = [f"--num-cpus={cpus}", f"--object-store-memory={MEMORY}"]
        where = f"--node-ip-address={host.address}"
        environment = self.token | SOON | {"RAY_USAGE_STATS_ENABLED": "0"}
        found = host.run(["ray", "start", *words, where, *size], environment)
        assert found.returncode == 0, found.stdout


def wait(happened: Callable[[], bool], seconds: float = 180) -> None:
    """Look now and then."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)
