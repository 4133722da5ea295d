"""Write a tiny random CLIP in open_clip's format."""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

TINY: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
PREPROCESS = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}


def write_clip(folder: Path, **config: Any) -> open_clip.CLIP:
    """Write a random model and return it. Its scale and bias differ from their initial values."""
    torch.manual_seed(0)
    model = open_clip.CLIP(**TINY, **config)
    with torch.no_grad():
        model.logit_scale.fill_(1.5)
        if model.logit_bias is not None:
            model.logit_bias.fill_(-3)
    folder.mkdir()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    document = {"model_cfg": TINY | config, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(document))
    return model.eval()
