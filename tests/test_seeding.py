"""Seeds and generators are functions of the purpose alone."""

import numpy as np
import torch

from fedray.seeding import derive_seed, hash_integers, numpy_rng, torch_rng


def test_seeds_depend_on_each_label_and_its_type() -> None:
    seeds = {derive_seed(*labels) for labels in [(0,), (1,), (0, "a"), (0, "a", 1), (0, "a", "1"), (0, 1, "a"), (0, 1)]}
    assert len(seeds) == 7
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seed_is_the_same_in_every_process_and_version() -> None:
    # printf "(0, 'order', 3, 7)" | sha256sum  ->  240fb8e21e5c62bd...; releases must not change results.
    assert derive_seed(0, "order", 3, 7) == 0x240FB8E21E5C62BD >> 1


def test_generators_depend_on_the_purpose() -> None:
    assert numpy_rng(0, "a").random() == numpy_rng(0, "a").random()
    assert numpy_rng(0, "a").random() != numpy_rng(0, "b").random()


def test_torch_rng_restores_the_global_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with torch_rng(None, 0, "init"):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with torch_rng(None, 0, "init"):
        assert torch.equal(torch.rand(3), inside)


def test_hash_is_uniform_and_independent_of_position() -> None:
    values = np.arange(16_200)
    hashed = hash_integers(values, 0, "view")
    assert hashed[77] == hash_integers(np.array([77]), 0, "view")[0]
    counts = np.bincount((hashed % np.uint64(162)).astype(int), minlength=162)
    chi_square = ((counts - 100) ** 2 / 100).sum()
    assert chi_square < 161 + 4 * np.sqrt(2 * 161)
