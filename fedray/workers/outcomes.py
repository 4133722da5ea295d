"""The report of a worker on one client: the metrics and costs of its update, or its failure."""

import platform
import time
import traceback
from collections.abc import Mapping

import torch

from fedray.errors import RefusedError
from fedray.models.weights import distance, nbytes
from fedray.teachers.pool import peak_bytes
from fedray.teachers.targets import OnlineTargets
from fedray.training.context import ClientContext, ClientResult
from fedray.types import ClientFailure, ClientUpdate
from fedray.workers.client_models import Targets
from fedray.workers.requests import ClientTask
from fedray.workers.try_batch import is_of_machine


def client_update(
    context: ClientContext,
    metrics: Mapping[str, float],
    result: ClientResult,
    targets: Targets,
    device: torch.device,
    start_s: float,
) -> ClientUpdate:
    """Describe a client's update. `start_s` is `time.perf_counter()` before its preparation."""
    online = targets if isinstance(targets, OnlineTargets) else None
    shared = [name for name in context.trained(context.weights) if name in result.messages["weights"].arrays]
    return ClientUpdate(
        client=context.client,
        round=context.round,
        examples=context.examples,
        metrics={**metrics, "update_norm": distance(context.weights, context.received, shared)},
        seconds=time.perf_counter() - start_s,
        node=platform.node(),
        device=str(device),
        steps=context.steps,
        message_bytes=nbytes({name: message.arrays for name, message in result.messages.items()}),
        peak_bytes=peak_bytes(device),
        teacher_forward_passes=online.forward_passes if online else 0,
        teacher_flops=online.flops if online else 0,
        teacher_seconds=online.seconds if online else 0.0,
    )


def client_failure(task: ClientTask, error: Exception) -> ClientFailure:
    """Describe an error of a client, with its traceback unless a check of fedray raised it."""
    if isinstance(error, RefusedError):  # its traceback is not informative
        return ClientFailure(task.client, task.round, platform.node(), str(error), is_repeatable=True)
    reason = f"{type(error).__name__}: {error}"
    return ClientFailure(
        task.client, task.round, platform.node(), reason, traceback.format_exc(),
        is_repeatable=not (isinstance(error, OSError) or is_of_machine(error)),
    )  # fmt: skip
