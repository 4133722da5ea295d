"""CLIP-like models of open_clip: an image's logits are its similarities to the prompts of each class."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from PIL import Image
from torch import Tensor, nn

from fedray.errors import SpecError, nearest
from fedray.teachers.sections import ZeroShot
from fedray.teachers.teacher import Teacher, frozen

Transform: TypeAlias = Callable[[Image.Image], Tensor]
Tokenizer: TypeAlias = Callable[[Sequence[str]], Tensor]


class ClipModel(Protocol):
    """The attributes of open_clip's models that a teacher uses."""

    logit_scale: Tensor

    def encode_image(self, image: Tensor, normalize: bool) -> Tensor:
        """Return the embeddings of images, [B, d]."""


def load(spec: ZeroShot, classes: tuple[str, ...], device: torch.device) -> Teacher:
    """Load a model whose logits are scale · cos(image, class) + bias, with the trained scale and bias.

    A class is the mean of its prompts' normalised embeddings, normalised again (arXiv 2103.00020).
    Features are the images' normalised embeddings. CLIP's scale is 100, and it has no bias.
    Raises SpecError where open_clip cannot load the model.
    """
    names = spec.names(classes)
    if len(names) != len(classes):
        raise SpecError(f"teacher.classes names {len(names)} classes, but the data has {len(classes)}.")
    model, transform, tokenizer = _load(spec, device)
    with torch.no_grad():
        # Functions, not strings: open_clip would call str.format on strings, and a prompt may contain other braces.
        prompts = [partial(_fill_prompt, template) for template in spec.templates]
        embeddings = open_clip.build_zero_shot_classifier(model, tokenizer, names, prompts, device=device)
        head = nn.Linear(len(embeddings), len(names), device=device)
        head.weight.copy_(model.logit_scale.exp() * embeddings.T)
        bias = getattr(model, "logit_bias", None)
        head.bias.copy_(torch.zeros(()) if bias is None else bias)
    name = f"{spec.model} {spec.pretrained or ''}".rstrip()
    return Teacher(name, Prepare(transform), ImageTower(model), frozen(head), device, spec.batch_size, spec.precision)


class ImageTower(nn.Module):
    """The image encoder of an open_clip model."""

    def __init__(self, model: ClipModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings of length 1: float [B, 3, R, R] -> [B, d]."""
        return self.model.encode_image(images, normalize=True)


class Prepare:
    """Applies a library's transform of one PIL image to a batch."""

    def __init__(self, transform: Transform) -> None:
        self._transform = transform

    def __call__(self, images: Tensor) -> Tensor:
        """Return float32 [B, 3, R, R] on the device of the uint8 images [B, C, S, S]."""
        prepared = [self._transform(_pil_image(image)) for image in images.cpu().numpy()]
        return torch.stack(prepared).to(images.device)


def _load(spec: ZeroShot, device: torch.device) -> tuple[ClipModel, Transform, Tokenizer]:
    _check_model_and_tag(spec)
    try:
        model, transform = open_clip.create_model_from_pretrained(
            spec.model,
            pretrained=spec.pretrained,
            device=device,
            # OpenAI's weights were trained with QuickGELU, which the bare architecture name lacks.
            force_quick_gelu=open_clip.get_pretrained_cfg(spec.model, spec.pretrained or "").get("quick_gelu", False),
        )
        tokenizer = open_clip.get_tokenizer(spec.model)
    except Exception as error:
        reason = " ".join((str(error) or type(error).__name__).split())[:300]
        raise SpecError(f"teacher: open_clip could not load {spec.model} with {spec.pretrained} ({reason}).") from error
    return frozen(model, fast_layers=spec.fast_layers), transform, tokenizer


def _fill_prompt(template: str, name: str) -> str:
    return template.replace("{}", name)


def _check_model_and_tag(spec: ZeroShot) -> None:
    if spec.model.startswith(("local-dir:", "hf-hub:")):
        return
    if spec.model not in open_clip.list_models():
        raise SpecError(
            f"teacher.model: open_clip has no model '{spec.model}'{nearest(spec.model, open_clip.list_models())}"
        )
    tags = open_clip.list_pretrained_tags_by_model(spec.model)
    if spec.pretrained is None:
        raise SpecError("teacher.pretrained: is null, which means random weights; name a tag or a checkpoint.")
    if spec.pretrained not in tags and not Path(spec.pretrained).is_file():
        hint = nearest(spec.pretrained, tags) or f"; its tags are {', '.join(tags)}."
        raise SpecError(
            f"teacher.pretrained: {spec.model} has no tag '{spec.pretrained}', and there is no such file{hint}"
        )


def _pil_image(image: npt.NDArray[np.uint8]) -> Image.Image:
    """Convert uint8 [C, S, S] to an RGB image."""
    return Image.fromarray(image.transpose(1, 2, 0) if len(image) == 3 else image[0]).convert("RGB")
