"""The last layer of a classifier, and the features it is given."""

from torch import nn

from fedray.errors import SpecError


def head_name(model: nn.Module, classes: int) -> str:
    """The name of the linear layer that makes the logits. Raises SpecError where there is none."""
    found = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == classes]
    if not found:
        raise SpecError(f"{type(model).__name__} has no linear layer with {classes} outputs whose input are features.")
    return str(found[-1])


def split(model: nn.Module, classes: int) -> tuple[nn.Module, nn.Linear]:
    """The model without its head, which so returns features [B, d], and the head. Changes the model."""
    name = head_name(model, classes)
    head = model.get_submodule(name)
    assert isinstance(head, nn.Linear)
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, nn.Identity())
    return model, head
