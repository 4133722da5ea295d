"""One deterministic augmentation of each image: a crop offset and a flip.

Padded by 4 and cropped back, an image has 9 x 9 x 2 = 162 views, numbered
`(top * 9 + left) * 2 + flip`. View 80 = (4 * 9 + 4) * 2 is the plain image.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fedray.seeding import hash_integers
from fedray.types import Indices

if TYPE_CHECKING:
    from torch import Tensor

PAD = 4
"""Pixels of padding on each side."""
OFFSETS = 2 * PAD + 1
VIEWS = OFFSETS * OFFSETS * 2
"""Number of views of an image."""
PLAIN = (PAD * OFFSETS + PAD) * 2
"""The view that is the image itself."""


def choose_views(examples: Indices, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Returns a view (int64, 0..161) for each example; it depends on (seed, epoch, example) alone."""
    return (hash_integers(examples, seed, "view", epoch) % np.uint64(VIEWS)).astype(np.int64)


def apply_views(images: "Tensor", views: "Tensor") -> "Tensor":
    """Crop and flip uint8 images [B, C, S, S] by their views (int64 [B]); pixels outside the image are 0."""
    import torch

    size = images.shape[-1]
    padded = torch.nn.functional.pad(images, (PAD,) * 4).flatten(2)
    steps = torch.arange(size, device=images.device)
    flip, top, left = views % 2, views // (2 * OFFSETS), views // 2 % OFFSETS
    columns = torch.where(flip[:, None] == 1, steps.flip(0), steps) + left[:, None]
    rows = steps + top[:, None]
    pixels = (rows[:, :, None] * (size + 2 * PAD) + columns[:, None, :]).flatten(1)
    return padded.gather(2, pixels[:, None].expand(-1, images.shape[1], -1)).view(images.shape)
