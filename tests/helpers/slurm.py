"""A Slurm of one node on this machine, with its daemons in a PID namespace and its state in one folder.

The namespace protects other Ray processes of this machine from `ray stop`, which stops all Ray of a user.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "unshare")

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
FirstJobId={first_job}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
SlurmUser=root
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
MailProg=/bin/true
MpiDefault=none
KillWait=5
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=all Nodes=one Default=YES MaxTime=INFINITE State=UP
"""

DAEMONS = """
munged --foreground --force --key-file=munge.key --socket="$PWD/munge.socket" --pid-file="$PWD/munge.pid" \
    --log-file="$PWD/munge.log" --seed-file="$PWD/munge.seed" &
until [ -S munge.socket ]; do sleep 0.1; done
slurmctld -D -f slurm.conf &
slurmd -D -f "$PWD/slurm.conf" -N one &
wait
"""


def missing_requirement() -> str:
    """Return a sentence that names the missing requirement of Slurm, or ""."""
    if missing := [tool for tool in PROGRAMS if shutil.which(tool) is None]:
        return f"Slurm cannot be started here: {', '.join(missing)} not found (packages slurm-wlm and munge)."
    return "" if os.geteuid() == 0 else "Slurm cannot be started here: it needs root."


@dataclass(frozen=True)
class Slurm:
    """A running Slurm."""

    folder: Path

    @property
    def environment(self) -> Mapping[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # the folder of fedray and ray
        return os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def __call__(self, *command: str, cwd: Path | None = None) -> str:
        """Run a Slurm command and return its output."""
        result = subprocess.run(command, cwd=cwd, env=self.environment, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip() or result.stderr.strip()

    def show(self, job: str) -> dict[str, str]:
        """Return the fields of a job: JobState, Restarts, ExitCode, ..."""
        words = self("scontrol", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, job: str, *states: str, seconds: float = 240) -> dict[str, str]:
        """Wait until the job is in one of the states and return its fields."""
        deadline = time.monotonic() + seconds
        while (fields := self.show(job))["JobState"] not in states:
            assert time.monotonic() < deadline, fields
            time.sleep(0.5)
        return fields


@contextmanager
def start_slurm(folder: Path, gpus: int = 0) -> Iterator[Slurm]:
    """Start a Slurm with one node of two CPUs and `gpus` fake GPUs; stop it at the end of the block."""
    _configure(folder, gpus)
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", DAEMONS]
    with (folder / "daemons.log").open("w") as log:
        daemons = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        slurm = Slurm(folder)
        _wait_for_node(slurm)
        yield slurm
    finally:
        daemons.kill()  # which ends the namespace and all its processes
        daemons.wait()


def _configure(folder: Path, gpus: int) -> None:
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o600)
    controller, daemon = _free_port(), _free_port()
    values = {"host": socket.gethostname(), "folder": folder, "gpus": gpus, "first_job": _free_job()}
    configuration = CONFIGURATION.format(controller=controller, daemon=daemon, **values)
    (folder / "slurm.conf").write_text(configuration if gpus else configuration.replace("Gres=gpu:0 ", ""))
    devices = [folder / f"gpu{number}" for number in range(gpus)]
    for device in devices:
        device.touch()
    (folder / "gres.conf").write_text("".join(f"NodeName=one Name=gpu File={device}\n" for device in devices))
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _free_job() -> int:
    """Return an id for the first job, with which the port of its Ray is free."""
    while True:
        job = secrets.randbelow(9000) + 1000
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("", 20000 + job))
            return job


def _wait_for_node(slurm: Slurm) -> None:
    deadline = time.monotonic() + 60
    command = ["sinfo", "--noheader", "--format=%T"]
    while True:
        result = subprocess.run(command, env=slurm.environment, capture_output=True, text=True)
        if result.stdout.strip() == "idle":
            return
        assert time.monotonic() < deadline, result.stdout + result.stderr + (slurm.folder / "daemons.log").read_text()
        time.sleep(0.2)
