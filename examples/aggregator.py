"""An aggregation rule: the weighted mean after extreme values of each coordinate are replaced by quantiles."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from fedray import Aggregator


class WinsorizedMean(Aggregator):
    """Clips the values of each coordinate to two quantiles, and takes the weighted mean."""

    label: ClassVar[str] = "winsorized mean"
    needs_all: ClassVar[bool] = True  # the rule needs every client's weights, not only their sum
    tail: float = Field(0.1, ge=0, lt=0.5)
    """Share of the clients in each tail."""

    def reduce(self, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Combine rows [clients, n] with weights [clients] into [n]."""
        low, high = np.quantile(rows, [self.tail, 1 - self.tail], axis=0)
        limited: np.ndarray = weights[:, None] * np.clip(rows, low, high)
        return limited.sum(axis=0)
