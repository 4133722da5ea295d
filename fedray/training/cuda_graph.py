"""A training step as a CUDA graph: the host starts it as a whole, and not kernel by kernel."""

from collections.abc import Callable

import torch

from fedray.training.batches import Batch

WARM_UP_STEPS = 3
"""Steps taken before the capture, in which libraries choose their kernels and take their memory."""


class CudaGraphStep:
    """Does what `step` does. Batches of `size` are replayed, from the fourth on; others are not.

    `step` must find all it uses at the same place each time, the batch apart, and must not wait for the device.
    A capture runs nothing, and warm-up steps are steps of training: nothing has to be undone.
    (pytorch.org/docs/stable/notes/cuda.html, "Whole-network capture")
    """

    def __init__(self, step: Callable[[Batch], None], size: int) -> None:
        self._step = step
        self._size = size
        self._warm = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._read: Batch  # what the graph looks at

    def __call__(self, batch: Batch) -> None:
        """One step of training."""
        if len(batch) != self._size:
            self._step(batch)
        elif self._warm < WARM_UP_STEPS:
            self._warm += 1
            self._aside(batch)
        else:
            self._replay(batch)

    def _aside(self, batch: Batch) -> None:
        """A step on a stream of its own, as captures are made on one."""
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            self._step(batch)
        here.wait_stream(aside)

    def _replay(self, batch: Batch) -> None:
        if self._graph is None:
            self._read = batch.clone()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._step(self._read)
        self._read.copy_(batch)
        self._graph.replay()
