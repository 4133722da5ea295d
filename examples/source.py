"""A source of images: horizontal and vertical stripes with noise."""

import numpy as np

from fedray import ReadRequest


def stripes(argument: str, request: ReadRequest) -> tuple[np.ndarray, np.ndarray, tuple[str, str]]:
    """Return images [N, 8, 8], labels [N] and class names, N the argument, as in `examples.source:stripes:400`."""
    count = int(argument or 400)
    rng = np.random.default_rng([count, request.side == "test"])  # the same images in every process
    labels = np.arange(count) % 2
    pattern = np.tile([0, 1], (8, 4))  # columns alternate
    images = np.where(labels[:, None, None] == 1, pattern, pattern.T) * 100 + rng.integers(0, 156, (count, 8, 8))
    return images.astype(np.uint8), labels, ("horizontal", "vertical")
