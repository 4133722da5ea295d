"""A run's state on disk: safetensors and JSON, replaced atomically, never a pickle.

checkpoint/round-00012/state.json
                       weights.safetensors
                       private/00003.safetensors   one per client that has a private model
"""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fedray.errors import writing
from fedray.types import ServerState, Weights

KEPT = 2
"""How many checkpoints there are: should the newest be damaged, the one before is whole."""


def save(folder: Path, state: ServerState, private: Iterable[tuple[int, Weights]]) -> None:
    """Write this round's state, then drop all but the one before. Killed at any moment, one whole state stays.

    Raises RunError where the disk does not take it.
    """
    keep(write(folder, state, private))


def write(folder: Path, state: ServerState, private: Iterable[tuple[int, Weights]]) -> Path:
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


def _write(partial: Path, state: ServerState, private: Iterable[tuple[int, Weights]]) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "private").mkdir(parents=True)
    save_weights(partial / "weights.safetensors", state.weights)
    clients = []
    for client, weights in private:
        save_weights(partial / "private" / f"{client:05d}.safetensors", weights)
        clients.append(client)
    (partial / "state.json").write_text(json.dumps({"round": state.round, "private": clients}))


def load(folder: Path) -> tuple[ServerState, dict[int, Weights]] | None:
    """The newest whole state and the private models; None where there is none."""
    for candidate in sorted(folder.glob("round-*"), reverse=True):
        try:
            document = json.loads((candidate / "state.json").read_text())
            private = {c: load_file(candidate / "private" / f"{c:05d}.safetensors") for c in document["private"]}
            return ServerState(document["round"], load_file(candidate / "weights.safetensors")), private
        except (OSError, ValueError, KeyError, SafetensorError):
            continue  # damaged: an earlier one may be whole
    return None


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
