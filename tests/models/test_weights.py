"""Weights as arrays: conversion from and to a model, and checks of received weights."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedray.models.weights import BLOCK_SIZE, check_weights, distance, get_weights, nbytes, set_weights
from fedray.types import Weights


def model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    for _ in range(seed + 1):  # so that running statistics and batch counters differ as well
        network(torch.rand(2, 3, 4, 4))
    return network


def example() -> Weights:
    return {"a": np.ones((2, 3), np.float32), "n": np.array(5), "b": np.zeros(2, np.float32)}


def test_get_weights_has_names_and_values_of_the_state_dict() -> None:
    network = model(0)
    weights = get_weights(network)
    assert list(weights) == list(network.state_dict())
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(weights[name], value.numpy())
    assert weights["1.num_batches_tracked"].dtype == np.int64
    assert weights["1.num_batches_tracked"].shape == ()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_set_weights_restores_what_get_weights_returns(layout: Any) -> None:
    source, target = model(0).to(memory_format=layout), model(4)
    weights = get_weights(source)
    set_weights(target, weights)
    for name, value in target.state_dict().items():
        assert torch.equal(value, source.state_dict()[name]), name
    assert target.state_dict()["1.num_batches_tracked"] == 1


def test_set_weights_keeps_channels_last() -> None:
    source, target = model(0), model(4).to(memory_format=torch.channels_last)
    set_weights(target, get_weights(source))
    kernel = next(target.parameters())
    assert torch.equal(kernel, next(source.parameters()))
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert not kernel.is_contiguous()


def test_get_weights_returns_contiguous_copies() -> None:
    network = model(0).to(memory_format=torch.channels_last)
    weights = get_weights(network)
    assert all(array.flags.c_contiguous and array.flags.writeable for array in weights.values())
    before = next(network.parameters()).detach().clone()
    for array in weights.values():
        array += 1
    assert torch.equal(next(network.parameters()), before)


def test_set_weights_copies_read_only_arrays() -> None:
    weights = get_weights(model(0))
    for array in weights.values():
        array.flags.writeable = False
    before = {name: array.copy() for name, array in weights.items()}
    target = model(4)
    set_weights(target, weights)
    target(torch.rand(2, 3, 4, 4))
    with torch.no_grad():
        for parameter in target.parameters():
            parameter += 1
    for name, array in weights.items():
        np.testing.assert_array_equal(array, before[name])


def test_set_weights_keeps_the_parameter_objects() -> None:
    target = model(4)
    before = list(target.parameters())
    set_weights(target, get_weights(model(0)))
    assert all(a is b and a.requires_grad for a, b in zip(before, target.parameters(), strict=True))


def test_valid_weights_are_accepted() -> None:
    assert check_weights(example(), like=example()) is None
    assert check_weights(get_weights(model(0)), like=get_weights(model(1))) is None


def edited(name: str, value: Any) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {name: value}


def without(weights: Weights) -> Weights:
    return {name: array for name, array in weights.items() if name != "b"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (without, "its weights are named differently (b ...)"),
        (edited("c", np.zeros(1)), "its weights are named differently (c ...)"),
        (edited("a", np.ones((3, 2), np.float32)), "a is float32[3, 2], not float32[2, 3]"),
        (edited("a", np.ones((2, 3), np.float64)), "a is float64[2, 3], not float32[2, 3]"),
        (edited("n", np.array([5])), "n is int64[1], not int64[]"),
        (edited("b", np.array([0, np.nan], np.float32)), "b is not finite"),
        (edited("b", np.array([0, np.inf], np.float32)), "b is not finite"),
        (edited("b", np.array([-np.inf, 0], np.float32)), "b is not finite"),
        (edited("b", np.array([0, 2.0**20 + 1], np.float32)), "b has grown beyond 1.04858e+06: training diverged"),
        (edited("b", np.array([-(2.0**21), 0], np.float32)), "b has grown beyond 1.04858e+06: training diverged"),
    ],
)
def test_invalid_weights_are_refused(change: Callable[[Weights], Weights], problem: str) -> None:
    assert check_weights(change(example()), like=example()) == problem


@pytest.mark.parametrize(
    "change",
    [
        edited("b", np.array([2.0**20, -(2.0**20)], np.float32)),
        edited("n", np.array(2**40)),
        edited("n", np.array(-(2**62))),
    ],
)
def test_large_values_within_the_limit_are_accepted(change: Callable[[Weights], Weights]) -> None:
    assert check_weights(change(example()), like=example()) is None


def test_empty_arrays_are_accepted() -> None:
    empty = {"a": np.zeros((0, 3), np.float32)}
    assert check_weights(empty, like=empty) is None


def test_nbytes_equals_hand_computed_value() -> None:
    assert nbytes({"weights": example()}) == 2 * 3 * 4 + 8 + 2 * 4
    # Convolution 3*4*3*3 + 4, batch norm 4 times 4, linear 16*2 + 2, 4 bytes each; batch counter 8 bytes.
    assert nbytes({"weights": get_weights(model(0)), "none": {}}) == 4 * (108 + 4 + 16 + 34) + 8


def test_distance_equals_hand_computed_value() -> None:
    first = {"a": np.array([[1.0, 2.0]], np.float32), "b": np.array(5.0, np.float32), "count": np.array(7)}
    second = {"a": np.array([[4.0, -2.0]], np.float32), "b": np.array(-7.0, np.float32), "count": np.array(9)}
    assert distance(first, second, ["a"]) == 5
    assert distance(first, second, ["a", "b"]) == 13


def test_distance_over_several_blocks() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(3, BLOCK_SIZE - 7)).astype(np.float32) for _ in range(2))
    expected = np.sqrt(((first - second).astype(np.float64) ** 2).sum())
    assert distance({"a": first}, {"a": second}, ["a"]) == pytest.approx(expected, rel=1e-12)
