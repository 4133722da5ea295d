"""Reports, at most once in a run, losses that are not finite or that stay far above those of uniform guessing."""

import math
from collections.abc import Iterable

from fedray.results.rows import RoundRecord
from fedray.types import Fault, Row

MAX_GUESSING_LOSSES = 3
"""A loss is high above this multiple of ln(classes), the cross-entropy of equal probabilities for all classes."""
MAX_HIGH_ROUNDS = 3
"""Rounds in a row with a high loss after which it is reported."""

FAULT = "loss diverged"


class LossMonitor:
    """Checks the test loss and the clients' mean cross-entropy for high values, and all losses for infinity and NaN."""

    def __init__(self, classes: int, reported: Iterable[Row] = ()) -> None:
        """`reported`: rows of faults.csv, in which an earlier process of the run may have reported its losses."""
        self._limit = MAX_GUESSING_LOSSES * math.log(classes)
        self._high_rounds = {"test_loss": 0, "loss_cross_entropy": 0}
        self._is_reported = any(row.get("fault") == FAULT for row in reported)

    def check(self, record: RoundRecord) -> list[Fault]:
        """Return a fault if the losses of a round are to be reported; at most one in a run."""
        if self._is_reported or not (found := self._not_finite(record) or self._high(record)):
            return []
        self._is_reported = True
        subject, reason = found
        return [
            Fault(
                FAULT,
                subject,
                "",
                "reported",
                f"{reason}; lower training.optimizer.lr, or check the data and the loss.",
            )
        ]

    def _not_finite(self, record: RoundRecord) -> tuple[str, str] | None:
        number = record.round["round"]
        if not math.isfinite(record.round.get("test_loss", 0.0)):
            return "test_loss", f"test_loss of round {number} is {record.round['test_loss']}"
        for row in record.clients:
            for name, value in row.items():
                if name.startswith("loss_") and not math.isfinite(value):
                    return f"client {row['client']}", f"{name} of client {row['client']} in round {number} is {value}"
        return None

    def _high(self, record: RoundRecord) -> tuple[str, str] | None:
        """Count the rounds in a row with a high loss; a round without a value does not reset the count."""
        trained = [row["loss_cross_entropy"] for row in record.clients if "loss_cross_entropy" in row]
        losses = {"loss_cross_entropy": sum(trained) / len(trained)} if trained else {}
        if "test_loss" in record.round:
            losses["test_loss"] = record.round["test_loss"]
        for name, value in losses.items():
            self._high_rounds[name] = self._high_rounds[name] + 1 if value > self._limit else 0
            if self._high_rounds[name] == MAX_HIGH_ROUNDS:
                limit = f"{MAX_HIGH_ROUNDS} rounds in a row above {MAX_GUESSING_LOSSES} ln(classes) = {self._limit:.2f}"
                return name, f"{name} of round {record.round['round']} is {value:.4g}, for {limit}"
        return None
