"""The last layer of a classifier, and the features it is given."""

from torch import Tensor, nn

from fedray.errors import SpecError
from fedray.models.precision import autocast


def head_name(model: nn.Module, classes: int) -> str:
    """The name of the linear layer that makes the logits. Raises SpecError where there is none."""
    if found := _heads(model, classes):
        return found[-1][0]
    raise SpecError(f"{type(model).__name__} has no linear layer with {classes} outputs whose input are features.")


def keep_head_float32(model: nn.Module, classes: int) -> nn.Module:
    """The same model, but its logits are float32 under autocast too, where the last layer is a linear one.

    In bfloat16 the two largest of an image's logits are often equal, and the class that is counted first would win.
    """
    for _, head in _heads(model, classes)[-1:]:
        if type(head).__name__ == "Linear":  # torch's, or timm's own, which does the same
            head.__class__ = Float32Linear
    return model


def _heads(model: nn.Module, classes: int) -> list[tuple[str, nn.Linear]]:
    """What may be one: the last is."""
    return [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == classes]


class Float32Linear(nn.Linear):
    """A linear layer in its weights' precision, whatever is around it."""

    def forward(self, features: Tensor) -> Tensor:
        """Float [B, d] -> logits [B, classes]."""
        with autocast(features.device, "float32"):
            return super().forward(features.to(self.weight.dtype))


def split_head(model: nn.Module, classes: int) -> tuple[nn.Module, nn.Linear]:
    """The model without its head, which so returns features [B, d], and the head. Changes the model."""
    name = head_name(model, classes)
    head = model.get_submodule(name)
    assert isinstance(head, nn.Linear)
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, nn.Identity())
    return model, head
