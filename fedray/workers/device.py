"""The device that a worker computes on, and the settings that make its results reproducible."""

import os

import torch

from fedray.config.experiment import Resources
from fedray.training import malloc


def claim_device(resources: Resources) -> torch.device:
    """Set the thread count and deterministic kernels, and return the device: a share of a GPU, or the CPU.

    Ray makes only an actor's own GPU visible to it, so the index is always 0.
    """
    torch.set_num_threads(resources.threads)
    malloc.keep_freed_memory()
    if resources.gpus_per_client == 0 or not torch.cuda.is_available():
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    if resources.gpus_per_client < 1:
        torch.cuda.set_per_process_memory_fraction(resources.gpus_per_client, 0)
    return torch.device("cuda", 0)
