"""Faster convolutions for images so small that most multiplications are by padding.

On 32x32 images, four convolutions of a ResNet18 with the ImageNet stem have a 1x1 output; they hold two thirds of its
weights. Only the centre of a 3x3 kernel meets a single padded pixel, so a matrix product of a ninth the size is enough.
"""

from types import EllipsisType
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from fedray.models.precision import autocast


def fast_class_of(layer: nn.Conv2d) -> type[nn.Conv2d]:
    """Return the class that replaces this layer's; `nn.Conv2d` if there is no faster one."""
    if layer.dilation != (1, 1) or layer.padding_mode != "zeros":
        return nn.Conv2d
    if layer.groups == 1:
        return FastConv2d
    return FastDepthwiseConv2d if layer.groups == layer.in_channels == layer.out_channels else nn.Conv2d


class FastConv2d(nn.Conv2d):
    """`nn.Conv2d`, computed as a matrix product if the output is 1x1."""

    def forward(self, images: Tensor) -> Tensor:
        """Float [B, C, H, W] -> [B, out channels, H', W']."""
        overlap = kernel_overlap(self, images)
        if overlap is None:
            return super().forward(images)
        pixels: Tensor = linear(images.movedim(1, -1).flatten(1), _KernelSlice.apply(self.weight, *overlap), self.bias)
        return pixels[..., None, None]


class FastDepthwiseConv2d(nn.Conv2d):
    """Depthwise `nn.Conv2d`, computed as a weighted sum if the output is 1x1.

    On CPUs it ignores autocast and runs in its weights' dtype: torch's bfloat16 kernel takes five times as long.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Float [B, C, H, W] -> [B, C, H', W']."""
        if images.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with autocast(images.device, "float32"):
                return self.forward(images.to(self.weight.dtype))
        overlap = kernel_overlap(self, images)
        if overlap is None:
            return super().forward(images)
        pixels = (images * self.weight[:, 0, *overlap]).sum((2, 3), keepdim=True)
        return pixels if self.bias is None else pixels + self.bias[:, None, None]


def kernel_overlap(layer: nn.Conv2d, images: Tensor) -> tuple[slice, slice] | None:
    """Return the kernel's rows and columns that overlap the image, if the output is 1x1.

    Return None if the output is larger, the kernel does not cover the image, or the input is invalid (torch's layer
    then raises).
    """
    if isinstance(layer.padding, str) or images.dim() != 4 or images.shape[1] != layer.in_channels:
        return None
    axes = list(zip(images.shape[2:], layer.kernel_size, layer.stride, layer.padding, strict=True))
    if not all(0 <= size + 2 * pad - kernel < stride and pad + size <= kernel for size, kernel, stride, pad in axes):
        return None
    rows, columns = (slice(pad, pad + size) for size, _, _, pad in axes)
    return rows, columns


class _SliceContext(Protocol):
    """Attributes of the context that `forward` sets for `backward`."""

    weight: Tensor
    index: tuple[EllipsisType, slice, slice]


class _KernelSlice(torch.autograd.Function):
    """Kernels [O, C, K, K] -> [O, rows * columns * C].

    Plain slicing computes the same, but its gradient is contiguous and is then copied into the weight's memory format.
    """

    @staticmethod
    def forward(context: _SliceContext, weight: Tensor, rows: slice, columns: slice) -> Tensor:
        context.weight, context.index = weight, (..., rows, columns)
        return weight[context.index].movedim(1, -1).flatten(1)

    @staticmethod
    def backward(context: _SliceContext, *gradients: Tensor) -> tuple[Tensor, None, None]:
        weight_gradient = torch.zeros_like(context.weight)
        part = weight_gradient[context.index].movedim(1, -1)
        part.copy_(gradients[0].view(part.shape))
        return weight_gradient, None, None
