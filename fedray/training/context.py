"""The data of one client's round for its strategy: NumPy arrays, before and after local training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fedray.training.sections import SGD, AnyOptimizer
from fedray.types import ArrayGroups, Indices, Message, ParameterInfo, TargetArrays, Weights, trained_names


@dataclass
class ClientContext:
    """A client that is about to train (`Strategy.client_init`) or has trained (`Strategy.client_final`)."""

    client: int
    round: int
    class_counts: Indices
    """[classes], number of the client's examples of each class."""
    broadcast: ArrayGroups
    """The arrays that the server sent: the global `weights` and the groups of `Strategy.broadcast`."""
    state: ArrayGroups
    """The groups that the client kept after the last round in which it trained; empty before its first one."""
    parameters: Sequence[ParameterInfo]
    """A description of each array in `weights`."""
    weights: Weights
    """Weights of the client's proxy: at the start of its training, and after it in `client_final`."""
    steps: int
    """Number of optimizer steps in this round."""
    lr: float
    """Learning rate of these steps."""
    optimizer: AnyOptimizer
    """The optimizer that takes these steps."""
    predict_public: Callable[[Weights], npt.NDArray[np.float32]]
    """Returns the logits [P, classes] of the proxy with the given weights for the P public images."""

    @property
    def received(self) -> Weights:
        """The global model's weights."""
        return self.broadcast["weights"]

    @property
    def examples(self) -> int:
        """Number of the client's examples."""
        return int(self.class_counts.sum())

    @property
    def gradient_weight(self) -> float:
        """The sum of the weights of all gradients in (x - y) / lr, x before and y after training with SGD: the number
        of steps, more with momentum. (x - y) / (lr · gradient_weight) is a weighted mean of the gradients."""
        assert isinstance(self.optimizer, SGD), "strategies that read it refuse other optimizers"
        return self.optimizer.gradient_weight(self.steps)

    def public_logits(self) -> npt.NDArray[np.float32]:
        """Return the logits [P, classes] of the client's proxy for the public images, not augmented.

        Each call computes them, in evaluation mode, with the current `weights`.
        """
        return self.predict_public(self.weights)

    def trained(self, weights: Weights) -> Weights:
        """Return the trained parameters in `weights`, without the buffers."""
        return {name: weights[name] for name in trained_names(self.parameters)}


@dataclass(frozen=True)
class ClientStart:
    """Inputs of a client's training that its strategy adds."""

    constants: ArrayGroups = field(default_factory=dict)
    """Groups of one array per trained parameter, which loss terms read as `LossInputs.constants`."""
    frozen: Mapping[str, Weights] = field(default_factory=dict)
    """Complete weights of each of the strategy's `frozen_models`."""
    public_targets: TargetArrays = field(default_factory=dict)
    """Targets of phases on the public images by kind, such as `logits` float32 [P, classes]."""


@dataclass(frozen=True)
class ClientResult:
    """The messages that a client sends to the server, and the state that it keeps for its next round."""

    messages: Mapping[str, Message]
    """`weights` and the strategy's own messages; each is summed over the clients with its own weight."""
    state: ArrayGroups = field(default_factory=dict)
