"""Aggregation with a rule that needs the weights of every client: in blocks of coordinates, in client-id order."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fedray.aggregation.aggregators import Aggregator
from fedray.aggregation.exact_mean import Floats
from fedray.aggregation.messages import Aggregate, Messages, MessageSums
from fedray.errors import RunError
from fedray.types import Weights

BLOCK_SIZE = 2**13
"""Coordinates that are combined at a time. Memory: at most 2 · clients · BLOCK_SIZE · 8 bytes, and the result."""


def aggregate_gathered(
    rule: Aggregator, messages: Mapping[int, Messages], trained: Sequence[str]
) -> tuple[Aggregate, list[int]]:
    """Apply a rule with `needs_all` to the messages of clients, by id; return also the ids of the combined clients.

    `trained` are the names of the trained parameters, between which distances are measured. The strategy's own messages
    are averaged over the combined clients. Raises RunError if there are too few clients for the rule.
    """
    if problem := rule.problem(len(messages)):
        raise RunError(f"aggregation: {problem}.")
    clients = sorted(messages)
    if rule.selects:
        updates = [messages[client]["weights"].arrays for client in clients]
        chosen = rule.select(squared_distances(updates, [name for name in trained if name in updates[0]]))
        clients = clients if chosen is None else [clients[i] for i in chosen]
    combined = [messages[client]["weights"] for client in clients]
    shares = np.array([message.weight for message in combined], np.float64)
    weights = _reduce(rule, [message.arrays for message in combined], shares / shares.sum())
    others = MessageSums()
    for client in clients:
        others.add({name: message for name, message in messages[client].items() if name != "weights"})
    return others.aggregate(weights), clients


def squared_distances(updates: Sequence[Weights], names: Sequence[str]) -> Floats:
    """Return the squared Euclidean distances [K, K] between models, over the arrays of these names."""
    distances = np.zeros((len(updates), len(updates)))
    for name in names:
        for _, rows in _blocks(updates, name):
            for i in range(len(rows) - 1):
                difference = rows[i + 1 :] - rows[i]
                distances[i, i + 1 :] += np.einsum("kn,kn->k", difference, difference)
    return distances + distances.T


def _reduce(rule: Aggregator, updates: Sequence[Weights], shares: Floats) -> Weights:
    reduced: Weights = {}
    for name, array in updates[0].items():
        flat = np.empty(array.size)
        for block, rows in _blocks(updates, name):
            flat[block] = rule.reduce(rows, shares)
        reduced[name] = flat.reshape(array.shape)
    return reduced


def _blocks(updates: Sequence[Weights], name: str) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    """Yield slices of an array's coordinates, and their values [K, n] in all updates, as a new array each time."""
    arrays = [update[name].reshape(-1) for update in updates]
    for start in range(0, arrays[0].size, BLOCK_SIZE):
        block = slice(start, start + BLOCK_SIZE)
        rows = np.empty((len(arrays), len(arrays[0][block])))
        for row, array in zip(rows, arrays, strict=True):
            row[:] = array[block]
        yield block, rows
