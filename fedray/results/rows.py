"""From what happened in a round to the rows of its tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedray.data.federated import FederatedDataset
from fedray.strategies.base import Strategy
from fedray.training.evaluation import EvalCounts
from fedray.types import ClientFailure, ClientUpdate, Fault, Outcome, Row, loss_column


@dataclass(frozen=True)
class RoundRecord:
    """One round's rows, by column name."""

    round: Row
    clients: Sequence[Row]
    classes: Sequence[Row]
    faults: Sequence[Fault] = ()
    confusion: Sequence[Row] = ()


def round_record(
    number: int, outcomes: Sequence[Outcome], tally: EvalCounts | None, data: FederatedDataset, size: int
) -> RoundRecord:
    """`size` is the proxy's bytes: each client of the cohort is sent it, each update brings it back.

    These are the algorithm's bytes. Across the network go fewer: nodes, not clients, exchange weights.
    """
    updates = [outcome for outcome in outcomes if isinstance(outcome, ClientUpdate)]
    row = {
        "round": number,
        "clients": len(updates),
        "failed_clients": len(outcomes) - len(updates),
        "bytes_down": size * len(outcomes),
        "bytes_up": size * len(updates),
    }
    return RoundRecord(
        row | (_scores(tally, data) if tally else {}),
        [_client_row(outcome) for outcome in outcomes],
        _class_rows(number, tally, data.test.classes) if tally else [],
        [_fault_of(outcome) for outcome in outcomes if isinstance(outcome, ClientFailure)],
        [{"round": number} | pair for pair in tally.confusion()] if tally else [],
    )


def update_statistics(strategy: Strategy, outcomes: Sequence[Outcome], moved: float) -> Row:
    """How far clients agree on where to go, from the lengths of their updates Δᵢ and of their mean.

    With pᵢ the weights of the average and `update_norm` = ‖Σ pᵢΔᵢ‖ (`moved`):
    `update_drift` = (Σ pᵢ‖Δᵢ − mean‖²)^½ = (Σ pᵢ‖Δᵢ‖² − ‖mean‖²)^½, and
    `update_cosine` = ‖mean‖ / Σ pᵢ‖Δᵢ‖, which is the mean of their cosines to the mean update, each
    weighted by pᵢ‖Δᵢ‖. Over the proxy's parameters, not its buffers.
    """
    updates = [outcome for outcome in outcomes if isinstance(outcome, ClientUpdate)]
    shares = [(strategy.weight(update.examples), update.metrics["update_norm"]) for update in updates]
    total = sum(weight for weight, _ in shares) or 1
    length = math.fsum(weight * norm for weight, norm in shares) / total
    squares = math.fsum(weight * norm**2 for weight, norm in shares) / total
    return {
        "update_norm": moved,
        "update_drift": math.sqrt(max(squares - moved**2, 0.0)),
        "update_cosine": min(moved / length, 1.0) if length else math.nan,
    }


def loss_columns(strategy: Strategy) -> list[str]:
    """The columns of clients.csv that hold loss terms."""
    return [loss_column(model, term.loss) for model, terms in strategy.active_objectives().items() for term in terms]


def _scores(tally: EvalCounts, data: FederatedDataset) -> Row:
    return {
        "test_accuracy": tally.accuracy,
        "test_loss": tally.mean_loss,
        "worst_class_accuracy": float(min(a for a in tally.class_accuracy if a == a)),  # NaN is not itself
        "rare_class_accuracy": tally.rare_accuracy(data.class_counts),
    }


def _client_row(outcome: Outcome) -> Row:
    row: Row = {"round": outcome.round, "client": outcome.client, "node": outcome.node}
    if isinstance(outcome, ClientFailure):
        return row | {
            "failure": outcome.reason,
            "teacher_forward_passes": 0,
            "teacher_flops": 0,
            "teacher_seconds": 0.0,
        }
    metrics: Mapping[str, float] = outcome.metrics
    return row | {
        **metrics,
        "examples": outcome.examples,
        "seconds": round(outcome.seconds, 4),
        "device": outcome.device,
        "peak_bytes": outcome.peak_bytes,
        "teacher_forward_passes": outcome.teacher_forward_passes,
        "teacher_flops": outcome.teacher_flops,
        "teacher_seconds": round(outcome.teacher_seconds, 4),
    }


def _fault_of(failure: ClientFailure) -> Fault:
    what = "client late" if failure.late else "client failed"
    return Fault(what, f"client {failure.client}", failure.node, "dropped", failure.reason)


def _class_rows(number: int, tally: EvalCounts, names: Sequence[str]) -> list[Row]:
    columns = zip(names, tally.examples.tolist(), tally.class_accuracy.tolist(), strict=True)
    return [
        {"round": number, "class": label, "class_name": name, "examples": examples, "test_accuracy": accuracy}
        for label, (name, examples, accuracy) in enumerate(columns)
    ]
