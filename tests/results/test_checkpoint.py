"""Checkpoints: atomic replacement, damaged files, states of clients."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fedray.errors import RunError
from fedray.results import checkpoint
from fedray.types import ServerState, Weights


def weights(value: float) -> Weights:
    return {"w": np.full((2, 3), value, np.float32), "n": np.array(7, np.int64)}


def test_load_returns_the_saved_state(tmp_path: Path) -> None:
    checkpoint.save_client(tmp_path, 3, 12, {"private": weights(1.5)})
    checkpoint.save_client(tmp_path, 0, 7, {"private": weights(2.5)})
    checkpoint.save(tmp_path, ServerState(12, weights(0.5)), {3: 12, 0: 7})
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    state, rounds = loaded
    assert state.round == 12
    assert state.weights["w"].tolist() == [[0.5] * 3] * 2
    assert state.weights["n"] == 7
    assert state.weights["n"].dtype == np.int64
    assert rounds == {3: 12, 0: 7}
    read = {client: checkpoint.client_file(tmp_path, client, number).read() for client, number in rounds.items()}
    assert {client: state["private"]["w"][0, 0] for client, state in read.items()} == {0: 2.5, 3: 1.5}


def test_save_keeps_the_last_two_checkpoints(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        checkpoint.save(tmp_path, ServerState(number, weights(number)), {})
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["round-00002", "round-00003"]


@pytest.mark.parametrize("document", ["", "[]", '{"round": 4}', '{"round": 4, "clients": [0, 1]}'])
def test_damaged_state_file_is_not_loaded(document: str, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, ServerState(4, weights(1)), {})
    (tmp_path / "round-00004" / "state.json").write_text(document)
    assert checkpoint.load(tmp_path) is None


def test_load_returns_none_without_a_folder(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "nowhere") is None


def test_uncommitted_checkpoint_is_ignored_and_replaced(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, ServerState(1, weights(1)), {})
    (tmp_path / "partial-00002").mkdir()
    (tmp_path / "partial-00002" / "state.json").write_text('{"round": 2, "groups": [], "clients": {}}')
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    assert loaded[0].round == 1
    checkpoint.save(tmp_path, ServerState(2, weights(2)), {})
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    assert loaded[0].round == 2


def test_load_skips_a_damaged_checkpoint(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a", ServerState(2, weights(2)), {})
    checkpoint.save(tmp_path / "b", ServerState(1, weights(1)), {})
    (tmp_path / "b" / "round-00001").rename(tmp_path / "a" / "round-00001")
    file = tmp_path / "a" / "round-00002" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    loaded = checkpoint.load(tmp_path / "a")
    assert loaded is not None
    assert loaded[0].round == 1


def test_checkpoint_with_damaged_client_state_is_skipped(tmp_path: Path) -> None:
    for number in (1, 2):
        checkpoint.save_client(tmp_path, 5, number, {"own": weights(number)})
        checkpoint.save(tmp_path, ServerState(number, weights(number)), {5: number})

    def loaded_round() -> int:
        loaded = checkpoint.load(tmp_path)
        return loaded[0].round if loaded else 0

    newest = checkpoint.client_file(tmp_path, 5, 2).path
    content = newest.read_bytes()
    assert loaded_round() == 2
    newest.write_bytes(content[:-1])
    assert loaded_round() == 1
    newest.unlink()
    assert loaded_round() == 1
    checkpoint.client_file(tmp_path, 5, 1).path.unlink()
    assert loaded_round() == 0
    newest.write_bytes(content)
    assert loaded_round() == 2


def test_unused_client_state_are_deleted(tmp_path: Path) -> None:
    """Client 0 trains in all five rounds, client 1 in the first only; every second round is saved."""
    for number in (1, 2, 3, 4, 5):
        current = {0: number, 1: 1}
        checkpoint.save_client(tmp_path, 0, number, {"own": weights(number)})
        if number == 1:
            checkpoint.save_client(tmp_path, 1, number, {"own": weights(9)})
        if number % 2 == 0:
            checkpoint.save(tmp_path, ServerState(number, weights(number)), current)
        checkpoint.delete_unused(tmp_path, current)
    assert sorted(file.stem for file in (tmp_path / "clients").iterdir()) == [
        "00000-00002", "00000-00004", "00000-00005", "00001-00001"
    ]  # fmt: skip


def test_unreadable_client_state_are_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"00003-00012.safetensors' cannot be read"):
        checkpoint.client_file(tmp_path, 3, 12).read()


def test_unwritable_client_state_give_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "clients").touch()
    with pytest.raises(RunError, match=r"00003-00012.safetensors' cannot be written \(File exists\)"):
        checkpoint.save_client(tmp_path, 3, 12, {"own": weights(1)})


def test_written_checkpoint_is_loaded_after_commit(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, ServerState(1, weights(1)), {})
    partial = checkpoint.write(tmp_path, ServerState(2, weights(2)), {})
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    assert loaded[0].round == 1
    checkpoint.commit(partial, {})
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    assert (loaded[0].round, loaded[0].weights["w"][0, 0]) == (2, 2.0)


def flip_bit(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("position", [-1, -9, -25])
def test_one_flipped_bit_of_the_weights_makes_load_use_the_older_checkpoint(tmp_path: Path, position: int) -> None:
    for number in (1, 2):
        checkpoint.save(tmp_path, ServerState(number, weights(number)), {})
    flip_bit(tmp_path / "round-00002" / "weights.safetensors", position)
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    assert loaded[0].round == 1


def test_one_flipped_bit_of_client_state_is_found(tmp_path: Path) -> None:
    for number in (1, 2):
        checkpoint.save_client(tmp_path, 5, number, {"own": weights(number)})
        checkpoint.save(tmp_path, ServerState(number, weights(number)), {5: number})
    file = checkpoint.client_file(tmp_path, 5, 2)
    flip_bit(file.path, -1)
    with pytest.raises(RunError, match=r"00005-00002\.safetensors' is damaged: its contents differ from its checksum"):
        file.read()
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    assert (loaded[0].round, loaded[1]) == (1, {5: 1})


def test_weights_without_a_checksum_are_damaged(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, ServerState(1, weights(1)), {})
    save_file(weights(1), tmp_path / "round-00001" / "weights.safetensors")
    assert checkpoint.load(tmp_path) is None


def test_rounds_are_ordered_as_numbers(tmp_path: Path) -> None:
    for number in (99_998, 99_999, 100_000, 100_001):
        checkpoint.save(tmp_path, ServerState(number, weights(1)), {})
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["round-100000", "round-100001"]
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    assert loaded[0].round == 100_001


def test_load_returns_the_groups_of_the_strategy_and_the_server_optimizer(tmp_path: Path) -> None:
    extra, moments = {"control": weights(1), "other": weights(2)}, {"first": weights(3)}
    checkpoint.save(tmp_path, ServerState(1, weights(0), extra, moments), {})
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    assert {name: group["w"][0, 0] for name, group in loaded[0].extra.items()} == {"control": 1, "other": 2}
    assert loaded[0].moments["first"]["w"].tolist() == [[3.0] * 3] * 2


@pytest.mark.parametrize("name", ["extra", "moments"])
def test_checkpoint_with_a_damaged_group_is_skipped(name: str, tmp_path: Path) -> None:
    for number in (1, 2):
        checkpoint.save(tmp_path, ServerState(number, weights(0), {"a": weights(1)}, {"m": weights(2)}), {})
    (tmp_path / "round-00002" / f"{name}.safetensors").unlink()
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    assert loaded[0].round == 1
