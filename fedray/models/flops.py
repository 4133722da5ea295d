"""Counting floating-point operations with torch's formulas."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from fedray.models import proxies
from fedray.seeding import torch_rng
from fedray.types import ImageShape


def training_flops(proxy: proxies.Proxy, data: ImageShape) -> int:
    """Return the FLOPs of one example's forward and backward pass through the proxy."""
    model, images = _model_and_images(proxy, data)
    return count_flops(lambda: model.train()(images).sum().backward()) // len(images)


def forward_flops(proxy: proxies.Proxy, data: ImageShape) -> int:
    """Return the FLOPs of one example's forward pass through the proxy."""
    model, images = _model_and_images(proxy, data)
    with torch.no_grad():
        return count_flops(lambda: model.eval()(images)) // len(images)


def _model_and_images(proxy: proxies.Proxy, data: ImageShape) -> tuple[nn.Module, Tensor]:
    with torch_rng(None, 0, "flops"):  # the values of its weights do not matter
        model = proxies.build(proxy.model_copy(update={"init": "random"}), data)
    return model, torch.zeros(2, data.channels, data.size, data.size)


def count_flops(work: Callable[[], object]) -> int:
    """Return the FLOPs of `work`; a multiplication with an addition counts as two."""
    with _without_fast_attention(), FlopCounter() as counter:
        work()
    return int(counter.total)


class FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # the base's __init_subclass__
    """Counts as torch's FlopCounterMode does for a whole model, without its import of the compiler, which takes 2 s."""

    def __init__(self) -> None:
        from torch.utils.flop_counter import flop_registry  # imported late: it imports Triton, if installed

        super().__init__()  # type: ignore[no-untyped-call]
        self.total: int = 0
        self._formulas: Mapping[object, Callable[..., int]] = flop_registry

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        out = func(*args, **(kwargs or {}))
        if formula := self._formulas.get(func.overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


@contextmanager
def _without_fast_attention() -> Iterator[None]:
    """Turn off the fused attention kernel, which has no formula and would not be counted."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
