"""Ray on several hosts, as in launch/README.md: a head that requires a token, and hosts that join it."""

import secrets
import subprocess
import time
from collections.abc import Callable, Mapping

from helpers.hosts import Hosts, Words

PORT = 6379
MEMORY = 200_000_000

FAST_HEALTH_CHECKS = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
}
"""With these settings Ray declares a host lost 15 s after power-off; by default after 65 s."""


class Cluster:
    """A Ray cluster with `cpus` CPUs per host; the first host is the head."""

    def __init__(self, hosts: Hosts, cpus: int = 1, head_cpus: int = 1) -> None:
        self.hosts = hosts
        self.address = f"{hosts[0].address}:{PORT}"
        self.token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._cpus, self._head_cpus = cpus, head_cpus

    def start(self, *others: int) -> "Cluster":
        """Start Ray on the head and on other hosts."""
        self._ray(0, "--head", f"--port={PORT}", "--include-dashboard=false")
        for index in others:
            self.join(index)
        return self

    def join(self, index: int) -> None:
        """Start Ray on one more host."""
        self._ray(index, f"--address={self.address}")

    def fedray(
        self, *words: object, env: Mapping[str, str] | None = None, seconds: float = 240
    ) -> subprocess.CompletedProcess[str]:
        """Run `fedray` on the head until it ends."""
        return self.hosts[0].run(["fedray", *map(str, words)], self._environment(env), seconds)

    def popen(self, *words: object) -> "subprocess.Popen[str]":
        """Start `fedray` on the head; stdout yields its lines."""
        return self.hosts[0].popen(["fedray", *map(str, words)], self._environment())

    def signal(self, process: "subprocess.Popen[str]", number: int) -> None:
        """Send a signal to a `fedray` that `popen` started."""
        self.hosts[0].signal(process, number)

    def leave(self, index: int) -> None:
        """Stop Ray on one host with `ray stop`."""
        self.hosts[index].run(["ray", "stop"], seconds=60, check=True)

    def lose(self, index: int) -> None:
        """Power a host off."""
        self.hosts[index].kill()

    def repair(self) -> "Cluster":
        """Restart lost hosts, and Ray where it does not run."""
        for index, host in enumerate(self.hosts):
            if not host.is_on:
                host.start()
                self.join(index)
            elif not host.run(["pgrep", "raylet"]).stdout:
                self.join(index)
        return self

    def _environment(self, others: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return variables: a teacher cache per host, and no usage statistics."""
        variables = {"RAY_ADDRESS": self.address, "FEDRAY_CACHE": "/tmp/cache", "RAY_USAGE_STATS_ENABLED": "0"}
        return variables | self.token | dict(others or {})

    def _ray(self, index: int, *words: str) -> None:
        host = self.hosts[index]
        cpus = self._cpus if index else self._head_cpus
        size: Words = [f"--num-cpus={cpus}", f"--object-store-memory={MEMORY}"]
        address = f"--node-ip-address={host.address}"
        environment = self.token | FAST_HEALTH_CHECKS | {"RAY_USAGE_STATS_ENABLED": "0"}
        result = host.run(["ray", "start", *words, address, *size], environment)
        assert result.returncode == 0, result.stdout


def wait(condition: Callable[[], bool], seconds: float = 180) -> None:
    """Wait until the condition is true; raise AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not true after {seconds} s"
        time.sleep(0.2)
