"""`FastAttention` under autocast, compared with torch's layer and with the formula."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedray.models.fast_layers import use_fast_layers
from fedray.models.fast_layers.attention import FastAttention

B, N, E, HEADS = 5, 7, 24, 3


def layer(**options: Any) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(E, HEADS, batch_first=True, **options).eval()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.normal_(std=0.3)
    return attention.requires_grad_(False)


def images(length: int = N) -> Tensor:
    return torch.randn(B, length, E, generator=torch.Generator().manual_seed(1))


def by_formula(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) v for each head, in float64 (arXiv 1706.03762)."""
    weight, bias = attention.in_proj_weight.double(), attention.in_proj_bias.double()
    q, k, v = (x.double() @ w.T + b for w, b in zip(weight.chunk(3), bias.chunk(3), strict=True))
    heads = [
        (a @ b.transpose(1, 2) / (E // HEADS) ** 0.5).softmax(-1) @ c
        for a, b, c in zip(*(part.chunk(HEADS, -1) for part in (q, k, v)), strict=True)
    ]
    return torch.cat(heads, -1) @ attention.out_proj.weight.double().T + attention.out_proj.bias.double()


def operations(attention: nn.Module, x: Tensor) -> set[str]:
    """Names of the torch operations that self-attention runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile, bfloat16():
        attention(x, x, x, need_weights=False)
    return {event.key for event in profile.key_averages()}


def bfloat16() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def test_output_is_near_the_formula_in_float64() -> None:
    attention, x = use_fast_layers(layer()), images()
    assert type(attention) is FastAttention
    with bfloat16():
        output, weights = attention(x, x, x, need_weights=False)
    assert weights is None
    assert output.dtype == torch.bfloat16
    exact = by_formula(layer(), x)
    assert (output - exact).norm() < 0.01 * exact.norm()


def test_weights_are_not_copied_for_each_image() -> None:
    """torch's layer runs one product per image (`bmm`), FastAttention a single one."""
    assert "aten::bmm" in operations(layer(), images())
    assert "aten::bmm" not in operations(use_fast_layers(layer()), images())


def test_float32_output_equals_torchs_bit_for_bit() -> None:
    x = images()
    assert torch.equal(
        use_fast_layers(layer())(x, x, x, need_weights=False)[0], layer()(x, x, x, need_weights=False)[0]
    )


OPTIONS: dict[str, dict[str, Any]] = {
    "weights": {},
    "a mask": {"need_weights": False, "attn_mask": torch.triu(torch.full((N, N), float("-inf")), 1)},
    "padding": {"need_weights": False, "key_padding_mask": torch.arange(N).expand(B, N) > 4},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_masks_and_weights_are_computed_by_torch(options: str) -> None:
    x = images()
    with bfloat16():
        actual, expected = (model(x, x, x, **OPTIONS[options]) for model in (use_fast_layers(layer()), layer()))
    assert torch.equal(actual[0], expected[0])
    assert (actual[1] is None) == (expected[1] is None)


@pytest.mark.parametrize("options", [{"add_zero_attn": True}, {"add_bias_kv": True}, {"kdim": 24, "vdim": 12}], ids=str)
def test_unsupported_layers_are_computed_by_torch(options: dict[str, Any]) -> None:
    x = images()
    value = x[..., : options.get("vdim", E)] if "vdim" in options else x
    with bfloat16():
        actual, expected = (
            m(x, x, value, need_weights=False)[0] for m in (use_fast_layers(layer(**options)), layer(**options))
        )
    assert torch.equal(actual, expected)


def test_cross_attention_is_computed_by_torch() -> None:
    x, other = images(), images(4)
    with bfloat16():
        actual, expected = (
            model(x, other, other, need_weights=False)[0] for model in (use_fast_layers(layer()), layer())
        )
    assert torch.equal(actual, expected)


def test_training_with_dropout_is_computed_by_torch() -> None:
    x = images()
    outputs = []
    for model in (use_fast_layers(copy.deepcopy(layer(dropout=0.5))), layer(dropout=0.5)):
        torch.manual_seed(2)
        with bfloat16():
            outputs.append(model.train()(x, x, x, need_weights=False)[0])
    assert torch.equal(*outputs)
