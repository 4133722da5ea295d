"""From what happened in a round to the rows of its tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from fedray.client import loss_column
from fedray.data.federation import Federation
from fedray.evaluation import Tally
from fedray.strategies.base import Strategy
from fedray.types import ClientFailure, ClientUpdate, Fault, Row

Outcome: TypeAlias = ClientUpdate | ClientFailure


@dataclass(frozen=True)
class Report:
    """One round's rows, by column name."""

    round: Row
    clients: Sequence[Row]
    classes: Sequence[Row]
    faults: Sequence[Fault] = ()


def report(number: int, outcomes: Sequence[Outcome], tally: Tally | None, data: Federation, size: int) -> Report:
    """`size` is the proxy's bytes: each client of the cohort is sent it, each update brings it back.

    These are the algorithm's bytes. Across the network go fewer: nodes, not clients, exchange weights.
    """
    updates = [outcome for outcome in outcomes if isinstance(outcome, ClientUpdate)]
    row = {
        "round": number,
        "clients": len(updates),
        "failed": len(outcomes) - len(updates),
        "bytes_down": size * len(outcomes),
        "bytes_up": size * len(updates),
    }
    return Report(
        row | (_scores(tally, data) if tally else {}),
        [_client_row(outcome) for outcome in outcomes],
        _class_rows(number, tally, data.test.classes) if tally else [],
        [_fault(outcome) for outcome in outcomes if isinstance(outcome, ClientFailure)],
    )


def loss_columns(strategy: Strategy) -> list[str]:
    """The columns of clients.csv that hold loss terms."""
    return [loss_column(model, term.loss) for model, terms in strategy.active_objectives().items() for term in terms]


def _scores(tally: Tally, data: Federation) -> Row:
    return {
        "accuracy": tally.accuracy,
        "loss": tally.mean_loss,
        "worst_class_accuracy": float(min(a for a in tally.class_accuracy if a == a)),  # NaN is not itself
        "rare_class_accuracy": tally.rare_accuracy(data.held),
    }


def _client_row(outcome: Outcome) -> Row:
    row: Row = {"round": outcome.round, "client": outcome.client, "node": outcome.node}
    if isinstance(outcome, ClientFailure):
        return row | {"failure": outcome.reason, "teacher_passes": 0, "teacher_flops": 0, "teacher_seconds": 0.0}
    metrics: Mapping[str, float] = outcome.metrics
    return row | {
        **metrics,
        "examples": outcome.examples,
        "seconds": round(outcome.seconds, 4),
        "device": outcome.device,
        "peak_bytes": outcome.peak_bytes,
        "teacher_passes": outcome.teacher_passes,
        "teacher_flops": outcome.teacher_flops,
        "teacher_seconds": round(outcome.teacher_seconds, 4),
    }


def _fault(failure: ClientFailure) -> Fault:
    what = "client late" if failure.late else "client failed"
    return Fault(what, f"client {failure.client}", failure.node, "dropped", failure.reason)


def _class_rows(number: int, tally: Tally, names: Sequence[str]) -> list[Row]:
    columns = zip(names, tally.examples.tolist(), tally.class_accuracy.tolist(), strict=True)
    return [
        {"round": number, "class": label, "name": name, "examples": examples, "accuracy": accuracy}
        for label, (name, examples, accuracy) in enumerate(columns)
    ]
