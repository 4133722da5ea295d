"""timm models with their pretrained heads."""

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import timm
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fedray.errors import SpecError, nearest
from fedray.files import strip_scheme
from fedray.teachers.class_check import check_class_map
from fedray.teachers.sections import Classifier
from fedray.teachers.teacher import Teacher, frozen
from fedray.teachers.zero_shot import Prepare


class TimmModel(Protocol):
    """The methods of timm's models that a teacher uses."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits."""

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the output of the last block."""

    def forward_head(self, features: Tensor, *, pre_logits: bool) -> Tensor:
        """Return logits, or if `pre_logits` the features before the last layer, [B, d]."""

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""


def load(spec: Classifier, classes: tuple[str, ...], device: torch.device) -> Teacher:
    """Load a model. With a `class_map`, a class's probability is the sum over the model's outputs mapped to it.

    Raises SpecError where timm has no such model or weights, or the map does not cover the data's classes.
    """
    model: TimmModel = frozen(_create(spec), fast_layers=spec.fast_layers)
    backbone, head = _Backbone(model), model.get_classifier()
    config = timm.data.resolve_data_config({}, model=model)
    if not isinstance(head, nn.Linear) or not _is_head(head, backbone, config["input_size"]):
        raise SpecError(f"teacher.model: {spec.model} has no linear head; choose another model.")
    if spec.class_map is not None:
        check_class_map(spec.class_map, classes, head.out_features)
        head = nn.Sequential(head, ClassMap([spec.class_map[name] for name in classes]))
    prepare = Prepare(timm.data.create_transform(**config))
    name = f"{spec.model} {spec.pretrained}"
    return Teacher(
        name, prepare, frozen(backbone.to(device)), frozen(head.to(device)), device, spec.batch_size, spec.precision
    )


class ClassMap(nn.Module):
    """Maps logits to unnormalised log-probabilities of groups of classes."""

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self._groups = groups

    def forward(self, logits: Tensor) -> Tensor:
        """Return the log of the summed exponentials of each group: [B, outputs] -> [B, groups]."""
        return torch.stack([logits[:, list(group)].logsumexp(1) for group in self._groups], dim=1)


def _is_head(head: nn.Module, backbone: "_Backbone", size: Sequence[int]) -> bool:
    """Whether the model's logits come from this layer alone: some models have two heads."""
    image = torch.zeros(1, *size)
    return torch.allclose(head(backbone(image)), backbone.model(image), rtol=1e-3, atol=1e-3)


class _Backbone(nn.Module):
    def __init__(self, model: TimmModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the features before the head: float [B, 3, R, R] -> [B, d]."""
        return self.model.forward_head(self.model.forward_features(images), pre_logits=True)


def _create(spec: Classifier) -> Any:
    if spec.model not in timm.list_models():
        raise SpecError(f"teacher.model: timm has no model '{spec.model}'{nearest(spec.model, timm.list_models())}")
    file = strip_scheme(spec.pretrained)
    try:
        if spec.pretrained.startswith("file:") or "/" in spec.pretrained or file.is_file():
            return _from_file(spec.model, file)
        name = spec.model if spec.pretrained == "default" else f"{spec.model}.{spec.pretrained}"
        return timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError, ValueError, SafetensorError, UnpicklingError) as error:
        reason = " ".join((str(error) or type(error).__name__).split())[:300]
        raise SpecError(f"teacher.pretrained: '{spec.pretrained}' could not be loaded ({reason}).") from error


def _from_file(name: str, file: Path) -> Any:
    """Load a checkpoint into a model with the number of outputs that the checkpoint has."""
    if not file.is_file():
        raise FileNotFoundError(f"no such file: {file}")
    weights = timm.models.load_state_dict(str(file))
    model = timm.create_model(name)
    head = model.get_classifier()
    head_name = next((name for name, module in model.named_modules() if module is head), "")
    if isinstance(head, nn.Linear) and f"{head_name}.weight" in weights:
        model.reset_classifier(len(weights[f"{head_name}.weight"]))
    model.load_state_dict(weights)
    return model
