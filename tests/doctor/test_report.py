"""Numbers of actors that a node can hold."""

from dataclasses import replace

from helpers.reports import node


def test_actors_are_counted_per_node_and_gpu() -> None:
    two_gpus = node("b", cores=8, free_cores=3, gpus=2, free_gpus=1.5)
    assert two_gpus.count_actors(1, 0) == 8
    assert two_gpus.count_actors(1, 0, free_only=True) == 3
    assert two_gpus.count_actors(1, 0.4) == 4  # two on each GPU; a fifth would need a share of both
    assert two_gpus.count_actors(1, 0.5, free_only=True) == 3
    assert two_gpus.count_actors(1, 2) == 1
    assert two_gpus.count_actors(3, 0.5) == 2
    assert replace(two_gpus, exit_reason="was killed").count_actors(1, 0) == 0
