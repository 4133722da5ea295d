"""A training step as a CUDA graph, which the host launches as a whole instead of kernel by kernel."""

from collections.abc import Callable

import torch

from fedray.training.batches import Batch

WARM_UP_STEPS = 3
"""Training steps before the capture, in which libraries choose their kernels and allocate their memory."""


class CudaGraphStep:
    """Runs `step` on a batch; from the fourth full batch on as a CUDA graph.

    Batches that are not of `size` run without the graph. Apart from the batch, `step` must find all its tensors at
    the same address each time, and must not synchronise with the device. The warm-up steps are ordinary training
    steps and the capture runs nothing, so nothing needs to be undone.
    (pytorch.org/docs/stable/notes/cuda.html, "Whole-network capture")
    """

    def __init__(self, step: Callable[[Batch], None], size: int) -> None:
        self._step = step
        self._size = size
        self._warm_up_steps = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._input: Batch  # the memory that the graph reads

    def __call__(self, batch: Batch) -> None:
        """Run one training step."""
        if len(batch) != self._size:
            self._step(batch)
        elif self._warm_up_steps < WARM_UP_STEPS:
            self._warm_up_steps += 1
            self._warm_up(batch)
        else:
            self._replay(batch)

    def _warm_up(self, batch: Batch) -> None:
        """Run a step on a side stream, as the capture will."""
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(current)
        with torch.cuda.stream(side):
            self._step(batch)
        current.wait_stream(side)

    def _replay(self, batch: Batch) -> None:
        if self._graph is None:
            self._input = batch.clone()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._step(self._input)
        self._input.copy_(batch)
        self._graph.replay()
