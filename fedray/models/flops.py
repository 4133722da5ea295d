"""What a proxy's training takes, in floating-point operations."""

from typing import Any

import torch

from fedray.models import proxies
from fedray.seeding import torch_rng
from fedray.teachers.network import count_flops


def training_flops(proxy: proxies.Proxy, data: proxies.ImageShape) -> int:
    """Floating-point operations of one example's forward and backward pass through the proxy."""
    with torch_rng(None, 0, "flops"):  # its weights do not matter
        model = proxies.build(proxy.model_copy(update={"init": "random"}), data).train()
    images = torch.zeros(2, data.channels, data.size, data.size)

    def step() -> Any:
        return model(images).sum().backward()

    return count_flops(step) // len(images)
