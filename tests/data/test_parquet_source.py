"""Parquet sources in the Hugging Face layout."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.images import picture, png, write_parquet
from helpers.sources import channels_first, message_of, read_all

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

    def test_text_labels_are_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "a.parquet"
        write_parquet(file, [png(picture(0))], [0])
        table = pq.read_table(file)
        pq.write_table(table.set_column(1, "label", pa.array(["cat"])), file)
        assert "label" in message_of(f"parquet:{file}")

    def test_empty_file_is_refused(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "a.parquet", [], [])
        assert message_of(f"parquet:{tmp_path}/a.parquet").startswith("data.train:")
