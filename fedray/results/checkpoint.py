"""A run's state on disk: safetensors and JSON, replaced atomically, never a pickle.

checkpoint/round-00012/state.json                which private models belong to it
                       weights.safetensors
           private/00003-00007.safetensors       what client 3 kept of round 7

A private model is written once, as soon as it is there, however many checkpoints it then belongs to, and read when its
client is trained again: they are never in memory all at once.
"""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fedray.errors import writing
from fedray.models.weights import WeightsFile
from fedray.types import ServerState, Weights

Private: TypeAlias = Mapping[int, int]
"""Of each client that keeps something, the last round it was trained in."""

KEPT = 2
"""How many checkpoints there are: should the newest be damaged, the one before is whole."""

DAMAGED = (OSError, ValueError, KeyError, TypeError, SafetensorError)
"""What reading raises where a checkpoint is not whole."""


def private_file(folder: Path, client: int, number: int) -> WeightsFile:
    """What a client kept of a round."""
    return WeightsFile(folder / "private" / f"{client:05d}-{number:05d}.safetensors")


def save_private(folder: Path, client: int, number: int, weights: Weights) -> None:
    """What a client keeps of a round: no checkpoint's yet. Raises RunError where the disk does not take it."""
    file = private_file(folder, client, number).path
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    save_weights(file, weights)


def sweep(folder: Path, now: Private) -> None:
    """Drop the private models that belong neither to a checkpoint nor to where the run stands now.

    Raises RunError where the disk does not let them go.
    """
    kept = set(now.items())
    for candidate in folder.glob("round-*"):
        with suppress(*DAMAGED):
            kept |= _document(candidate)[1].items()
    used = {private_file(folder, *each).path for each in kept}
    with writing(folder):
        for file in (folder / "private").glob("*"):
            if file not in used:
                file.unlink()


def save(folder: Path, state: ServerState, private: Private) -> None:
    """Write this round's state, then drop all but the one before. Killed at any moment, one whole state stays.

    Raises RunError where the disk does not take it.
    """
    keep(write(folder, state, private))


def write(folder: Path, state: ServerState, private: Private) -> Path:
    """Write this round's state to where nobody takes it for one yet: `keep` makes it the newest.

    Raises RunError where the disk does not take it.
    """
    partial = folder / f"partial-{state.round:05d}"
    with writing(partial):
        _write(partial, state, private)
    return partial


def keep(partial: Path) -> None:
    """From now on this is the newest state; drop all but the one before."""
    target = partial.with_name(partial.name.replace("partial", "round"))
    with writing(partial):
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    for old in sorted(partial.parent.glob("round-*"))[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def _write(partial: Path, state: ServerState, private: Private) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_weights(partial / "weights.safetensors", state.weights)
    (partial / "state.json").write_text(json.dumps({"round": state.round, "private": dict(sorted(private.items()))}))


def load(folder: Path) -> tuple[ServerState, dict[int, int]] | None:
    """The newest whole state, and which private models belong to it; None where there is none."""
    for candidate in sorted(folder.glob("round-*"), reverse=True):
        with suppress(*DAMAGED):  # an earlier one may be whole
            number, kept = _document(candidate)
            for each in kept.items():
                private_file(folder, *each).check()
            return ServerState(number, load_file(candidate / "weights.safetensors")), kept
    return None


def _document(checkpoint: Path) -> tuple[int, dict[int, int]]:
    document = json.loads((checkpoint / "state.json").read_text())
    return document["round"], {int(client): number for client, number in dict(document["private"]).items()}


def save_weights(file: Path, weights: Weights) -> None:
    """Write weights so that the file is either whole or absent. Raises RunError where the disk does not take them."""
    partial = file.with_suffix(".partial")
    with writing(file):
        try:
            save_file(weights, partial)
        except SafetensorError as error:  # how safetensors speaks of a full disk
            raise OSError(str(error)) from error
        with partial.open("rb") as handle:
            os.fsync(handle.fileno())
        partial.replace(file)
