"""2x2 max-pooling, bitwise equal to torch's, whose CPU kernel is slow because it is not vectorised."""

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction


def is_2x2(layer: nn.MaxPool2d) -> bool:
    """Whether the layer pools non-overlapping 2x2 windows and drops an odd last row or column."""
    windows = all(size in (2, (2, 2)) for size in (layer.kernel_size, layer.stride))
    plain = layer.padding in (0, (0, 0)) and layer.dilation in (1, (1, 1))
    return windows and plain and not layer.ceil_mode and not layer.return_indices


class MaxPool2x2(nn.MaxPool2d):
    """`nn.MaxPool2d(2)`: [B, C, H, W] -> [B, C, H // 2, W // 2].

    If several of four values are largest, the first in row-major order gets the gradient.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Pool; only contiguous CPU images of even height and width take the faster way."""
        even = images.dim() == 4 and images.shape[2] % 2 == images.shape[3] % 2 == 0
        if even and images.device.type == "cpu" and images.is_contiguous():
            pooled: Tensor = _MaxPool2x2Function.apply(images)
        else:
            pooled = super().forward(images)
        return pooled


class _MaxPool2x2Function(torch.autograd.Function):
    """Maximum over column pairs, then over row pairs; several times as fast as torch."""

    @staticmethod
    def forward(context: BackwardCFunction, images: Tensor) -> Tensor:
        left, right = images[..., ::2], images[..., 1::2]
        columns = torch.maximum(left, right)
        upper, lower = columns[:, :, ::2], columns[:, :, 1::2]
        if context.needs_input_grad[0]:
            context.save_for_backward(right - left, lower - upper)
        return torch.maximum(upper, lower)

    @staticmethod
    def backward(context: BackwardCFunction, *gradients: Tensor) -> Tensor:
        saved: tuple[Tensor, ...] = context.saved_tensors
        right_minus_left, lower_minus_upper = saved
        columns = torch.empty_like(right_minus_left)
        _route(gradients[0], lower_minus_upper, columns[:, :, ::2], columns[:, :, 1::2])
        images = columns.new_empty(*columns.shape[:3], 2 * columns.shape[3])
        _route(columns, right_minus_left, images[..., ::2], images[..., 1::2])
        return images


def _route(gradient: Tensor, second_minus_first: Tensor, first: Tensor, second: Tensor) -> None:
    """Write the gradient into `second` where it was the larger, else into `first`; the other gets 0."""
    to_second = torch.ops.aten.threshold_backward(gradient, second_minus_first, 0)
    second.copy_(to_second)
    torch.sub(gradient, to_second, out=first)
