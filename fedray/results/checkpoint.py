"""Checkpoints of a run: safetensors and JSON, replaced atomically, never a pickle.

checkpoint/round-00012/state.json                the round, and the round of each client's private weights
                       weights.safetensors       the global weights
           private/00003-00007.safetensors       private weights of client 3 after round 7

Private weights are written once, after the client's training, and belong to every later checkpoint until the client
trains again. They are read only when the client trains, so they are never all in memory.
"""

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from fedray.errors import RunError, writing
from fedray.models.weights import WeightsFile
from fedray.types import ServerState, Weights

Private: TypeAlias = Mapping[int, int]
"""Round in which each client with private weights last trained, by client id."""

MAX_CHECKPOINTS = 2
"""Number of checkpoints on disk. If the newest is damaged, the one before it is loaded."""

DAMAGED = (OSError, ValueError, KeyError, TypeError, RunError)
"""Errors that reading a damaged or incomplete checkpoint raises."""


def private_file(folder: Path, client: int, number: int) -> WeightsFile:
    """Return the file of a client's private weights after round `number`."""
    return WeightsFile(folder / "private" / f"{client:05d}-{number:05d}.safetensors")


def save_private(folder: Path, client: int, number: int, weights: Weights) -> None:
    """Write a client's private weights, which no checkpoint refers to yet. Raises RunError if it cannot be written."""
    file = private_file(folder, client, number).path
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    private_file(folder, client, number).write(weights)


def delete_unused(folder: Path, current: Private) -> None:
    """Delete private weights that neither a checkpoint nor the current state refers to.

    Raises RunError if a file cannot be deleted.
    """
    referenced = set(current.items())
    for checkpoint in folder.glob("round-*"):
        with suppress(*DAMAGED):
            referenced |= _read_state(checkpoint)[1].items()
    used = {private_file(folder, client, number).path for client, number in referenced}
    with writing(folder):
        for file in (folder / "private").glob("*"):
            if file not in used:
                file.unlink()


def save(folder: Path, state: ServerState, private: Private) -> None:
    """Write a checkpoint, then delete all but the one before it. Raises RunError if it cannot be written.

    If the process is killed at any point, one complete checkpoint stays on disk.
    """
    commit(write(folder, state, private))


def write(folder: Path, state: ServerState, private: Private) -> Path:
    """Write a checkpoint that `load` does not see until `commit` is called. Return its folder.

    Raises RunError if it cannot be written.
    """
    partial = folder / f"partial-{state.round:05d}"
    with writing(partial):
        _write(partial, state, private)
    return partial


def commit(partial: Path) -> None:
    """Commit a written checkpoint as the newest, and delete all but the one before it."""
    target = partial.with_name(partial.name.replace("partial", "round"))
    with writing(partial):
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    for old in _committed(partial.parent)[:-MAX_CHECKPOINTS]:
        shutil.rmtree(old, ignore_errors=True)


def _write(partial: Path, state: ServerState, private: Private) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    WeightsFile(partial / "weights.safetensors").write(state.weights)
    (partial / "state.json").write_text(json.dumps({"round": state.round, "private": dict(sorted(private.items()))}))


def load(folder: Path, last_round: int | None = None) -> tuple[ServerState, dict[int, int]] | None:
    """Return the newest complete checkpoint: its state and the rounds of its private weights. None without one.

    Checkpoints after `last_round` are ignored.
    """
    for checkpoint in reversed(_committed(folder)):
        with suppress(*DAMAGED):  # the checkpoint before it may be complete
            number, private = _read_state(checkpoint)
            if last_round is not None and number > last_round:
                continue
            for client, private_round in private.items():
                private_file(folder, client, private_round).read()  # only to verify it
            return ServerState(number, WeightsFile(checkpoint / "weights.safetensors").read()), private
    return None


def _committed(folder: Path) -> list[Path]:
    """Return the folders of committed checkpoints by round. Names are padded to five digits, so text does not sort."""
    rounds = {checkpoint: checkpoint.name.removeprefix("round-") for checkpoint in folder.glob("round-*")}
    return sorted((each for each, number in rounds.items() if number.isdigit()), key=lambda each: int(rounds[each]))


def _read_state(checkpoint: Path) -> tuple[int, dict[int, int]]:
    """Return the round of a checkpoint and the rounds of its private weights, by client."""
    document = json.loads((checkpoint / "state.json").read_text())
    return document["round"], {int(client): number for client, number in dict(document["private"]).items()}
