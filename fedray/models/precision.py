"""In which precision a spec has its arithmetic done, and how images and weights lie in memory."""

import torch

from fedray.types import MemoryFormat, Precision


def memory_format(name: MemoryFormat) -> torch.memory_format:
    """NHWC or NCHW, for `Tensor.contiguous` and `Module.to`."""
    return torch.channels_last if name == "channels_last" else torch.contiguous_format


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Within it convolutions and products are done in `precision`; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
