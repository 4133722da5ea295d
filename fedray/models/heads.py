"""The head of a classifier: its last linear layer, which turns features into logits."""

import torch
from torch import Tensor, nn

from fedray.errors import SpecError
from fedray.models.precision import autocast


def head_name(model: nn.Module, classes: int) -> str:
    """Return the module name of the head. Raises SpecError if no linear layer has `classes` outputs."""
    if (name := find_head(model, classes)) is not None:
        return name
    raise SpecError(f"{type(model).__name__} has no linear layer with {classes} outputs to use as its head.")


def find_head(model: nn.Module, classes: int) -> str | None:
    """Return the module name of the head; None if no linear layer has `classes` outputs."""
    candidates = _head_candidates(model, classes)
    return candidates[-1][0] if candidates else None


def keep_head_float32(model: nn.Module, classes: int) -> nn.Module:
    """Make a linear head compute float32 logits under autocast too, in place, and return the model.

    In bfloat16 the two largest logits of an image are often equal, and argmax would return the lower class.
    """
    for _, head in _head_candidates(model, classes)[-1:]:
        if type(head).__name__ == "Linear":  # torch's, or timm's class of the same name, which computes the same
            head.__class__ = Float32Linear
    return model


def _head_candidates(model: nn.Module, classes: int) -> list[tuple[str, nn.Linear]]:
    """All linear layers with `classes` outputs; the last one is the head."""
    return [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == classes]


class Float32Linear(nn.Linear):
    """`nn.Linear` in its weights' dtype, also under autocast."""

    def forward(self, features: Tensor) -> Tensor:
        """Float [B, d] -> logits [B, classes]."""
        with autocast(features.device, "float32"):
            return super().forward(features.to(self.weight.dtype))


class FeatureTap:
    """Keeps the input of a model's head, float [B, d], from the model's last forward pass."""

    def __init__(self, model: nn.Module, classes: int) -> None:
        """Raises SpecError if the model has no head."""
        self.features = torch.empty(0)
        model.get_submodule(head_name(model, classes)).register_forward_pre_hook(self._keep)

    def _keep(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.features = inputs[0].float()


def split_head(model: nn.Module, classes: int) -> tuple[nn.Module, nn.Linear]:
    """Take the head off the model, in place. Return the model, which now returns features [B, d], and the head."""
    name = head_name(model, classes)
    head = model.get_submodule(name)
    assert isinstance(head, nn.Linear)
    model.set_submodule(name, nn.Identity())
    return model, head
