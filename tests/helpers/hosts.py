"""Several "hosts" on one Linux machine: namespaces of their own for network, processes, files, name and IPC.

Each has an address on a switch that only they are on, its own /tmp, home, /run and /dev/shm, and ends with its init.
They share one folder, as over NFS, and the installed software, as from one image. When the process that made
them ends, however it ends, the kernel takes them down: nothing is left behind but a folder in /tmp.

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
OWN = ["--net", "--pid", "--mount", "--uts", "--ipc"]
MORTAL = ["setpriv", "--pdeathsig", "KILL", "--"]
"""Ends what follows when the process that started it ends."""

FOREVER = "echo up; sleep infinity & wait"
"""An init: as it waits, the shell takes leave of every orphan that ends."""

Words = Sequence[str | Path]


def why_not() -> str | None:
    """What this machine lacks."""
    needs = "needs root and network namespaces"
    if os.geteuid() != 0:
        return f"{needs}: this is not root"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"{needs}: there is no `{missing[0]}`"
    tried = subprocess.run(["unshare", *OWN, "--fork", "true"], capture_output=True, text=True, check=False)
    return f"{needs}: {tried.stderr.strip()}" if tried.returncode else None


class Init:
    """The first process of a set of namespaces: they last as long as it does."""

    def __init__(self, script: str) -> None:
        command = [*MORTAL, "unshare", *OWN, "--fork", "--kill-child=KILL", "--propagation", "private", "--mount-proc"]
        words = [*command, "sh", "-euc", f"{script}; {FOREVER}"]
        self._process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "up\n":
            raise OSError(f"a host did not start: {self._process.communicate()[1]}")
        self.pid = child(self._process)

    def enter(self) -> list[str]:
        """The beginning of a command that runs inside, and ends when its caller does."""
        return ["nsenter", "--target", str(self.pid), *OWN, "--", *MORTAL]

    def end(self) -> None:
        """At once, with all that runs inside."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._process.communicate()


class Host:
    """One of them. Index 0 has the address that ends in .1."""

    def __init__(self, hosts: "Hosts", index: int) -> None:
        self.name, self.address = f"host{index + 1}", f"{hosts.network}.{index + 1}"
        self._hosts = hosts
        self._folder = hosts.folder / self.name
        self._init: Init | None = None

    def start(self) -> None:
        """Power on. What was on its disk is there again."""
        self._init = Init(f"hostname {self.name}; ip link set lo up; {'; '.join(self._mounts())}")
        self._hosts.connect(self.name, self._init.pid)
        address = f"ip addr add {self.address}/24 dev eth0 && ip link set eth0 up"
        subprocess.run([*self._init.enter(), "sh", "-c", address], check=True)

    def kill(self) -> None:
        """Power off: from one moment to the next nothing answers, and nobody is told."""
        if self._init is not None:
            self._hosts.disconnect(self.name)
            self._init.end()
            self._init = None

    @property
    def home(self) -> Path:
        """Its home, as seen from outside."""
        return self._folder / HOME.relative_to("/")

    @property
    def is_on(self) -> bool:
        """Whether it has power."""
        return self._init is not None

    def run(
        self, words: Words, env: Mapping[str, str] | None = None, seconds: float = 240, check: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run to its end; output and errors together."""
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
        """Start. Its output and errors are lines to be read."""
        how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL, **how}
        process: subprocess.Popen[str] = subprocess.Popen(self._command(words, env), text=True, **how)
        self._hosts.started.append(process)
        return process

    def signal(self, process: "subprocess.Popen[str]", number: int) -> None:
        """Send it to what `popen` started inside."""
        os.kill(child(process), number)

    @property
    def bytes_in(self) -> int:
        """Received on the wire since power on."""
        return self._counters()[0]

    @property
    def bytes_out(self) -> int:
        """Sent on the wire since power on."""
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
        """Its own folders, and in them what all hosts have."""
        for private in PRIVATE:
            own = self._folder / private.relative_to("/")
            own.mkdir(parents=True, exist_ok=True)
            for kept in self._hosts.kept:
                if kept.is_relative_to(private):
                    place = own / kept.relative_to(private)
                    place.mkdir(parents=True, exist_ok=True)
                    yield shlex.join(["mount", "--bind", str(kept), str(place)])
        yield shlex.join(["mount", "--bind", str(self._hosts.folder / "names"), "/etc/hosts"])
        yield "mount -t tmpfs -o size=2g tmpfs /dev/shm"
        for private in reversed(PRIVATE):  # /tmp last: it hides where the others come from
            yield shlex.join(["mount", "--rbind", str(self._folder / private.relative_to("/")), str(private)])


class Hosts:
    """So many hosts, all on, and a switch."""

    def __init__(self, count: int, network: str = "10.77.0") -> None:
        self.network = network
        self.started: list[subprocess.Popen[str]] = []
        self._count = count

    def __enter__(self) -> "Hosts":
        self.folder = Path(tempfile.mkdtemp(prefix="hosts-", dir="/tmp"))
        self.shared = self.folder / "shared"
        self.shared.mkdir()
        self.kept = {self.shared, ROOT, Path(sys.prefix), Path(sys.base_prefix)}
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
            self._switch.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __getitem__(self, index: int) -> Host:
        return self._all[index]

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Host]:
        return iter(self._all)

    def connect(self, name: str, pid: int) -> None:
        """Give the host with this init a wire to the switch."""
        self._ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        self._ip("link", "set", name, "master", "switch", "up")

    def disconnect(self, name: str) -> None:
        """Pull the wire out."""
        with suppress(subprocess.CalledProcessError):  # it may not have had one
            self._ip("link", "del", name)

    def _ip(self, *words: str) -> None:
        switch = ["nsenter", "--target", str(self._switch.pid), "--net", "--"]
        subprocess.run([*switch, "ip", *words], check=True, capture_output=True)


def child(process: "subprocess.Popen[Any]") -> int:
    """The one process that it has started."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def _close(stream: IO[str] | None) -> None:
    if stream is not None:
        stream.close()
