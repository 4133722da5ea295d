"""Rows of the result tables of one round."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedray.strategies.base import Strategy
from fedray.training.metrics import RoundMetrics
from fedray.types import ClientFailure, ClientUpdate, Fault, Outcome, Row, loss_column


@dataclass(frozen=True)
class RoundRecord:
    """The rows of one round, each by column name."""

    round: Row
    clients: Sequence[Row]
    classes: Sequence[Row]
    faults: Sequence[Fault] = ()
    confusion: Sequence[Row] = ()
    accuracies: Sequence[Row] = ()
    """The rows of client_accuracy.csv."""


def round_record(
    number: int, outcomes: Sequence[Outcome], metrics: RoundMetrics | None, names: Sequence[str], size: int
) -> RoundRecord:
    """Return the rows of a round. `metrics` is None in a round without evaluation; `names` are those of the classes;
    `size` is that of the broadcast in bytes.

    The columns `bytes_down` and `bytes_up` are those of the algorithm: the broadcast (the proxy, and a strategy's own
    arrays) to each client of the cohort, and all messages of each client back. The network transfers fewer bytes,
    because nodes and not clients exchange arrays.
    """
    updates = [outcome for outcome in outcomes if isinstance(outcome, ClientUpdate)]
    row = {
        "round": number,
        "clients": len(updates),
        "failed_clients": len(outcomes) - len(updates),
        "bytes_down": size * len(outcomes),
        "bytes_up": sum(update.message_bytes for update in updates),
    }
    return RoundRecord(
        row | (_metrics(metrics) if metrics else {}),
        [_client_row(outcome) for outcome in outcomes],
        _class_rows(number, metrics, names) if metrics else [],
        [_fault_of(outcome) for outcome in outcomes if isinstance(outcome, ClientFailure)],
        [{"round": number} | pair for pair in metrics.confusion()] if metrics else [],
        _accuracy_rows(number, metrics) if metrics else [],
    )


def update_statistics(strategy: Strategy, outcomes: Sequence[Outcome], update_norm: float) -> Row:
    """Return the agreement of the client updates Δᵢ, from their norms and `update_norm`, the norm of their mean.

    With aggregation weights pᵢ and the mean update Δ = Σ pᵢΔᵢ, over the proxy's parameters without buffers:
    - `update_norm` = ‖Δ‖
    - `update_drift` = (Σ pᵢ‖Δᵢ − Δ‖²)^½ = (Σ pᵢ‖Δᵢ‖² − ‖Δ‖²)^½
    - `update_cosine` = ‖Δ‖ / Σ pᵢ‖Δᵢ‖: mean cosine between Δᵢ and Δ with weights pᵢ‖Δᵢ‖
    """
    updates = [outcome for outcome in outcomes if isinstance(outcome, ClientUpdate)]
    weighted = [(strategy.weight(update.examples), update.metrics["update_norm"]) for update in updates]
    total = sum(weight for weight, _ in weighted) or 1
    mean_norm = math.fsum(weight * norm for weight, norm in weighted) / total
    mean_square = math.fsum(weight * norm**2 for weight, norm in weighted) / total
    return {
        "update_norm": update_norm,
        "update_drift": math.sqrt(max(mean_square - update_norm**2, 0.0)),
        "update_cosine": min(update_norm / mean_norm, 1.0) if mean_norm else math.nan,
    }


def loss_columns(strategy: Strategy) -> list[str]:
    """Return the columns of clients.csv for the terms of the strategy's losses."""
    objectives = [strategy.phase_objectives(phase) for phase in strategy.phases()]
    columns = [
        loss_column(model, t.loss) for by_model in objectives for model, terms in by_model.items() for t in terms
    ]
    return list(dict.fromkeys(columns))


def _metrics(metrics: RoundMetrics) -> Row:
    return {
        "test_accuracy": metrics.accuracy,
        "test_loss": metrics.mean_loss,
        "worst_class_accuracy": float(min(a for a in metrics.class_accuracy if a == a)),  # NaN: class without examples
        "rare_class_accuracy": metrics.rare_accuracy,
        "evaluated_model": metrics.model,
        **metrics.fairness(),
    }


def _client_row(outcome: Outcome) -> Row:
    row: Row = {"round": outcome.round, "client": outcome.client, "node": outcome.node}
    if isinstance(outcome, ClientFailure):
        no_costs = {"teacher_forward_passes": 0, "teacher_flops": 0, "teacher_seconds": 0.0}
        return row | {"failure": outcome.reason} | no_costs
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
    kind = "client late" if failure.late else "client failed"
    return Fault(kind, f"client {failure.client}", failure.node, "dropped", failure.reason)


def _accuracy_rows(number: int, metrics: RoundMetrics) -> list[Row]:
    accuracies = zip(metrics.clients, metrics.client_accuracy.tolist(), strict=True)
    return [{"round": number, "client": client, "test_accuracy": accuracy} for client, accuracy in accuracies]


def _class_rows(number: int, metrics: RoundMetrics, names: Sequence[str]) -> list[Row]:
    columns = zip(names, metrics.examples.tolist(), metrics.class_accuracy.tolist(), strict=True)
    return [
        {"round": number, "class": label, "class_name": name, "examples": examples, "test_accuracy": accuracy}
        for label, (name, examples, accuracy) in enumerate(columns)
    ]
