"""The spec sections of local training and evaluation."""

from typing import Literal

from pydantic import Field

from fedray.section import Section
from fedray.types import MemoryFormat, Precision


class Training(Section):
    """SGD on each client. Epochs are counted over all rounds: `round * local_epochs + epoch`."""

    rounds: int = Field(10, ge=1)
    local_epochs: int = Field(1, ge=1)
    batch_size: int = Field(64, ge=1)
    lr: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    decay_every: int | None = Field(None, ge=1)
    """Multiply the learning rate by `decay_factor` every so many local epochs; None never does."""
    decay_factor: float = Field(0.1, gt=0, le=1)
    participation: float = Field(1.0, gt=0, le=1)
    """The share of clients drawn for each round's cohort (at least one client)."""
    memory_format: MemoryFormat = "channels_last"
    """How images and weights lie in memory, NHWC or NCHW (`contiguous`): the first is faster, the rounding differs."""
    precision: Precision = "float32"
    """`bfloat16`: convolutions and products of both passes, about twice as fast where the processor has
    instructions for it and far slower where not. Weights, losses and SGD stay float32."""
    fast_layers: bool = True
    """Use faster layers for convolutions onto one pixel, depthwise convolutions and 2x2 max-pooling, as accurate as
    torch's. `false` uses torch's own layers everywhere."""
    failures: Literal["abort", "drop"] = "abort"
    """What to do when a client fails: stop the run, or go on without its update."""
    min_cohort: int = Field(1, ge=1)
    """How few updates a round may end with where failures are dropped."""
    deadline: float | None = Field(None, gt=0)
    """The seconds that a round's clients have to train; None gives them any time."""
    late: Literal["wait", "drop"] = "wait"
    """What to do with a client beyond the deadline: wait and report it, or go on without its update.
    With `drop` the machine's speed has a say in the result: the same spec no longer means the same bits."""


class Evaluation(Section):
    """The global proxy on the test set, every so many rounds and after the last."""

    every: int = Field(1, ge=1)
    batch_size: int = Field(500, ge=1)
