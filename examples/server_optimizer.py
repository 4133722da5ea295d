"""A server optimizer: steps of equal size in the direction of each parameter's sign."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from fedray import ServerOptimizer


class SignDescent(ServerOptimizer):
    """w ← w + lr · sign(target - w)."""

    label: ClassVar[str] = "sign descent"
    lr: float = Field(0.001, gt=0)
    """Change of each parameter per round."""

    def update(
        self, delta: dict[str, np.ndarray], moments: dict[str, dict[str, np.ndarray]]
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
        """Return the change of each trained parameter; `delta` is target - w. It has no moments."""
        return {name: self.lr * np.sign(array) for name, array in delta.items()}, moments
