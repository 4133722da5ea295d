"""Named pipes in place of files are refused: their readers would wait for ever."""

import os
import threading
from pathlib import Path

import pandas as pd
import pytest

from fedray.config.yaml_files import read_yaml
from fedray.data.example_table import read_table
from fedray.data.parquet import read_parquet
from fedray.data.request import ReadRequest
from fedray.errors import SpecError


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def test_spec(pipe: Path) -> None:
    with pytest.raises(SpecError, match=r"pipe' cannot be read .*it is a named pipe"):
        read_yaml(pipe)


def test_table(pipe: Path) -> None:
    with pytest.raises(SpecError, match=r"partition.file: .*pipe' cannot be read as a table \(it is a named pipe\)"):
        read_table(pipe, "partition.file")


def test_parquet_file(pipe: Path) -> None:
    with pytest.raises(SpecError, match=r"data.train: .*pipe' cannot be read as parquet \(it is a named pipe\)"):
        read_parquet(str(pipe), ReadRequest("train"))


def test_image_of_a_table(pipe: Path, tmp_path: Path) -> None:
    pd.DataFrame({"image": [pipe.name], "label": [0]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(SpecError, match=r"data.train: .*it is a named pipe"):
        read_parquet(str(tmp_path / "a.parquet"), ReadRequest("train"))


def test_pipe_of_a_shell_is_read() -> None:
    """`fedray run <(...)` names a pipe below /dev/fd."""
    reader, writer = os.pipe()
    thread = threading.Thread(target=lambda: (os.write(writer, b"seed: 1\n"), os.close(writer)))
    thread.start()
    assert read_yaml(Path(f"/dev/fd/{reader}")) == {"seed": 1}
    thread.join()
    os.close(reader)
