from pathlib import Path

import numpy as np

from fedray import checkpoint
from fedray.types import ServerState, Weights


def weights(value: float) -> Weights:
    return {"w": np.full((2, 3), value, np.float32), "n": np.array(7, np.int64)}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, ServerState(12, weights(0.5)), [(3, weights(1.5)), (0, weights(2.5))])
    found = checkpoint.load(tmp_path)
    assert found is not None
    state, private = found
    assert state.round == 12
    assert state.weights["w"].tolist() == [[0.5] * 3] * 2
    assert state.weights["n"] == 7
    assert state.weights["n"].dtype == np.int64
    assert {client: w["w"][0, 0] for client, w in private.items()} == {0: 2.5, 3: 1.5}


def test_the_newest_and_the_one_before_stay(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        checkpoint.save(tmp_path, ServerState(number, weights(number)), [])
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["round-00002", "round-00003"]


def test_nothing_there(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "nowhere") is None


def test_a_half_written_one_is_not_seen(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, ServerState(1, weights(1)), [])
    (tmp_path / "partial-00002").mkdir()
    (tmp_path / "partial-00002" / "state.json").write_text('{"round": 2, "private": []}')
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found[0].round == 1
    checkpoint.save(tmp_path, ServerState(2, weights(2)), [])  # and does not stand in the way
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found[0].round == 2


def test_a_damaged_one_falls_back_to_the_one_before(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a", ServerState(2, weights(2)), [])
    checkpoint.save(tmp_path / "b", ServerState(1, weights(1)), [])
    (tmp_path / "b" / "round-00001").rename(tmp_path / "a" / "round-00001")
    file = tmp_path / "a" / "round-00002" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    found = checkpoint.load(tmp_path / "a")
    assert found is not None
    assert found[0].round == 1


def test_what_is_written_counts_once_it_is_kept(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, ServerState(1, weights(1)), [])
    partial = checkpoint.write(tmp_path, ServerState(2, weights(2)), [(0, weights(3))])
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found[0].round == 1
    checkpoint.keep(partial)
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert (found[0].round, found[0].weights["w"][0, 0], found[1][0]["w"][0, 0]) == (2, 2.0, 3.0)
