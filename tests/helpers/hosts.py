"""Several "hosts" on one Linux machine, each with its own namespaces for network, processes, files, name and IPC.

Each host has an address on a private switch, and its own /tmp, home, /run and /dev/shm. The hosts share one folder, as
over NFS, and the installed software, as from one image. When the process that created them ends for any reason, the
kernel ends them too; only a folder in /tmp remains.

    with Hosts(3) as hosts:
        print(hosts[1].run(["hostname"]).stdout, hosts[1].bytes_in)
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
HOME = Path("/root")
PRIVATE = (Path("/tmp"), HOME, Path("/run"))
TOOLS = ("ip", "mount", "nsenter", "setpriv", "unshare")
NAMESPACES = ["--net", "--pid", "--mount", "--uts", "--ipc"]
DIE_WITH_PARENT = ["setpriv", "--pdeathsig", "KILL", "--"]
"""Prefix of a command that is killed when the process that started it ends."""

FOREVER = "echo up; sleep infinity & wait"
"""Script of a host's init process: while it waits, the shell reaps orphaned processes."""

Words = Sequence[str | Path]


def missing_requirement() -> str | None:
    """Return a sentence that names what this machine lacks to create hosts, or None."""
    needs = "needs root and network namespaces"
    if os.geteuid() != 0:
        return f"{needs}: this is not root"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"{needs}: there is no `{missing[0]}`"
    result = subprocess.run(["unshare", *NAMESPACES, "--fork", "true"], capture_output=True, text=True, check=False)
    return f"{needs}: {result.stderr.strip()}" if result.returncode else None


class Init:
    """The first process of a set of namespaces, which exist as long as it runs."""

    def __init__(self, script: str) -> None:
        command = [
            *DIE_WITH_PARENT,
            "unshare",
            *NAMESPACES,
            "--fork",
            "--kill-child=KILL",
            "--propagation",
            "private",
            "--mount-proc",
        ]
        words = [*command, "sh", "-euc", f"{script}; {FOREVER}"]
        self._process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "up\n":
            raise OSError(f"a host did not start: {self._process.communicate()[1]}")
        self.pid = child(self._process)

    def enter(self) -> list[str]:
        """Return the prefix of a command that runs inside, and is killed when its caller ends."""
        return ["nsenter", "--target", str(self.pid), *NAMESPACES, "--", *DIE_WITH_PARENT]

    def kill(self) -> None:
        """Kill it and all processes inside."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._process.communicate()


class Host:
    """One host. Index 0 has the address that ends in .1."""

    def __init__(self, hosts: "Hosts", index: int) -> None:
        self.name, self.address = f"host{index + 1}", f"{hosts.network}.{index + 1}"
        self._hosts = hosts
        self._folder = hosts.folder / self.name
        self._init: Init | None = None

    def start(self) -> None:
        """Power on, with the disk of earlier starts."""
        self._init = Init(f"hostname {self.name}; ip link set lo up; {'; '.join(self._mounts())}")
        self._hosts.connect(self.name, self._init.pid)
        address = f"ip addr add {self.address}/24 dev eth0 && ip link set eth0 up"
        subprocess.run([*self._init.enter(), "sh", "-c", address], check=True)

    def kill(self) -> None:
        """Power off at once, without a signal to its processes or to other hosts."""
        if self._init is not None:
            self._hosts.disconnect(self.name)
            self._init.kill()
            self._init = None

    @property
    def home(self) -> Path:
        """Path of its home folder outside the host."""
        return self._folder / HOME.relative_to("/")

    @property
    def is_on(self) -> bool:
        """True while it is powered on."""
        return self._init is not None

    def run(
        self, words: Words, env: Mapping[str, str] | None = None, seconds: float = 240, check: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run a command until it ends; stdout has output and errors."""
        return subprocess.run(
            self._command(words, env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=check,
        )

    def popen(self, words: Words, env: Mapping[str, str] | None = None, **how: Any) -> "subprocess.Popen[str]":
        """Start a command; stdout yields the lines of its output and errors."""
        how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL, **how}
        process: subprocess.Popen[str] = subprocess.Popen(self._command(words, env), text=True, **how)
        self._hosts.started.append(process)
        return process

    def signal(self, process: "subprocess.Popen[str]", number: int) -> None:
        """Send a signal to a command that `popen` started."""
        os.kill(child(process), number)

    @property
    def bytes_in(self) -> int:
        """Bytes received over the network since power on."""
        return self._counters()[0]

    @property
    def bytes_out(self) -> int:
        """Bytes sent over the network since power on."""
        return self._counters()[8]

    def _counters(self) -> list[int]:
        assert self._init is not None, f"{self.name} is off"
        lines = Path(f"/proc/{self._init.pid}/net/dev").read_text().splitlines()
        return next([int(word) for word in line.split()[1:]] for line in lines if line.split()[0] == "eth0:")

    def _command(self, words: Words, env: Mapping[str, str] | None) -> list[str]:
        assert self._init is not None, f"{self.name} is off"
        variables = {"PATH": f"{sys.prefix}/bin:{os.defpath}:/usr/sbin:/sbin", "HOME": str(HOME), "LANG": "C.UTF-8"}
        pairs = [f"{name}={value}" for name, value in (variables | dict(env or {})).items()]
        return [*self._init.enter(), "env", "-i", "-C", str(HOME), *pairs, *map(str, words)]

    def _mounts(self) -> Iterator[str]:
        """Yield the commands that mount its private folders, and the shared folders inside them."""
        for private in PRIVATE:
            folder = self._folder / private.relative_to("/")
            folder.mkdir(parents=True, exist_ok=True)
            for shared in self._hosts.shared_folders:
                if shared.is_relative_to(private):
                    mount_point = folder / shared.relative_to(private)
                    mount_point.mkdir(parents=True, exist_ok=True)
                    yield shlex.join(["mount", "--bind", str(shared), str(mount_point)])
        yield shlex.join(["mount", "--bind", str(self._hosts.folder / "names"), "/etc/hosts"])
        yield "mount -t tmpfs -o size=2g tmpfs /dev/shm"
        for private in reversed(PRIVATE):  # /tmp last: it hides the sources of the other mounts
            yield shlex.join(["mount", "--rbind", str(self._folder / private.relative_to("/")), str(private)])


class Hosts:
    """`count` hosts, powered on, and a switch that connects them."""

    def __init__(self, count: int, network: str = "10.77.0") -> None:
        self.network = network
        self.started: list[subprocess.Popen[str]] = []
        self._count = count

    def __enter__(self) -> "Hosts":
        self.folder = Path(tempfile.mkdtemp(prefix="hosts-", dir="/tmp"))
        self.shared = self.folder / "shared"
        self.shared.mkdir()
        self.shared_folders = {self.shared, ROOT, Path(sys.prefix), Path(sys.base_prefix)}
        self._all: list[Host] = []
        try:
            self._switch = Init("ip link add name switch type bridge; ip link set switch up")
            self._all = [Host(self, index) for index in range(self._count)]
            names = [("127.0.0.1", "localhost"), *((host.address, host.name) for host in self._all)]
            (self.folder / "names").write_text("".join(f"{address} {name}\n" for address, name in names))
            for host in self._all:
                host.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in self._all:
            host.kill()
        for process in self.started:
            process.wait()
            _close(process.stdout)
        if hasattr(self, "_switch"):
            self._switch.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __getitem__(self, index: int) -> Host:
        return self._all[index]

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Host]:
        return iter(self._all)

    def connect(self, name: str, pid: int) -> None:
        """Connect the host with this init process to the switch."""
        self._ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        self._ip("link", "set", name, "master", "switch", "up")

    def disconnect(self, name: str) -> None:
        """Disconnect a host from the switch."""
        with suppress(subprocess.CalledProcessError):  # it may not be connected
            self._ip("link", "del", name)

    def _ip(self, *words: str) -> None:
        switch = ["nsenter", "--target", str(self._switch.pid), "--net", "--"]
        subprocess.run([*switch, "ip", *words], check=True, capture_output=True)


def child(process: "subprocess.Popen[Any]") -> int:
    """Return the pid of the only child of a process."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def _close(stream: IO[str] | None) -> None:
    if stream is not None:
        stream.close()
