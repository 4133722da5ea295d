"""Each client's share: the public split, partitions from files, and incompatible sets."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.images import dataset, picture, png, write_folder, write_parquet

from fedray.data.example_table import locate, read_table
from fedray.data.federated import FederatedDataset, count_clients, load
from fedray.data.partition import IID, AnyPartition, Dirichlet, FromFile, Shards
from fedray.data.sections import Data
from fedray.errors import SpecError


def federated(partition: AnyPartition | None = None, seed: int = 0, **data: Any) -> FederatedDataset:
    return load(Data(**data), partition or IID(clients=4), seed)


def message_of(partition: AnyPartition | None = None, **data: Any) -> str:
    with pytest.raises(SpecError) as caught:
        federated(partition, **data)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> dict[str, str]:
    """Six training and four test images of the classes cat (0 to 2) and emu (3 to 5)."""
    write_folder(tmp_path / "train", ["cat", "emu"], per_class=3)
    write_folder(tmp_path / "test", ["cat", "emu"], per_class=2)
    return {"train": f"folder:{tmp_path}/train", "test": f"folder:{tmp_path}/test"}


class TestLoad:
    def test_every_example_belongs_to_one_client(self) -> None:
        data = federated()
        assert sorted(np.concatenate(data.shards).tolist()) == list(range(1433))
        assert len(data.public) == 0
        assert len(data.test) == 364

    def test_public_split_is_balanced_and_belongs_to_no_client(self) -> None:
        data = federated(public_fraction=0.3)
        assert len(data.public) == round(0.3 * 1433) == 430
        all_positions = np.concatenate([data.public, *data.shards])
        assert sorted(all_positions.tolist()) == list(range(1433))
        assert np.bincount(data.train.labels[data.public]).tolist() == [43] * 10

    def test_shards_are_sorted_positions_in_the_training_set(self) -> None:
        data = federated(Shards(clients=5), public_fraction=0.3)
        for shard in data.shards:
            assert (np.diff(shard) > 0).all()
            assert len(np.unique(data.train.labels[shard])) <= 6  # a shard of 100 has at most three classes of 100

    def test_same_seed_gives_the_same_split(self) -> None:
        first, same, other = (federated(Dirichlet(), seed, public_fraction=0.3) for seed in (1, 1, 2))
        assert [s.tolist() for s in first.shards] == [s.tolist() for s in same.shards]
        assert [s.tolist() for s in first.shards] != [s.tolist() for s in other.shards]
        assert first.public.tolist() == same.public.tolist() != other.public.tolist()

    def test_public_split_does_not_depend_on_the_partition(self) -> None:
        first, second = (federated(p, public_fraction=0.3) for p in (IID(clients=3), Shards(clients=5)))
        assert first.public.tolist() == second.public.tolist()

    def test_limits_are_balanced(self) -> None:
        data = federated(train_limit=50, test_limit=20)
        assert np.bincount(data.train.labels).tolist() == [5] * 10
        assert np.bincount(data.test.labels).tolist() == [2] * 10
        assert sum(map(len, data.shards)) == 50

    def test_limit_above_the_size_of_the_set(self) -> None:
        assert message_of(train_limit=1434) == "data.train_limit is 1434, but there are only 1433 examples."

    def test_class_counts_of_a_small_partition(self, folder: dict[str, str], tmp_path: Path) -> None:
        table = pd.DataFrame({"index": [0, 1, 2, 3, 4, 5], "client": [0, 0, 1, 1, 1, 0]})
        table.to_csv(tmp_path / "split.csv", index=False)
        class_counts = federated(FromFile(file=tmp_path / "split.csv"), **folder).class_counts
        assert class_counts.tolist() == [[2, 1], [1, 2]]

    def test_more_clients_than_examples_are_refused(self) -> None:
        message = message_of(IID(clients=51), train_limit=50)
        assert message == "partition.clients is 51, but there are only 50 training examples."

    def test_normalization_uses_the_training_set(self) -> None:
        data = federated(public_fraction=0.3)
        scaled = data.train.images / 255
        assert data.mean == pytest.approx([scaled.mean()], rel=1e-6)
        assert data.std == pytest.approx([scaled.std()], rel=1e-5)

    def test_normalization_uses_imagenet(self, folder: dict[str, str]) -> None:
        data = federated(IID(clients=2), normalize="imagenet", **folder)
        assert data.mean == pytest.approx([0.485, 0.456, 0.406])
        assert data.std == pytest.approx([0.229, 0.224, 0.225])

    def test_imagenet_normalization_needs_colour_images(self) -> None:
        assert message_of(normalize="imagenet") == (
            "data.normalize is 'imagenet', but the images have 1 channel, not 3."
        )


class TestIncompatibleSets:
    def test_different_sizes(self, tmp_path: Path) -> None:
        write_folder(tmp_path / "train", ["cat", "emu"], per_class=2, size=8)
        write_folder(tmp_path / "test", ["cat", "emu"], per_class=2, size=10)
        folders = {"train": f"folder:{tmp_path}/train", "test": f"folder:{tmp_path}/test"}
        assert message_of(IID(clients=2), **folders) == (
            "data: train has 2 classes and 3x8x8 images, but test has 2 classes and 3x10x10 images."
        )
        assert federated(IID(clients=2), size=6, **folders).train.shape.size == 6

    def test_different_numbers_of_classes(self, folder: dict[str, str], tmp_path: Path) -> None:
        write_folder(tmp_path / "more", ["cat", "dog", "emu"], per_class=1)
        message = message_of(IID(clients=2), train=folder["train"], test=f"folder:{tmp_path}/more")
        assert message == "data: the class 'dog' is only in data.test; data.train has cat, emu."

    def test_different_class_names(self, folder: dict[str, str], tmp_path: Path) -> None:
        """With equal numbers of classes, label 1 would be an emu in one set and a fox in the other."""
        write_folder(tmp_path / "other", ["cat", "fox"], per_class=1)
        message = message_of(IID(clients=2), train=folder["train"], test=f"folder:{tmp_path}/other")
        assert "emu" in message
        assert "fox" in message

    def test_labels_beyond_the_classes(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "a.parquet", [png(picture(0)), png(picture(1))], [0, 2], names=["cat", "emu"])
        message = message_of(IID(clients=2), train=f"parquet:{tmp_path}/a.parquet")
        assert message == "data.train: labels range from 0 to 2, but there are 2 classes."

    def test_labels_below_zero(self, tmp_path: Path) -> None:
        """The Hugging Face hub marks missing test labels with -1."""
        write_parquet(tmp_path / "a.parquet", [png(picture(0)), png(picture(1))], [-1, -1], names=["cat", "emu"])
        message = message_of(IID(clients=2), test=f"parquet:{tmp_path}/a.parquet")
        assert message == "data.test: labels range from -1 to -1, but there are 2 classes."


def write(table: dict[str, Any], file: Path) -> FromFile:
    frame = pd.DataFrame(table)
    if file.suffix == ".csv":
        frame.to_csv(file, index=False)
    else:
        frame.to_parquet(file)
    return FromFile(file=file)


PATHS = ["emu/2.png", "cat/0.png", "emu/0.png", "cat/2.png", "cat/1.png", "emu/1.png"]
"""The six images of the folder, in the order of positions 5, 0, 3, 2, 1, 4."""


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
class TestFromFile:
    def test_by_path(self, folder: dict[str, str], tmp_path: Path, suffix: str) -> None:
        spec = write({"path": PATHS, "client": [0, 1, 0, 1, 2, 2]}, tmp_path / f"split.{suffix}")
        assert [shard.tolist() for shard in federated(spec, **folder).shards] == [[3, 5], [0, 2], [1, 4]]

    def test_by_index(self, folder: dict[str, str], tmp_path: Path, suffix: str) -> None:
        spec = write({"index": [5, 0, 3, 2, 1, 4], "client": [0, 1, 0, 1, 2, 2]}, tmp_path / f"split.{suffix}")
        assert [shard.tolist() for shard in federated(spec, **folder).shards] == [[3, 5], [0, 2], [1, 4]]

    def test_other_columns_are_ignored(self, folder: dict[str, str], tmp_path: Path, suffix: str) -> None:
        spec = write({"note": list("abcdef"), "path": PATHS, "client": [0] * 6}, tmp_path / f"split.{suffix}")
        assert [shard.tolist() for shard in federated(spec, **folder).shards] == [[0, 1, 2, 3, 4, 5]]

    def test_index_is_the_row_in_the_source_before_any_limit(self, tmp_path: Path, suffix: str) -> None:
        plain = federated(train_limit=50)
        rows = plain.train.rows
        spec = write({"index": rows[::-1], "client": rows[::-1] % 3}, tmp_path / f"split.{suffix}")
        data = federated(spec, train_limit=50)
        for client, shard in enumerate(data.shards):
            assert data.train.rows[shard].tolist() == sorted(row for row in rows if row % 3 == client)

    def test_file_of_all_examples_does_not_fit_a_limit(self, tmp_path: Path, suffix: str) -> None:
        rows = federated().train.rows
        spec = write({"index": rows, "client": rows % 3}, tmp_path / f"split.{suffix}")
        assert f"lists {1433 - 50} examples that are not in the clients' data" in message_of(spec, train_limit=50)

    def test_file_divides_private_examples_only(self, tmp_path: Path, suffix: str) -> None:
        plain = federated(public_fraction=0.5)
        rows = np.delete(plain.train.rows, plain.public)
        spec = write({"index": rows, "client": rows % 2}, tmp_path / f"split.{suffix}")
        data = federated(spec, public_fraction=0.5)
        all_positions = np.concatenate([data.public, *data.shards])
        assert sorted(all_positions.tolist()) == list(range(1433))

    def test_unknown_example(self, folder: dict[str, str], tmp_path: Path, suffix: str) -> None:
        spec = write({"path": [*PATHS[:5], "fox/1.png"], "client": [0] * 6}, tmp_path / f"split.{suffix}")
        assert "split" in message_of(spec, **folder)
        assert message_of(spec, **folder).endswith("lists 1 examples that are not in the clients' data.")

    def test_duplicate_example(self, folder: dict[str, str], tmp_path: Path, suffix: str) -> None:
        spec = write({"path": [*PATHS, PATHS[0]], "client": [0] * 7}, tmp_path / f"split.{suffix}")
        assert message_of(spec, **folder).endswith("lists an example twice.")

    def test_missing_example_needs_partial(self, folder: dict[str, str], tmp_path: Path, suffix: str) -> None:
        spec = write({"path": PATHS[:4], "client": [0, 0, 1, 1]}, tmp_path / f"split.{suffix}")
        message = message_of(spec, **folder)
        assert message.endswith("leaves out 2 of 6 examples; set partial: true to allow that.")
        partial = spec.model_copy(update={"partial": True})
        data = federated(partial, **folder)
        assert [shard.tolist() for shard in data.shards] == [[0, 5], [2, 3]]
        assert data.class_counts.tolist() == [[1, 1], [1, 1]]

    @pytest.mark.parametrize("table", [{"path": PATHS}, {"client": [0] * 6}, {"file": PATHS, "client": [0] * 6}])
    def test_missing_columns(self, folder: dict[str, str], tmp_path: Path, suffix: str, table: dict[str, Any]) -> None:
        spec = write(table, tmp_path / f"split.{suffix}")
        message = message_of(spec, **folder)
        assert message.endswith(f"needs the column client, and path or index; it has {', '.join(table)}.")

    @pytest.mark.parametrize(
        ("clients", "labels"),
        [
            ([30_000_000, 7, 30_000_000, 7, -1, 7], ("-1", "7", "30000000")),
            (["Zoë", "None", "Zoë", "None", "NA", "None"], ("NA", "None", "Zoë")),
            (["007", "7", "007", "7", "07", "7"], ("007", "07", "7")),
            ([2.0, 10.0, 2.0, 10.0, 2.0, 10.0], ("2", "10")),
            ([10**30, 0, 10**30, 0, 5, 0], ("0", "5", str(10**30))),
        ],
        ids=["large", "names", "zeros", "floats", "huge"],
    )
    def test_clients_of_any_label_are_numbered(
        self, folder: dict[str, str], tmp_path: Path, suffix: str, clients: list[Any], labels: tuple[str, ...]
    ) -> None:
        if suffix == "parquet" and 10**30 in clients:
            clients = list(map(str, clients))
        spec = write({"path": PATHS, "client": clients}, tmp_path / f"split.{suffix}")
        data = federated(spec, **folder)
        assert data.client_labels == labels
        assert count_clients(spec) == len(data.shards) == len(labels)
        texts = [str(int(client)) if isinstance(client, float) else str(client) for client in clients]
        owners = dict(zip(PATHS, texts, strict=True))
        assert data.train.paths is not None
        for client, shard in enumerate(data.shards):
            assert {owners[path] for path in data.train.paths[shard]} == {data.client_label(client)}

    @pytest.mark.parametrize(
        ("clients", "message"),
        [
            ([0, 1, None, 1, 0, 1], "has rows without a client; the first is row 2."),
            ([0.5, 1.0, 1.0, 1.0, 1.0, 1.0], "must have whole numbers or text in its column client."),
        ],
    )
    def test_clients_without_a_plain_label_are_refused(
        self, folder: dict[str, str], tmp_path: Path, suffix: str, clients: list[Any], message: str
    ) -> None:
        spec = write({"path": PATHS, "client": clients}, tmp_path / f"split.{suffix}")
        assert message_of(spec, **folder).endswith(message)

    def test_paths_must_be_text(self, folder: dict[str, str], tmp_path: Path, suffix: str) -> None:
        if suffix == "parquet":
            spec = write({"path": [*PATHS[:5], None], "client": [0] * 6}, tmp_path / "split.parquet")
            assert message_of(spec, **folder).endswith("must have text in each row of its column path.")

    def test_paths_for_a_source_without_paths(self, tmp_path: Path, suffix: str) -> None:
        spec = write({"path": PATHS, "client": [0] * 6}, tmp_path / f"split.{suffix}")
        message = message_of(spec)
        assert message.endswith("lists examples by path, but digits has no paths; use the column index.")

    def test_index_must_be_a_number(self, folder: dict[str, str], tmp_path: Path, suffix: str) -> None:
        spec = write({"index": PATHS, "client": [0] * 6}, tmp_path / f"split.{suffix}")
        assert "index" in message_of(spec, **folder)


class TestReadTable:
    def test_no_such_file(self, tmp_path: Path) -> None:
        for name in ("none.csv", "none.parquet"):
            with pytest.raises(SpecError, match=rf"^partition.file: there is no file '.*{name}'\.$"):
                read_table(tmp_path / name, "partition.file")

    @pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
    def test_home_is_expanded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        frame = pd.DataFrame({"index": [0, 1]})
        frame.to_csv(tmp_path / name) if name.endswith("csv") else frame.to_parquet(tmp_path / name)
        assert read_table(Path("~") / name, "partition.file")["index"].tolist() == [0, 1]

    def test_no_table(self, tmp_path: Path) -> None:
        (tmp_path / "a.parquet").write_bytes(b"not a table")
        (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00\x00\x01")
        for name in ("a.csv", "a.parquet"):
            with pytest.raises(SpecError, match="cannot be read as a table"):
                read_table(tmp_path / name, "teacher.file")

    def test_no_rows(self, tmp_path: Path) -> None:
        (tmp_path / "nothing.csv").write_text("")
        (tmp_path / "header.csv").write_text("client,index\n")
        with pytest.raises(SpecError, match="cannot be read as a table"):
            read_table(tmp_path / "nothing.csv", "partition.file")
        with pytest.raises(SpecError, match=r"header.csv' is empty\."):
            read_table(tmp_path / "header.csv", "partition.file")

    @pytest.mark.parametrize("suffix", ["csv", "parquet"])
    def test_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        write({"index": [3], "client": [0]}, tmp_path / f"a.{suffix}")
        assert read_table(Path(f"~/a.{suffix}"), "partition.file")["index"].tolist() == [3]


class TestLocate:
    data = dataset(np.array([0, 1, 0, 1])).take(np.array([2, 0, 3]))  # rows 102, 100, 103; paths 2.png, 0.png, 3.png

    def test_by_path(self) -> None:
        assert locate({"path": ["3.png", "1.png", "2.png"]}, self.data, "the file").tolist() == [2, -1, 0]

    def test_by_index(self) -> None:
        assert locate({"index": [100, 103, 101, 999, -5]}, self.data, "the file").tolist() == [1, 2, -1, -1, -1]

    def test_path_comes_before_index(self) -> None:
        assert locate({"path": ["3.png"], "index": [100]}, self.data, "the file").tolist() == [2]
