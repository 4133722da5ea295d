"""Parquet sources in the Hugging Face layout."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.images import picture, png, write_parquet
from helpers.sources import channels_first, everything, message_of, read_all

from fedray.data.sources import read
from fedray.errors import SpecError
from fedray.types import Indices


class TestParquet:
    def test_reads_the_hugging_face_layout(self, tmp_path: Path) -> None:
        file = tmp_path / "train.parquet"
        images = [picture(seed) for seed in range(4)]
        write_parquet(file, [png(image) for image in images], [1, 0, 2, 1], names=["cat", "dog", "emu"])
        data = read_all(f"parquet:{file}")
        np.testing.assert_array_equal(data.images, np.stack([channels_first(image) for image in images]))
        assert data.images.flags.c_contiguous
        assert data.labels.tolist() == [1, 0, 2, 1]
        assert data.labels.dtype == np.int64
        assert data.rows.tolist() == [0, 1, 2, 3]
        assert data.paths is not None
        assert data.paths.tolist() == [f"train-{i}.png" for i in range(4)]
        assert data.classes == ("cat", "dog", "emu")

    def test_classes_without_an_example_keep_their_names(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "a.parquet", [png(picture(0))], [0], names=["cat", "dog", "emu"])
        assert read_all(f"parquet:{tmp_path}/a.parquet").classes == ("cat", "dog", "emu")

    def test_class_names_default_to_numbers_and_paths_to_none(self, tmp_path: Path) -> None:
        blobs = [png(picture(seed)) for seed in range(3)]
        write_parquet(tmp_path / "a.parquet", blobs, [0, 2, 1], image="image", label="fine_label", paths=[None] * 3)
        data = read_all(f"parquet:{tmp_path}/a.parquet")
        assert data.classes == ("0", "1", "2")
        assert data.paths is None

    def test_class_names_come_from_the_label_column_that_is_read(self, tmp_path: Path) -> None:
        """CIFAR-100 has coarse and fine labels, each with its own class names."""
        blobs, file = [png(picture(seed)) for seed in range(2)], tmp_path / "a.parquet"
        write_parquet(file, blobs, [0, 1], label="fine_label", names=["apple", "bear"])
        table = pq.read_table(file).append_column("coarse_label", pa.array([0, 0]))
        pq.write_table(table.select(["coarse_label", "img", "fine_label"]), file)
        assert read_all(f"parquet:{file}").classes == ("apple", "bear")

    def test_files_are_read_in_the_order_of_their_names(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "train-1.parquet", [png(picture(5))], [1], names=["cat", "dog"])
        write_parquet(tmp_path / "train-0.parquet", [png(picture(6)), png(picture(7))], [0, 1], names=["cat", "dog"])
        data = read_all(f"parquet:{tmp_path}/train-*.parquet")
        np.testing.assert_array_equal(data.images, np.stack([channels_first(picture(seed)) for seed in (6, 7, 5)]))
        assert data.labels.tolist() == [0, 1, 1]
        assert data.rows.tolist() == [0, 1, 2]
        assert data.paths is not None
        assert data.paths.tolist() == ["train-0-0.png", "train-0-1.png", "train-1-0.png"]

    def test_gray_images_are_read_as_colour(self, tmp_path: Path) -> None:
        gray = picture(0, channels=1)
        write_parquet(tmp_path / "a.parquet", [png(gray), png(picture(1))], [0, 1])
        np.testing.assert_array_equal(read_all(f"parquet:{tmp_path}/a.parquet").images[0], np.stack([gray] * 3))

    def test_images_that_are_not_chosen_are_not_decoded(self, tmp_path: Path) -> None:
        file = tmp_path / "a.parquet"
        write_parquet(file, [png(picture(0)), b"not an image", png(picture(2))], [0, 1, 2])
        received: list[list[int]] = []

        def choose(labels: Indices) -> Indices:
            received.append(labels.tolist())
            return np.array([2, 0])

        data = read(f"parquet:{file}", "train", choose, None)
        assert received == [[0, 1, 2]]
        assert data.rows.tolist() == data.labels.tolist() == [2, 0]
        np.testing.assert_array_equal(data.images, np.stack([channels_first(picture(seed)) for seed in (2, 0)]))
        assert data.classes == ("0", "1", "2")

    @pytest.mark.parametrize(
        "blob",
        [
            b"not an image",
            b"",
            png(picture(0))[:100],
            png(picture(0))[:33] + b"\0\0\0\5" + png(picture(0))[37:],  # Pillow: SyntaxError
            png(picture(0)).replace(b"\0\0\0\x0dIHDR", b"\0\0\0\1IHDR"),  # Pillow: ValueError
        ],
        ids=["text", "empty", "cut off", "short chunk", "short header"],
    )
    def test_damaged_image_is_named(self, tmp_path: Path, blob: bytes) -> None:
        write_parquet(tmp_path / "a.parquet", [png(picture(0)), blob], [0, 1], paths=["good.png", "bad.png"])
        message = message_of(f"parquet:{tmp_path}/a.parquet")
        assert message.startswith("data.train: the image 'bad.png' cannot be decoded")

    def test_damaged_image_message_has_no_object_repr(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "a.parquet", [b"not an image"], [0], paths=["bad.png"])
        assert "object at 0x" not in message_of(f"parquet:{tmp_path}/a.parquet")

    def test_damaged_image_without_path_is_named_by_its_row(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "a.parquet", [png(picture(0)), b"not an image"], [0, 1], paths=[None, None])
        message = message_of(f"parquet:{tmp_path}/a.parquet")
        assert "'None'" not in message
        assert "row 1" in message

    def test_missing_file(self, tmp_path: Path) -> None:
        message = message_of(f"parquet:{tmp_path}/none-*.parquet")
        assert message == f"data.train: no file matches 'parquet:{tmp_path}/none-*.parquet'."

    def test_truncated_file(self, tmp_path: Path) -> None:
        file = tmp_path / "a.parquet"
        write_parquet(file, [png(picture(0))], [0])
        file.write_bytes(file.read_bytes()[:-100])
        assert message_of(f"parquet:{file}").startswith(f"data.train: '{file}' cannot be read as parquet")

    def test_missing_image_column(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "a.parquet", [png(picture(0))], [0], image="photo")
        assert "has no column img or image; it has photo, label." in message_of(f"parquet:{tmp_path}/a.parquet")

    def test_missing_label_column(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "a.parquet", [png(picture(0))], [0], label="kind")
        assert "has no column label or fine_label; it has img, kind." in message_of(f"parquet:{tmp_path}/a.parquet")

    def test_images_as_plain_bytes_are_read_or_refused(self, tmp_path: Path) -> None:
        """A refusal names the column."""
        pq.write_table(pa.table({"image": [png(picture(0))], "label": [0]}), tmp_path / "a.parquet")
        try:
            data = read_all(f"parquet:{tmp_path}/a.parquet")
        except SpecError as error:
            assert "image" in str(error)  # noqa: PT017
        else:
            np.testing.assert_array_equal(data.images[0], channels_first(picture(0)))

    def test_empty_file_is_refused(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "a.parquet", [], [])
        assert message_of(f"parquet:{tmp_path}/a.parquet").startswith("data.train:")


def write_table(file: Path, *, images: Any = None, labels: Any = (0, 1), names: Any = None, **columns: Any) -> None:
    """Write a parquet file with the columns img and label, and Hugging Face's class names for label."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if images is None:
        images = [{"bytes": png(picture(seed)), "path": f"{seed}.png"} for seed in range(len(labels))]
    table = pa.table({"img": images, "label": labels, **columns})
    if names is not None:
        features = {"features": {"label": {"names": names}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": features})})
    pq.write_table(table, file)


class TestLabels:
    @pytest.mark.parametrize(
        ("labels", "classes", "positions", "named"),
        [
            (pa.array([30_000_000, 0]), ("0", "30000000"), [1, 0], False),
            (pa.array([2**63 + 5, 7], pa.uint64()), ("7", str(2**63 + 5)), [1, 0], False),
            (pa.array([3, 1], pa.int8()), ("1", "3"), [1, 0], False),
            (pa.array([2.0, 10.0]), ("2", "10"), [0, 1], False),
            (pa.array([True, False]), ("False", "True"), [1, 0], True),
            (pa.array(["None", "NA"]), ("NA", "None"), [1, 0], True),
            (pa.array(["cat", ""]).dictionary_encode(), ("", "cat"), [1, 0], True),
            (pa.array(["cat", "b"]).cast(pa.string_view()), ("b", "cat"), [1, 0], True),
        ],
        ids=["large", "uint64", "int8", "floats", "booleans", "text", "categories", "views"],
    )
    def test_classes_are_the_distinct_labels(
        self, tmp_path: Path, labels: pa.Array, classes: tuple[str, ...], positions: list[int], *, named: bool
    ) -> None:
        write_table(tmp_path / "a.parquet", labels=labels)
        data = read_all(f"parquet:{tmp_path}/a.parquet")
        assert (data.classes, data.labels.tolist(), data.named) == (classes, positions, named)

    @pytest.mark.parametrize("kind", [pa.bool_(), pa.float32(), pa.int16()])
    def test_class_names_apply_to_numbers_of_any_kind(self, tmp_path: Path, kind: pa.DataType) -> None:
        write_table(tmp_path / "a.parquet", labels=pa.array([1, 0]).cast(kind), names=["no", "yes"])
        data = read_all(f"parquet:{tmp_path}/a.parquet")
        assert (data.classes, data.labels.tolist()) == (("no", "yes"), [1, 0])

    @pytest.mark.parametrize(
        "labels",
        [[0.5, 1.0], [[0], [1]], [b"a", b"b"], [datetime(2020, 1, 1), datetime(2021, 1, 1)], [float("inf"), 1.0]],
        ids=["fractions", "lists", "bytes", "dates", "infinity"],
    )
    def test_labels_of_other_kinds_are_refused(self, tmp_path: Path, labels: list[Any]) -> None:
        write_table(tmp_path / "a.parquet", labels=labels)
        message = message_of(f"parquet:{tmp_path}/a.parquet")
        assert message.endswith("in its column label; labels must be integers, booleans, whole numbers or text.")

    @pytest.mark.parametrize("labels", [[0, None], ["cat", None], [float("nan"), 1.0], pa.nulls(2)])
    def test_missing_labels_are_refused(self, tmp_path: Path, labels: Any) -> None:
        write_table(tmp_path / "a.parquet", labels=labels)
        assert "has images without a label in its column label" in message_of(f"parquet:{tmp_path}/a.parquet")

    def test_text_beside_numbers_is_refused(self, tmp_path: Path) -> None:
        write_table(tmp_path / "a.parquet", labels=[0, 1])
        write_table(tmp_path / "b.parquet", labels=["cat", "dog"])
        message = message_of(f"parquet:{tmp_path}/*.parquet")
        assert message.endswith(f"the labels of '{tmp_path}/b.parquet' are text, but those of "
                                f"'{tmp_path}/a.parquet' are numbers.")  # fmt: skip

    def test_class_names_of_shards_are_matched(self, tmp_path: Path) -> None:
        write_table(tmp_path / "a.parquet", names=["cat", "dog"])
        write_table(tmp_path / "b.parquet", names=["dog", "emu"])
        data = read_all(f"parquet:{tmp_path}/*.parquet")
        assert [data.classes[label] for label in data.labels] == ["cat", "dog", "dog", "emu"]

    @pytest.mark.parametrize("metadata", [b"[]", b"{", b"\xff", b'{"info": 3}', b'{"info": {"features": {"label": 3}}}',
                                          b'{"info": {"features": {"label": {"names": 3}}}}'])  # fmt: skip
    def test_odd_metadata_is_named(self, tmp_path: Path, metadata: bytes) -> None:
        write_table(tmp_path / "a.parquet")
        table = pq.read_table(tmp_path / "a.parquet").replace_schema_metadata({b"huggingface": metadata})
        pq.write_table(table, tmp_path / "a.parquet")
        message = message_of(f"parquet:{tmp_path}/a.parquet")
        assert f"the Hugging Face metadata of '{tmp_path}/a.parquet'" in message


class TestColumns:
    def test_columns_can_be_chosen(self, tmp_path: Path) -> None:
        images = [png(picture(seed)) for seed in range(2)]
        write_table(tmp_path / "a.parquet", images=[b"", b""], photo=images, kind=["cat", "dog"])
        data = read(f"parquet:{tmp_path}/a.parquet", "train", everything, None, "photo", "kind")
        assert data.classes == ("cat", "dog")
        np.testing.assert_array_equal(data.images, [channels_first(picture(seed)) for seed in range(2)])

    def test_missing_chosen_column(self, tmp_path: Path) -> None:
        write_table(tmp_path / "a.parquet")
        with pytest.raises(SpecError, match=r"a.parquet' has no column kind; it has img, label\.$"):
            read(f"parquet:{tmp_path}/a.parquet", "train", everything, None, None, "kind")

    def test_images_are_bytes_or_paths_relative_to_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "pictures").mkdir()
        for seed in range(2):
            (tmp_path / "pictures" / f"{seed}.png").write_bytes(png(picture(seed)))
        paths = [f"pictures/{seed}.png" for seed in range(2)]
        cells = {
            "bytes": [png(picture(seed)) for seed in range(2)],
            "paths": paths,
            "structs": [{"bytes": None, "path": path} for path in paths],
            "only-paths": [{"path": path} for path in paths],
        }
        for name, images in cells.items():
            write_table(tmp_path / f"{name}.parquet", images=images)
            data = read_all(f"parquet:{tmp_path}/{name}.parquet")
            np.testing.assert_array_equal(data.images, [channels_first(picture(seed)) for seed in range(2)])
            assert (data.paths is None) == (name == "bytes")

    @pytest.mark.parametrize(
        ("image", "text"),
        [
            ({"bytes": None, "path": None}, "has neither bytes nor a path for the image of row 1"),
            (None, "has neither bytes nor a path for the image of row 1"),
            ({"bytes": None, "path": "none.png"}, "the image 'none.png', relative to"),
            ({"bytes": None, "path": "a\0b"}, "cannot be read (embedded null byte)"),
        ],
        ids=["nulls", "null struct", "missing", "NUL"],
    )
    def test_unreadable_image_is_named(self, tmp_path: Path, image: Any, text: str) -> None:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        cells = pa.array([{"bytes": png(picture(0)), "path": "0.png"}, image], kind)
        write_table(tmp_path / "a.parquet", images=cells)
        assert text in message_of(f"parquet:{tmp_path}/a.parquet")

    @pytest.mark.parametrize(
        "images", [[1, 2], [[1], [2]], [{"data": b""}] * 2, [{"bytes": "text"}] * 2, [{"bytes": [1]}] * 2]
    )
    def test_images_of_other_types_are_refused(self, tmp_path: Path, images: list[Any]) -> None:
        write_table(tmp_path / "a.parquet", images=images)
        assert "in its column img; images must be encoded bytes" in message_of(f"parquet:{tmp_path}/a.parquet")

    def test_column_that_exists_twice(self, tmp_path: Path) -> None:
        cells = pa.array([png(picture(0))])
        table = pa.Table.from_arrays([cells, pa.array([0]), pa.array([1])], names=["img", "label", "label"])
        pq.write_table(table, tmp_path / "a.parquet")
        assert message_of(f"parquet:{tmp_path}/a.parquet").endswith("has several columns label.")


class TestFiles:
    def test_shards_may_differ_in_types_and_other_columns(self, tmp_path: Path) -> None:
        write_table(tmp_path / "0.parquet", labels=pa.array([0, 1], pa.int64()))
        write_table(tmp_path / "1.parquet", labels=pa.array([1, 0], pa.int32()), note=["a", "b"])
        assert read_all(f"parquet:{tmp_path}/*.parquet").labels.tolist() == [0, 1, 1, 0]

    @pytest.mark.parametrize("name", ["data[v1]/0.parquet", "data[v1]/*.parquet", "data[v1]/**/0.parquet"])
    def test_brackets_of_a_folder_that_exists_are_literal(self, tmp_path: Path, name: str) -> None:
        write_table(tmp_path / "data[v1]" / "0.parquet")
        write_table(tmp_path / "data1" / "0.parquet", labels=[0, 1, 2])
        assert len(read_all(f"parquet:{tmp_path}/{name}")) == 2

    def test_two_stars_match_folders_of_any_depth(self, tmp_path: Path) -> None:
        for name in ("a", "x/b", "x/y/c"):
            write_table(tmp_path / f"{name}.parquet")
        assert len(read_all(f"parquet:{tmp_path}/**/*.parquet")) == 6

    def test_folders_that_match_are_noted(self, tmp_path: Path) -> None:
        write_table(tmp_path / "a.parquet")
        (tmp_path / "b.parquet").mkdir()
        (note,) = read_all(f"parquet:{tmp_path}/*.parquet").left_out
        assert note.endswith(f"folders: 1 ({tmp_path}/b.parquet)")

    def test_folder_is_refused(self, tmp_path: Path) -> None:
        assert message_of(f"parquet:{tmp_path}").endswith(f"is a folder; write parquet:{tmp_path}/*.parquet.")
