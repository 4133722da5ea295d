from pathlib import Path

import numpy as np
import pytest

from fedray.errors import RunError
from fedray.results import checkpoint
from fedray.types import ServerState, Weights


def weights(value: float) -> Weights:
    return {"w": np.full((2, 3), value, np.float32), "n": np.array(7, np.int64)}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    checkpoint.save_private(tmp_path, 3, 12, weights(1.5))
    checkpoint.save_private(tmp_path, 0, 7, weights(2.5))
    checkpoint.save(tmp_path, ServerState(12, weights(0.5)), {3: 12, 0: 7})
    found = checkpoint.load(tmp_path)
    assert found is not None
    state, private = found
    assert state.round == 12
    assert state.weights["w"].tolist() == [[0.5] * 3] * 2
    assert state.weights["n"] == 7
    assert state.weights["n"].dtype == np.int64
    assert private == {3: 12, 0: 7}
    read = {client: checkpoint.private_file(tmp_path, client, number).read() for client, number in private.items()}
    assert {client: w["w"][0, 0] for client, w in read.items()} == {0: 2.5, 3: 1.5}


def test_the_newest_and_the_one_before_stay(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        checkpoint.save(tmp_path, ServerState(number, weights(number)), {})
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["round-00002", "round-00003"]


def test_one_of_an_earlier_version_without_private_models_is_gone_on_from(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, ServerState(4, weights(1)), {})
    (tmp_path / "round-00004" / "state.json").write_text('{"round": 4, "private": []}')
    assert (checkpoint.load(tmp_path) or (ServerState(0, {}), {}))[0].round == 4
    (tmp_path / "round-00004" / "state.json").write_text('{"round": 4, "private": [0, 1]}')  # in another place then
    assert checkpoint.load(tmp_path) is None


def test_nothing_there(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "nowhere") is None


def test_a_half_written_one_is_not_seen(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, ServerState(1, weights(1)), {})
    (tmp_path / "partial-00002").mkdir()
    (tmp_path / "partial-00002" / "state.json").write_text('{"round": 2, "private": {}}')
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found[0].round == 1
    checkpoint.save(tmp_path, ServerState(2, weights(2)), {})  # and does not stand in the way
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found[0].round == 2


def test_a_damaged_one_falls_back_to_the_one_before(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a", ServerState(2, weights(2)), {})
    checkpoint.save(tmp_path / "b", ServerState(1, weights(1)), {})
    (tmp_path / "b" / "round-00001").rename(tmp_path / "a" / "round-00001")
    file = tmp_path / "a" / "round-00002" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    found = checkpoint.load(tmp_path / "a")
    assert found is not None
    assert found[0].round == 1


def test_private_models_that_are_cut_short_or_gone_damage_what_they_belong_to(tmp_path: Path) -> None:
    for number in (1, 2):
        checkpoint.save_private(tmp_path, 5, number, weights(number))
        checkpoint.save(tmp_path, ServerState(number, weights(number)), {5: number})

    def found() -> int:
        loaded = checkpoint.load(tmp_path)
        return loaded[0].round if loaded else 0

    newest = checkpoint.private_file(tmp_path, 5, 2).path
    whole = newest.read_bytes()
    assert found() == 2
    newest.write_bytes(whole[:-1])
    assert found() == 1
    newest.unlink()
    assert found() == 1
    checkpoint.private_file(tmp_path, 5, 1).path.unlink()
    assert found() == 0
    newest.write_bytes(whole)
    assert found() == 2


def test_private_models_go_once_no_checkpoint_has_them(tmp_path: Path) -> None:
    """Client 0 is trained in each of five rounds, client 1 in the first only; every other round is saved."""
    for number in (1, 2, 3, 4, 5):
        now = {0: number, 1: 1}
        checkpoint.save_private(tmp_path, 0, number, weights(number))
        if number == 1:
            checkpoint.save_private(tmp_path, 1, number, weights(9))
        if number % 2 == 0:
            checkpoint.save(tmp_path, ServerState(number, weights(number)), now)
        checkpoint.sweep(tmp_path, now)
    assert sorted(file.stem for file in (tmp_path / "private").iterdir()) == [
        "00000-00002", "00000-00004", "00000-00005", "00001-00001"
    ]  # fmt: skip


def test_a_private_model_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"00003-00012.safetensors' cannot be read"):
        checkpoint.private_file(tmp_path, 3, 12).read()


def test_where_private_models_cannot_be_written_one_sentence_says_so(tmp_path: Path) -> None:
    (tmp_path / "private").touch()
    with pytest.raises(RunError, match=r"00003-00012.safetensors' cannot be written \(File exists\)"):
        checkpoint.save_private(tmp_path, 3, 12, weights(1))


def test_what_is_written_counts_once_it_is_kept(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, ServerState(1, weights(1)), {})
    partial = checkpoint.write(tmp_path, ServerState(2, weights(2)), {})
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found[0].round == 1
    checkpoint.keep(partial)
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert (found[0].round, found[0].weights["w"][0, 0]) == (2, 2.0)
