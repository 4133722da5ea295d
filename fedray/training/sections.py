"""The spec sections of local training and of evaluation."""

from typing import Literal

from pydantic import Field

from fedray.section import Section
from fedray.types import MemoryFormat, Precision


class Training(Section):
    """Rounds, and SGD on each client."""

    rounds: int = Field(10, ge=1)
    """Number of rounds."""
    local_epochs: int = Field(1, ge=1)
    """Epochs that each client of the cohort trains per round."""
    batch_size: int = Field(64, ge=1)
    """Examples per step. A last batch of a single example is merged into the batch before it."""
    lr: float = Field(0.01, gt=0)
    """Learning rate of SGD on the clients."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD. It starts at zero in every round."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 penalty, added to the gradient as weight_decay · weight."""
    decay_every: int | None = Field(None, ge=1)
    """Number of local epochs, counted over all rounds, after which the learning rate is multiplied by `decay_factor`
    each time. null keeps it constant."""
    decay_factor: float = Field(0.1, gt=0, le=1)
    """Factor of the learning rate's step decay."""
    participation: float = Field(1.0, gt=0, le=1)
    """Share of the clients in each round's cohort; at least one client takes part."""
    memory_format: MemoryFormat = "channels_last"
    """Memory layout of images and weights: `channels_last` (NHWC) or `contiguous` (NCHW). The first is faster; results
    differ by rounding."""
    precision: Precision = "float32"
    """`bfloat16`: convolutions and matrix products run in bfloat16, about twice as fast on processors with bfloat16
    instructions and far slower on others. Weights, losses and SGD stay float32."""
    fast_layers: bool = True
    """Use faster layers for convolutions onto one pixel, depthwise convolutions and 2x2 max-pooling, as accurate as
    torch's. `false` uses torch's own layers everywhere."""
    failures: Literal["abort", "drop"] = "abort"
    """If a client fails: `abort` the run, or `drop` its update and continue."""
    min_cohort: int = Field(1, ge=1)
    """With `failures: drop`, the smallest number of updates with which a round may end."""
    deadline: float | None = Field(None, gt=0)
    """Seconds that a round's clients may train; null for no limit."""
    late: Literal["wait", "drop"] = "wait"
    """If a client misses the deadline: `wait` for its update and report it, or `drop` the update and continue.
    With `drop` results depend on the machine's speed: the same spec need not give the same bits."""

    def cohort_size(self, clients: int) -> int:
        """Return the number of clients in a round's cohort: the nearest whole number, at least one."""
        return max(1, round(self.participation * clients))


class Evaluation(Section):
    """Evaluation of the global proxy on the test set."""

    every: int = Field(1, ge=1)
    """Rounds from one evaluation to the next. The last round is always evaluated."""
    batch_size: int = Field(500, ge=1)
    """Images per forward pass."""
