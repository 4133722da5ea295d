"""Exact sums of the messages that clients send, one per message name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from fedray.aggregation.exact_mean import ExactMean
from fedray.types import ArrayGroups, Message, Weights

Messages: TypeAlias = Mapping[str, Message]
"""One client's messages by name. `weights` holds its model's weights; other names are the strategy's."""


@dataclass(frozen=True)
class Aggregate:
    """The combined messages of a round's clients, as a strategy's server side receives them. All arrays are float64."""

    weights: Weights
    """The message `weights`, combined by the experiment's `aggregation` rule."""
    means: ArrayGroups
    """The weighted mean of each of the strategy's own messages, by message name."""
    totals: Mapping[str, int]
    """Sum of the weights of each message, by message name: total · mean is the sum over clients."""


class MessageSums:
    """A weighted sum of each message over clients; its bits do not depend on the order of the clients."""

    def __init__(self) -> None:
        self._means: dict[str, ExactMean] = {}

    def add(self, part: "Messages | MessageSums") -> None:
        """Add the messages of one client, or the sums of several clients."""
        if isinstance(part, MessageSums):
            for name, mean in part._means.items():
                self._mean(name).merge(mean)
        else:
            for name, message in part.items():
                self._mean(name).add(message.arrays, message.weight)

    def aggregate(self, weights: Weights | None = None) -> Aggregate:
        """Return the means of all messages; `weights`, if given, replaces the mean of the message `weights`."""
        means = {name: mean.mean() for name, mean in self._means.items()}
        combined = means.pop("weights") if weights is None else weights
        return Aggregate(combined, means, {name: mean.total for name, mean in self._means.items()})

    def _mean(self, name: str) -> ExactMean:
        return self._means.setdefault(name, ExactMean())
