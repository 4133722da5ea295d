"""Every kind of partition is disjoint, exhaustive, seeded, sorted, and distributed as in its paper."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedray.data.partition import IID, ClassSplit, Dirichlet, DirichletPerClient, Partition, Shards
from fedray.errors import SpecError
from fedray.seeding import numpy_rng
from fedray.types import Indices

few = settings(max_examples=25, deadline=None, derandomize=True)
class_counts = st.lists(st.integers(5, 60), min_size=2, max_size=12)
alphas = st.floats(0.01, 100)

PARTITIONS = [
    IID(clients=7),
    Dirichlet(clients=7, alpha=0.5, min_examples=1),
    DirichletPerClient(clients=7, alpha=0.5),
    ClassSplit(clients=7, classes_per_client=3),
    Shards(clients=7, shards_per_client=2),
]


def labels_of(counts: list[int], seed: int = 0) -> Indices:
    """Labels with `counts[c]` examples of class c, shuffled."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


def split(partition: Partition, labels: Indices, seed: int = 0) -> list[Indices]:
    return partition.split(labels, numpy_rng(seed, "partition"))


def count_classes(shards: list[Indices], labels: Indices) -> Indices:
    """Class counts [clients, classes], counted one example at a time."""
    counts = np.zeros((len(shards), labels.max() + 1), dtype=np.int64)
    for client, shard in enumerate(shards):
        for position in shard:
            counts[client, labels[position]] += 1
    return counts


def assert_divides(shards: list[Indices], labels: Indices, clients: int) -> None:
    assert len(shards) == clients
    assert sorted(np.concatenate(shards).tolist()) == list(range(len(labels)))
    for shard in shards:
        assert shard.dtype == np.int64
        assert (np.diff(shard) > 0).all()


@pytest.mark.parametrize("partition", PARTITIONS, ids=lambda partition: partition.kind)
class TestEveryKind:
    labels = labels_of([40, 30, 20, 10])

    def test_divides_all_examples(self, partition: Partition) -> None:
        assert_divides(split(partition, self.labels), self.labels, clients=7)

    def test_same_seed_gives_the_same_split(self, partition: Partition) -> None:
        first, second = split(partition, self.labels, seed=3), split(partition, self.labels, seed=3)
        assert [shard.tolist() for shard in first] == [shard.tolist() for shard in second]

    def test_other_seed_gives_another_split(self, partition: Partition) -> None:
        first, second = split(partition, self.labels, seed=3), split(partition, self.labels, seed=4)
        assert [shard.tolist() for shard in first] != [shard.tolist() for shard in second]

    def test_labels_need_not_be_contiguous(self, partition: Partition) -> None:
        labels = self.labels * 3 + 1
        assert_divides(split(partition, labels), labels, clients=7)


@pytest.mark.parametrize(
    "partition",
    [
        IID(clients=1),
        Dirichlet(clients=1),
        DirichletPerClient(clients=1),
        ClassSplit(clients=1, classes_per_client=4),
        Shards(clients=1),
    ],
    ids=lambda partition: partition.kind,
)
def test_single_client_gets_all_examples(partition: Partition) -> None:
    assert split(partition, labels_of([40, 30, 20, 10]))[0].tolist() == list(range(100))


@few
@given(class_counts, st.integers(1, 9), st.integers(0, 99))
def test_iid_gives_equal_shares(counts: list[int], clients: int, seed: int) -> None:
    labels = labels_of(counts)
    shards = split(IID(clients=clients), labels, seed)
    assert_divides(shards, labels, clients)
    assert {len(shard) for shard in shards} <= {len(labels) // clients, -(-len(labels) // clients)}


@few
@given(class_counts, st.integers(1, 9), alphas, st.integers(0, 99))
def test_dirichlet_divides_at_any_alpha(counts: list[int], clients: int, alpha: float, seed: int) -> None:
    labels = labels_of(counts)
    assert_divides(split(Dirichlet(clients=clients, alpha=alpha, min_examples=0), labels, seed), labels, clients)


@few
@given(st.integers(0, 12), st.floats(1, 100), st.integers(0, 99))
def test_dirichlet_respects_min_examples(min_examples: int, alpha: float, seed: int) -> None:
    labels = labels_of([30] * 5)
    shards = split(Dirichlet(clients=6, alpha=alpha, min_examples=min_examples), labels, seed)
    assert min(map(len, shards)) >= min_examples


@few
@given(class_counts, st.integers(1, 9), alphas, st.integers(0, 99))
def test_dirichlet_per_client_gives_equal_shares(counts: list[int], clients: int, alpha: float, seed: int) -> None:
    labels = labels_of(counts)
    shards = split(DirichletPerClient(clients=clients, alpha=alpha), labels, seed)
    assert_divides(shards, labels, clients)
    assert {len(shard) for shard in shards} <= {len(labels) // clients, -(-len(labels) // clients)}


@few
@given(st.integers(2, 8), st.data())
def test_class_split_gives_k_classes(classes: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, classes), label="k")
    clients = data.draw(st.integers(classes, 3 * classes), label="clients")
    labels = labels_of([24] * classes)
    shards = split(ClassSplit(clients=clients, classes_per_client=k), labels, data.draw(st.integers(0, 99)))
    assert_divides(shards, labels, clients)
    class_counts = count_classes(shards, labels)
    assert ((class_counts > 0).sum(axis=1) == k).all()
    for client in range(clients):
        assert class_counts[client, client % classes] > 0
    for label in range(classes):
        holders = np.count_nonzero(class_counts[:, label])
        assert set(class_counts[:, label]) - {0} <= {24 // holders, -(-24 // holders)}


@few
@given(class_counts, st.integers(1, 6), st.integers(1, 3), st.integers(0, 99))
def test_shards_are_runs_of_the_sorted_labels(counts: list[int], clients: int, per_client: int, seed: int) -> None:
    counts = [count + 10 for count in counts]
    labels = labels_of(counts)
    shards = split(Shards(clients=clients, shards_per_client=per_client), labels, seed)
    assert_divides(shards, labels, clients)
    size = len(labels) / (clients * per_client)
    # A run of n sorted labels crosses at most n / (smallest class size) class boundaries.
    most = per_client * (2 + int(size // min(counts)))
    assert all(np.count_nonzero(row) <= most for row in count_classes(shards, labels))


def test_two_shards_of_equal_classes_have_at_most_two_classes() -> None:
    labels = labels_of([20] * 10)  # 10 clients x 2 shards: each shard is 10 examples, half a class
    shards = split(Shards(clients=10, shards_per_client=2), labels)
    assert [len(shard) for shard in shards] == [20] * 10
    for row in count_classes(shards, labels):
        assert sorted(set(row)) in ([0, 10], [0, 20])


def test_shards_of_one_class_are_shuffled() -> None:
    labels = np.zeros(100, dtype=np.int64)
    first = split(Shards(clients=2, shards_per_client=1), labels)[0]
    assert first.tolist() not in (list(range(50)), list(range(50, 100)))


def test_large_alpha_is_nearly_balanced() -> None:
    labels = labels_of([1000] * 10)
    class_counts = count_classes(split(Dirichlet(clients=5, alpha=100), labels), labels)
    # A share is Beta(100, 400): mean 0.2, std sqrt(0.2 * 0.8 / 501) = 0.018; five std are 90 of 1000.
    assert (abs(class_counts - 200) < 90).all()
    per_client = count_classes(split(DirichletPerClient(clients=5, alpha=100), labels), labels)
    # A class is Beta(100, 900) of 2000: std sqrt(0.1 * 0.9 / 1001) = 0.0095, with 0.0067 of the draws 0.0116.
    assert (abs(per_client[:-1] - 200) < 5 * 0.0116 * 2000).all()


def test_small_alpha_gives_each_class_to_nearly_one_client() -> None:
    labels = labels_of([100] * 20)
    class_counts = count_classes(split(Dirichlet(clients=10, alpha=0.01, min_examples=0), labels), labels)
    assert (class_counts.max(axis=0) / 100).mean() > 0.9


@pytest.mark.parametrize("alpha", [0.01, 0.1, 1, 100])
def test_skew_of_dirichlet_per_client_follows_alpha(alpha: float) -> None:
    labels = labels_of([5000] * 20)  # the first 100 of 500 clients hold 20 000 of 100 000: no class runs out yet
    class_counts = count_classes(split(DirichletPerClient(clients=500, alpha=alpha), labels)[:100], labels)
    squares = ((class_counts / 200) ** 2).sum(axis=1).mean()
    # For q ~ Dir(alpha * 1) over 20 classes, sum q^2 is (alpha + 1) / (20 alpha + 1) on average, before the draws.
    expected = (alpha + 1) / (20 * alpha + 1)
    assert squares == pytest.approx(expected + (1 - expected) / 200, abs=0.1, rel=0.2)


def test_dirichlet_gives_a_full_client_no_further_classes() -> None:
    """NIID-Bench's rule: a client with N/K examples gets none of the following classes."""
    labels = np.sort(labels_of([100] * 4))
    for seed in range(20):
        class_counts = count_classes(split(Dirichlet(clients=4, alpha=0.1, min_examples=0), labels, seed), labels)
        for label in range(1, 4):
            full = class_counts[:, :label].sum(axis=1) >= 100
            assert (class_counts[full, label] == 0).all()


def test_dirichlet_fails_after_its_last_draw() -> None:
    with pytest.raises(SpecError) as caught:
        split(Dirichlet(clients=20, alpha=0.01, min_examples=10), labels_of([100, 100]))
    message = str(caught.value)
    assert "200 examples among 20 clients with alpha 0.01" in message
    assert "min_examples=10" in message
    assert "1000 draws" in message
    assert "raise alpha, lower clients or min_examples" in message


def test_class_split_needs_enough_classes() -> None:
    with pytest.raises(SpecError, match="classes_per_client is 3, but the training data has only 2 classes"):
        split(ClassSplit(clients=4, classes_per_client=3), labels_of([10, 10]))


def test_class_split_needs_enough_clients_for_all_classes() -> None:
    with pytest.raises(SpecError, match="2 clients with 2 classes each cannot hold all 5 classes"):
        split(ClassSplit(clients=2, classes_per_client=2), labels_of([10] * 5))


def test_class_split_finds_an_exact_cover() -> None:
    labels = labels_of([1] * 40)
    class_counts = count_classes(split(ClassSplit(clients=8, classes_per_client=5), labels), labels)
    assert (class_counts.sum(axis=0) == 1).all()
    assert ((class_counts > 0).sum(axis=1) == 5).all()


def test_class_split_gives_every_class_to_a_client() -> None:
    labels = labels_of([12] * 6)
    for seed in range(20):
        class_counts = count_classes(split(ClassSplit(clients=3, classes_per_client=3), labels, seed), labels)
        assert (class_counts.sum(axis=0) == 12).all()
        assert ((class_counts > 0).sum(axis=1) == 3).all()


def test_more_shards_than_examples_are_refused() -> None:
    with pytest.raises(SpecError, match="4 clients x 3 shards are 12 shards, but there are only 10 examples"):
        split(Shards(clients=4, shards_per_client=3), labels_of([5, 5]))
