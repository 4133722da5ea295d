"""Atomic replacement of small files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedray.errors import RunError
from fedray.files import replace_text


def test_text_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    for text in ("seed: 0\n", "λ: 0.5\n"):
        replace_text(file, text)
        assert file.read_bytes() == text.encode()
    assert os.listdir(tmp_path) == ["spec.yaml"]  # noqa: PTH208


def test_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"a/spec.yaml' cannot be written \(No such file or directory\)\."):
        replace_text(tmp_path / "a" / "spec.yaml", "seed: 0")


def test_full_disk_leaves_the_former_text_and_no_partial_file(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk."""
    file = tmp_path / "spec.yaml"
    file.write_text("former")
    script = (
        "import resource, signal; from pathlib import Path; from fedray.files import replace_text\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        f"replace_text(Path({str(file)!r}), 'x' * 1000)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "RunError" in done.stderr
    assert "spec.yaml' cannot be written (File too large)." in done.stderr
    assert file.read_text() == "former"
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]
