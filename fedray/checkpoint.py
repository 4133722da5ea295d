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

from fedray.types import ServerState, Weights


def save(folder: Path, state: ServerState, private: Iterable[tuple[int, Weights]]) -> None:
    """Write this round's state, then drop earlier ones. Killed at any moment, one whole state stays."""
    target = folder / f"round-{state.round:05d}"
    partial = folder / f"partial-{state.round:05d}"
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "private").mkdir(parents=True)
    save_weights(partial / "weights.safetensors", state.weights)
    clients = []
    for client, weights in private:
        save_weights(partial / "private" / f"{client:05d}.safetensors", weights)
        clients.append(client)
    (partial / "state.json").write_text(json.dumps({"round": state.round, "private": clients}))
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for old in sorted(folder.glob("round-*")):
        if old != target:
            shutil.rmtree(old, ignore_errors=True)


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
    """Write weights so that the file is either whole or absent."""
    partial = file.with_suffix(".partial")
    save_file(weights, partial)
    with partial.open("rb") as handle:
        os.fsync(handle.fileno())
    partial.replace(file)
