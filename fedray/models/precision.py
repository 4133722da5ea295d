"""Numeric precision and memory layout of models and images, as a spec names them."""

import torch

from fedray.types import MemoryFormat, Precision


def memory_format(name: MemoryFormat) -> torch.memory_format:
    """Return NHWC (`channels_last`) or NCHW, for `Tensor.contiguous` and `Module.to`."""
    return torch.channels_last if name == "channels_last" else torch.contiguous_format


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return a context in which convolutions and matrix products run in `precision`; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
