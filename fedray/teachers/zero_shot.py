"""CLIP and its kin through open_clip: an image's logits are its similarities to prompts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image

from fedray.config import ZeroShot
from fedray.data.dataset import Dataset
from fedray.errors import SpecError, nearest
from fedray.teachers.base import Logits, check_logits


class ZeroShotTeacher:
    """Scale · cos(image, class) + bias, as the model was trained (CLIP's scale is 100, no bias).

    A class is the mean of its prompts' normalised embeddings, normalised again (arXiv 2103.00020).
    """

    def __init__(self, spec: ZeroShot, classes: tuple[str, ...], device: torch.device) -> None:
        names = spec.classes or classes
        if len(names) != len(classes):
            raise SpecError(f"teacher.classes names {len(names)} classes, but the data has {len(classes)}.")
        self._spec, self._device = spec, device
        self._model, self._transform, tokenizer = _load(spec, device)
        with torch.inference_mode():
            self._classes = open_clip.build_zero_shot_classifier(
                self._model, tokenizer, names, spec.prompts, device=device
            )

    @torch.inference_mode()
    def logits(self, data: Dataset) -> Logits:
        size = self._spec.batch_size
        parts = [self._answer(data.images[start : start + size]) for start in range(0, len(data), size)]
        return check_logits(np.concatenate(parts), data, self._spec.model)

    def _answer(self, images: np.ndarray) -> Logits:
        pictures = torch.stack([self._transform(_picture(image)) for image in images]).to(self._device)
        similarity = self._model.encode_image(pictures, normalize=True) @ self._classes
        logits = self._model.logit_scale.exp() * similarity
        bias = getattr(self._model, "logit_bias", None)
        return np.asarray((logits if bias is None else logits + bias).float().cpu().numpy())


def _load(spec: ZeroShot, device: torch.device) -> tuple[Any, Callable[[Image.Image], torch.Tensor], Any]:
    _check_names(spec)
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
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise SpecError(f"teacher: open_clip could not load {spec.model} with {spec.pretrained} ({reason}).") from error
    return model.eval().requires_grad_(False), transform, tokenizer


def _check_names(spec: ZeroShot) -> None:
    if spec.model.startswith(("local-dir:", "hf-hub:")):
        return
    if spec.model not in open_clip.list_models():
        raise SpecError(
            f"teacher.model: open_clip has no model '{spec.model}'{nearest(spec.model, open_clip.list_models())}"
        )
    tags = open_clip.list_pretrained_tags_by_model(spec.model)
    if spec.pretrained is None:
        raise SpecError(
            "teacher.pretrained: a teacher with random weights teaches nothing; name a tag or a checkpoint."
        )
    if spec.pretrained not in tags and not Path(spec.pretrained).is_file():
        raise SpecError(
            f"teacher.pretrained: {spec.model} has no tag '{spec.pretrained}', and that is no file; "
            f"its tags are {', '.join(tags)}."
        )


def _picture(image: np.ndarray) -> Image.Image:
    """uint8 [C, S, S] -> a colour picture."""
    return Image.fromarray(image.transpose(1, 2, 0) if len(image) == 3 else image[0]).convert("RGB")
