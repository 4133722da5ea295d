"""Aggregators against NumPy over whole updates, and the clients that they choose."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from fedray.aggregation import gathered
from fedray.aggregation.aggregators import AGGREGATORS, Aggregator, Krum, NormClippedMean
from fedray.aggregation.gathered import aggregate_gathered, squared_distances
from fedray.aggregation.messages import Messages
from fedray.errors import RunError
from fedray.types import Message, Weights

RNG = np.random.default_rng(3)
SIZES = [3, 17, 5, 40, 9, 8, 2]
CLIENTS = [14, 3, 8, 1, 30, 7, 2]
"""Client ids in the order in which their updates arrive."""


def make_updates(scale: float = 1.0) -> dict[int, Messages]:
    """Updates of two arrays and a counter, with one other message; client 30 is an outlier."""
    updates: dict[int, Messages] = {}
    for size, client in zip(SIZES, CLIENTS, strict=True):
        far = 50 if client == 30 else 0
        weights: Weights = {
            "a": RNG.normal(far, scale, (3, 5)).astype(np.float32),
            "b": RNG.normal(0, scale, 4).astype(np.float32),
            "n": np.array(size),
        }
        control = {"a": np.full(2, client, np.float32)}
        updates[client] = {"weights": Message(size, weights), "control": Message(1, control)}
    return updates


def rule(name: str, **fields: Any) -> Aggregator:
    return AGGREGATORS[name].model_validate(fields)


def stacked(updates: dict[int, Messages], name: str) -> np.ndarray:
    return np.stack([updates[client]["weights"].arrays[name] for client in sorted(updates)]).astype(np.float64)


def test_median_of_each_coordinate_ignores_weights() -> None:
    updates = make_updates()
    aggregate, clients = aggregate_gathered(rule("median"), updates, ["a", "b"])
    assert clients == sorted(CLIENTS)
    for name in ("a", "b", "n"):
        middle = np.sort(stacked(updates, name), axis=0)[3]
        assert np.array_equal(aggregate.weights[name], middle)
    assert aggregate.means["control"]["a"].tolist() == pytest.approx([sum(CLIENTS) / 7] * 2)


@pytest.mark.parametrize(("trim", "cut"), [(0.0, 0), (0.1, 0), (0.15, 1), (2 / 7, 2), (0.49, 3)])
def test_trimmed_mean_leaves_out_the_same_number_at_each_end(trim: float, cut: int) -> None:
    updates = make_updates()
    aggregate, _ = aggregate_gathered(rule("trimmed_mean", trim=trim), updates, ["a", "b"])
    for name in ("a", "b"):
        ordered = np.sort(stacked(updates, name), axis=0)[cut : 7 - cut]
        assert aggregate.weights[name] == pytest.approx(ordered.mean(axis=0), rel=1e-12)


def krum_scores(updates: dict[int, Messages], byzantine: int) -> dict[int, float]:
    vectors = {c: np.concatenate([m["weights"].arrays[n].ravel() for n in "ab"]) for c, m in updates.items()}
    scores = {}
    for client, vector in vectors.items():
        others = sorted(float(((vector - v) ** 2).sum()) for c, v in vectors.items() if c != client)
        scores[client] = sum(others[: len(updates) - byzantine - 2])
    return scores


def test_krum_chooses_the_lowest_score_and_only_its_messages_count() -> None:
    updates = make_updates()
    scores = krum_scores(updates, 2)
    best = min(scores, key=scores.__getitem__)
    aggregate, clients = aggregate_gathered(rule("krum", byzantine=2), updates, ["a", "b"])
    assert clients == [best]
    assert best != 30
    for name, array in updates[best]["weights"].arrays.items():
        assert np.array_equal(aggregate.weights[name], array)
    assert aggregate.means["control"]["a"].tolist() == [best, best]


def test_multi_krum_averages_the_best_by_their_weights() -> None:
    updates = make_updates()
    scores = krum_scores(updates, 1)
    best = sorted(sorted(scores, key=scores.__getitem__)[:4])
    aggregate, clients = aggregate_gathered(rule("multi_krum", byzantine=1, keep=4), updates, ["a", "b"])
    assert clients == best
    weights = np.array([updates[client]["weights"].weight for client in best], float)
    mean = (weights[:, None, None] / weights.sum() * stacked({c: updates[c] for c in best}, "a")).sum(axis=0)
    assert aggregate.weights["a"] == pytest.approx(mean, rel=1e-12)


def test_of_equal_scores_the_lowest_client_wins() -> None:
    updates = dict.fromkeys((9, 4, 6, 5, 8), make_updates()[7])
    assert aggregate_gathered(Krum(byzantine=1), updates, ["a", "b"])[1] == [4]


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "krum", "multi_krum"])
def test_bits_do_not_depend_on_the_order_of_arrival_or_on_the_blocks(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates = make_updates()
    results = []
    for order, block in ((CLIENTS, 2**13), (CLIENTS[::-1], 2**13), (CLIENTS, 4)):
        monkeypatch.setattr(gathered, "BLOCK_SIZE", block)
        aggregate, _ = aggregate_gathered(rule(name), {client: updates[client] for client in order}, ["a", "b"])
        results.append({part: array.tobytes() for part, array in aggregate.weights.items()})
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize(("fields", "clients", "least"), [({"byzantine": 1}, 4, 5), ({"byzantine": 0}, 2, 3)])
def test_krum_refuses_too_few_clients(fields: dict[str, Any], clients: int, least: int) -> None:
    updates = dict(list(make_updates().items())[:clients])
    with pytest.raises(RunError, match=f"needs at least {least} clients in a round, not {clients}"):
        aggregate_gathered(Krum(**fields), updates, ["a", "b"])


def test_squared_distances_equal_those_of_the_vectors() -> None:
    updates = [message["weights"].arrays for message in make_updates().values()]
    vectors = np.stack([np.concatenate([u["a"].ravel(), u["b"]]) for u in updates]).astype(np.float64)
    expected = ((vectors[:, None] - vectors[None]) ** 2).sum(axis=2)
    assert squared_distances(updates, ["a", "b"]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "multi_krum"])
def test_memory_is_bounded_by_the_blocks(name: str) -> None:
    """At most 2 · clients · block · 8 bytes, and the result in float64."""
    parameters, clients = 400_000, 20
    update = {"w": np.zeros(parameters, np.float32)}
    updates: dict[int, Messages] = {client: {"weights": Message(1, update)} for client in range(clients)}
    tracemalloc.start()
    aggregate_gathered(rule(name), updates, ["w"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * clients * gathered.BLOCK_SIZE * 8 + parameters * 8 + 300_000


def test_large_updates_are_scaled_down_to_the_norm() -> None:
    received: Weights = {"w": np.array([1.0, 2.0], np.float32), "n": np.array(4)}
    sent: Weights = {"w": np.array([4.0, 6.0], np.float32), "n": np.array(9)}
    clipped = NormClippedMean(max_norm=1).prepare(sent, received, ["w"])
    assert clipped["w"].tolist() == pytest.approx([1.6, 2.8])
    assert clipped["w"].dtype == np.float32
    assert clipped["n"] == 9
    assert NormClippedMean(max_norm=5).prepare(sent, received, ["w"]) is sent
