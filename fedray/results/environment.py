"""Where a run took place: what one needs to know to repeat it."""

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
    """Versions, machine, device and the commit of the checkout that fedray runs from."""
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
    try:
        here = Path(__file__).parent
        answer = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
    except OSError:
        return None
    return answer.stdout.strip() or None
