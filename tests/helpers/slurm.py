"""A Slurm of one node on this machine: its daemons in a PID namespace of their own, its state in one folder.

The namespace keeps `ray stop`, which ends all Ray of a user on a machine, from what else runs here.
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

NEEDED = ("slurmctld", "slurmd", "munged", "unshare")

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


def missing() -> str:
    """What keeps Slurm from being started here, in one clear sentence, or nothing."""
    if absent := [tool for tool in NEEDED if shutil.which(tool) is None]:
        return f"Slurm cannot be started here: {', '.join(absent)} not found (packages slurm-wlm and munge)."
    return "" if os.geteuid() == 0 else "Slurm cannot be started here: only root may."


@dataclass(frozen=True)
class Slurm:
    """A Slurm that runs."""

    folder: Path

    @property
    def environment(self) -> Mapping[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where fedray and ray are
        return os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def __call__(self, *command: str, cwd: Path | None = None) -> str:
        """What a command of Slurm's prints."""
        said = subprocess.run(command, cwd=cwd, env=self.environment, capture_output=True, text=True, timeout=60)
        assert said.returncode == 0, said.stderr
        return said.stdout.strip() or said.stderr.strip()

    def show(self, job: str) -> dict[str, str]:
        """What is known about a job: JobState, Restarts, ExitCode, ..."""
        words = self("scontrol", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, job: str, *states: str, seconds: float = 240) -> dict[str, str]:
        """Until the job is in one of the states."""
        deadline = time.monotonic() + seconds
        while (shown := self.show(job))["JobState"] not in states:
            assert time.monotonic() < deadline, shown
            time.sleep(0.5)
        return shown


@contextmanager
def started(folder: Path, gpus: int = 0) -> Iterator[Slurm]:
    """A Slurm with one node of two CPUs and so many pretended GPUs."""
    _configure(folder, gpus)
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", DAEMONS]
    with (folder / "daemons.log").open("w") as log:
        daemons = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        slurm = Slurm(folder)
        _wait_for_node(slurm)
        yield slurm
    finally:
        daemons.kill()  # and with it its namespace
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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _free_job() -> int:
    """An id for the first job, such that the port that its Ray takes is nobody's here."""
    while True:
        job = secrets.randbelow(9000) + 1000
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("", 20000 + job))
            return job


def _wait_for_node(slurm: Slurm) -> None:
    deadline = time.monotonic() + 60
    command = ["sinfo", "--noheader", "--format=%T"]
    while True:
        said = subprocess.run(command, env=slurm.environment, capture_output=True, text=True)
        if said.stdout.strip() == "idle":
            return
        assert time.monotonic() < deadline, said.stdout + said.stderr + (slurm.folder / "daemons.log").read_text()
        time.sleep(0.2)
