"""Convolutions as CPUs do them best, for images so small that libraries mostly multiply padding.

A ResNet18 with its ImageNet stem has four convolutions onto one pixel when images are 32x32, and two thirds of its
weights in them. Of a 3x3 kernel over a single pixel the middle alone meets it: a matrix product of a ninth the size.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from fedray.models.precision import autocast


def fast_class_of(layer: nn.Conv2d) -> type[nn.Conv2d]:
    """The class that does what this layer does."""
    if layer.dilation != (1, 1) or layer.padding_mode != "zeros":
        return nn.Conv2d
    if layer.groups == 1:
        return FastConv2d
    return FastDepthwiseConv2d if layer.groups == layer.in_channels == layer.out_channels else nn.Conv2d


class FastConv2d(nn.Conv2d):
    """torch's convolution, but a matrix product where one pixel comes out."""

    def forward(self, images: Tensor) -> Tensor:
        """Float [B, C, H, W] -> [B, out channels, H', W']."""
        met = kernel_overlap(self, images)
        if met is None:
            return super().forward(images)
        pixels: Tensor = linear(images.movedim(1, -1).flatten(1), _Part.apply(self.weight, *met), self.bias)
        return pixels[..., None, None]


class FastDepthwiseConv2d(nn.Conv2d):
    """torch's depthwise convolution, but a weighted sum where one pixel comes out.

    In its weights' precision on CPUs, whatever is around it: what they have for bfloat16 takes five times as long.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Float [B, C, H, W] -> [B, C, H', W']."""
        if images.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with autocast(images.device, "float32"):
                return self.forward(images.to(self.weight.dtype))
        met = kernel_overlap(self, images)
        if met is None:
            return super().forward(images)
        pixels = (images * self.weight[:, 0, *met]).sum((2, 3), keepdim=True)
        return pixels if self.bias is None else pixels + self.bias[:, None, None]


def kernel_overlap(layer: nn.Conv2d, images: Tensor) -> tuple[slice, slice] | None:
    """The rows and columns of the kernel that meet the image, or None: it has several places to be in, does not cover
    the image in its only one, or torch should say what is wrong.
    """
    if isinstance(layer.padding, str) or images.dim() != 4 or images.shape[1] != layer.in_channels:
        return None
    axes = list(zip(images.shape[2:], layer.kernel_size, layer.stride, layer.padding, strict=True))
    if not all(0 <= size + 2 * pad - kernel < stride and pad + size <= kernel for size, kernel, stride, pad in axes):
        return None
    rows, columns = (slice(pad, pad + size) for size, _, _, pad in axes)
    return rows, columns


class _Part(torch.autograd.Function):
    """Kernels [O, C, K, K] -> [O, rows * columns * C].

    Slicing would do, but for its gradient: made in the order of indices, it is then copied into that of the weight.
    """

    @staticmethod
    def forward(context: Any, weight: Tensor, rows: slice, columns: slice) -> Tensor:
        context.weight, context.part = weight, (..., rows, columns)
        return weight[context.part].movedim(1, -1).flatten(1)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        whole = torch.zeros_like(context.weight)
        part = whole[context.part].movedim(1, -1)
        part.copy_(gradients[0].view(part.shape))
        return whole, None, None
