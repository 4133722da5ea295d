"""The small CNN of the FedAvg paper (McMahan et al., arXiv 1602.05629)."""

from collections.abc import Callable

from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Two 5x5 convolutions with 32 and 64 channels, each followed by 2x2 max-pooling; then 512 hidden units.

    `norm` builds a normalisation layer for a number of channels; None leaves it out. Images are at least 4x4 pixels.
    """

    def __init__(self, channels: int, size: int, classes: int, norm: Callable[[int], nn.Module] | None = None) -> None:
        super().__init__()
        self.features = nn.Sequential(*_block(channels, 32, norm), *_block(32, 64, norm))
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(64 * (size // 4) ** 2, 512), nn.ReLU(), nn.Linear(512, classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Float [B, channels, size, size] -> logits [B, classes]."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


def _block(inputs: int, outputs: int, norm: Callable[[int], nn.Module] | None) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel_size=5, padding=2)
    normalised = [convolution, norm(outputs)] if norm else [convolution]
    # Pooling before ReLU gives the same bits as after it, and ReLU then works on a quarter of the values.
    return [*normalised, nn.MaxPool2d(2), nn.ReLU()]
