"""Checkpoints of a run: safetensors and JSON, replaced atomically, never a pickle.

checkpoint/round-00012/state.json                the round, the round of each client's state, and a checksum of the
                                                 rows of each table up to the round
                       weights.safetensors       the global weights
                       extra.safetensors         the strategy's own groups of arrays, if it has any
                       moments.safetensors       the server optimizer's groups of arrays, if it has any
           clients/00003-00007.safetensors       state of client 3 after round 7

A client's state is written once, after the client's training, and belongs to every later checkpoint until the client
trains again. It is read only when the client trains, so the states are never all in memory.
"""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TypeAlias

from fedray.errors import RunError, writing
from fedray.models.weights import GroupsFile, WeightsFile
from fedray.results.documents import read_document, write_document
from fedray.results.writer import TablePrefix, differing_tables
from fedray.types import ArrayGroups, ServerState

StateRounds: TypeAlias = Mapping[int, int]
"""Round in which each client that has state last trained, by client id."""

MAX_CHECKPOINTS = 2
"""Number of checkpoints on disk. If the newest is damaged, the one before it is loaded."""

STATE = "state.json"

DAMAGED = (OSError, ValueError, KeyError, TypeError, RunError)
"""Errors that reading a damaged or incomplete checkpoint raises."""


def client_file(folder: Path, client: int, number: int) -> GroupsFile:
    """Return the file of a client's state after round `number`."""
    return GroupsFile(folder / "clients" / f"{client:05d}-{number:05d}.safetensors")


def save_client(folder: Path, client: int, number: int, state: ArrayGroups) -> None:
    """Write a client's state, which no checkpoint refers to yet. Raises RunError if it cannot be written."""
    file = client_file(folder, client, number)
    with writing(file.path):
        file.path.parent.mkdir(parents=True, exist_ok=True)
    file.write(state)


def delete_unused(folder: Path, current: StateRounds) -> None:
    """Delete states of clients that neither a checkpoint nor the current state refers to.

    Raises RunError if a file cannot be deleted.
    """
    referenced = set(current.items())
    for checkpoint in folder.glob("round-*"):
        with suppress(*DAMAGED):
            referenced |= _read_state(checkpoint)[1].items()
    used = {client_file(folder, client, number).path for client, number in referenced}
    with writing(folder):
        for file in (folder / "clients").glob("*"):
            if file not in used:
                file.unlink()


def save(folder: Path, state: ServerState, rounds: StateRounds) -> None:
    """Write a checkpoint, then delete all but the one before it. Raises RunError if it cannot be written.

    If the process is killed at any point, one complete checkpoint stays on disk.
    """
    commit(write(folder, state, rounds), {})


def write(folder: Path, state: ServerState, rounds: StateRounds) -> Path:
    """Write a checkpoint that `load` does not see until `commit` is called. Return its folder.

    Raises RunError if it cannot be written.
    """
    partial = folder / f"partial-{state.round:05d}"
    with writing(partial):
        _write(partial, state, rounds)
    return partial


def commit(partial: Path, tables: Mapping[str, TablePrefix]) -> None:
    """Commit a written checkpoint as the newest, and delete all but the one before it.

    `tables`: the rows of each table up to its round, by file name.
    """
    target = partial.with_name(partial.name.replace("partial", "round"))
    document, _ = read_document(partial / STATE)
    write_document(partial / STATE, document | {"tables": {name: asdict(prefix) for name, prefix in tables.items()}})
    with writing(partial):
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    for old in _committed(partial.parent)[:-MAX_CHECKPOINTS]:
        shutil.rmtree(old, ignore_errors=True)


def _write(partial: Path, state: ServerState, rounds: StateRounds) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    WeightsFile(partial / "weights.safetensors").write(state.weights)
    groups = {name: groups for name, groups in (("extra", state.extra), ("moments", state.moments)) if groups}
    for name, arrays in groups.items():
        GroupsFile(partial / f"{name}.safetensors").write(arrays)
    clients = {str(client): number for client, number in sorted(rounds.items())}
    write_document(partial / STATE, {"round": state.round, "groups": sorted(groups), "clients": clients})


def load(folder: Path, tables: Path | None = None) -> tuple[ServerState, dict[int, int]] | None:
    """Return the newest complete checkpoint: its state and the rounds of its clients' states. None without one.

    Checkpoints are ignored if a table in the folder `tables` lacks rows before them, or has others.
    """
    for checkpoint in reversed(_committed(folder)):
        with suppress(*DAMAGED):  # the checkpoint before it may be complete
            if tables is not None and differing_tables(tables, _table_prefixes(checkpoint)):
                continue
            number, rounds, groups = _read_state(checkpoint)
            for client, client_round in rounds.items():
                client_file(folder, client, client_round).read()  # only to verify it
            extra, moments = (
                GroupsFile(checkpoint / f"{name}.safetensors").read() if name in groups else {}
                for name in ("extra", "moments")
            )
            weights = WeightsFile(checkpoint / "weights.safetensors").read()
            return ServerState(number, weights, extra, moments), rounds
    return None


def _table_prefixes(checkpoint: Path) -> dict[str, TablePrefix]:
    """Return the rows of each table up to a checkpoint by file name; none in one of an earlier version.

    Raises SpecError or TypeError if it is damaged.
    """
    document, _ = read_document(checkpoint / STATE)
    return {name: TablePrefix(**prefix) for name, prefix in dict(document.get("tables", {})).items()}


def tables_differing_from(checkpoints: Path, number: int, tables: Path) -> list[str]:
    """Return the tables in a folder that lack rows, or have others, before the checkpoint of a round."""
    return differing_tables(tables, _table_prefixes(checkpoints / f"round-{number:05d}"))


def _committed(folder: Path) -> list[Path]:
    """Return the folders of committed checkpoints by round. Names are padded to five digits, so text does not sort."""
    rounds = {checkpoint: checkpoint.name.removeprefix("round-") for checkpoint in folder.glob("round-*")}
    return sorted((each for each, number in rounds.items() if number.isdigit()), key=lambda each: int(rounds[each]))


def _read_state(checkpoint: Path) -> tuple[int, dict[int, int], list[str]]:
    """Return the round of a checkpoint, the round of each client's state, and the names of its groups' files."""
    document, _ = read_document(checkpoint / STATE)
    rounds = {int(client): number for client, number in dict(document["clients"]).items()}
    return document["round"], rounds, list(document["groups"])
