"""The environment of a run: versions, machine, and digests of the files that it reads."""

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from fedray.config.experiment import Experiment
from fedray.config.files import named_files
from fedray.types import Row

PACKAGES = ("fedray", "ray", "torch", "torchvision", "timm", "open_clip_torch", "numpy", "pandas")


def environment(experiment: Experiment, command: Sequence[str], gpu: str | None) -> Row:
    """Return versions, machine, device, the commit of fedray's checkout, and digests of the files in the spec."""
    return {
        "python": platform.python_version(),
        "packages": {package: version(package) for package in PACKAGES},
        "commit": _commit(),
        "command": list(command),
        "node": platform.node(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads_per_client": experiment.resources.threads,
        "files": named_files(experiment),
        "gpu": gpu,
    }


def _commit() -> str | None:
    """Return the commit of the checkout that contains fedray, `-dirty` appended for local changes; None without it."""
    try:
        folder = Path(__file__).parent
        git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=folder, capture_output=True, text=True)
    except OSError:
        return None
    return git.stdout.strip() or None
