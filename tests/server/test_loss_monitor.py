"""Losses that are not finite, or high for three rounds in a row, are reported once."""

import math
from collections.abc import Sequence

import pytest

from fedray.results.rows import RoundRecord
from fedray.server.loss_monitor import LossMonitor
from fedray.types import Fault

LIMIT = 3 * math.log(10)


def record(number: int, test_loss: float | None = 1.0, clients: Sequence[float] = (1.0,)) -> RoundRecord:
    evaluated = {} if test_loss is None else {"test_loss": test_loss}
    rows = [{"client": client, "loss_cross_entropy": loss} for client, loss in enumerate(clients)]
    return RoundRecord({"round": number, **evaluated}, rows, [])


def faults(*records: RoundRecord, monitor: LossMonitor | None = None) -> list[list[Fault]]:
    checked = monitor or LossMonitor(10)
    return [checked.check(each) for each in records]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_loss_that_is_not_finite_is_reported_in_its_round_and_once(value: float) -> None:
    first, second, third = faults(record(1), record(2, value), record(3, value))
    assert (first, third) == ([], [])
    assert second == [
        Fault(
            "loss diverged", "test_loss", "", "reported",
            f"test_loss of round 2 is {value}; lower training.optimizer.lr, or check the data and the loss.",
        )
    ]  # fmt: skip


def test_loss_term_of_a_client_that_is_not_finite_is_reported() -> None:
    ((fault,),) = faults(record(4, None, [1.0, math.nan]))
    assert (fault.subject, fault.reason.partition(";")[0]) == (
        "client 1",
        "loss_cross_entropy of client 1 in round 4 is nan",
    )


def test_high_loss_is_reported_after_three_rounds_in_a_row() -> None:
    high = LIMIT + 0.01
    found = faults(*(record(n, loss) for n, loss in enumerate([high, high, 1.0, high, high, high, high], start=1)))
    assert [len(each) for each in found] == [0, 0, 0, 0, 0, 1, 0]
    assert found[5][0].reason.startswith(
        "test_loss of round 6 is 6.918, for 3 rounds in a row above 3 ln(classes) = 6.91;"
    )


def test_rounds_without_evaluation_do_not_end_a_row_of_high_losses() -> None:
    losses = [7.0, None, 7.0, None, 7.0]
    assert sum(map(len, faults(*(record(n, loss) for n, loss in enumerate(losses, start=1))))) == 1


def test_mean_of_the_clients_cross_entropy_counts() -> None:
    assert sum(map(len, faults(*(record(n, None, [0.0, 2 * LIMIT + 0.1]) for n in (1, 2, 3))))) == 1
    assert sum(map(len, faults(*(record(n, None, [0.0, 2 * LIMIT - 0.1]) for n in (1, 2, 3))))) == 0


def test_loss_that_an_earlier_process_has_reported_is_not_reported_again() -> None:
    monitor = LossMonitor(10, [{"fault": "worker lost"}, {"fault": "loss diverged"}])
    assert faults(record(9, math.nan), monitor=monitor) == [[]]
