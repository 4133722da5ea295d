"""Fixtures that run `fedray` with invalid input and return its message."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedray.cli.main import main

SPEC = """
data: {train: digits, test: digits, train_limit: 100, test_limit: 20}
partition: {kind: iid, clients: 2}
training: {rounds: 1}
resources: {backend: serial}
"""


@pytest.fixture
def command_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """`command_error("schema", "spec.yaml")` runs fedray, checks that it fails, and returns its message."""
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(SPEC)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["fedray", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        output = capsys.readouterr()
        assert stopped.value.code == 2, output
        assert "Traceback" not in output.err
        (sentence,) = output.err.strip().splitlines()
        assert sentence.startswith("fedray: ")
        assert sentence.endswith((".", "?"))
        assert not re.search("pydantic|tuple|Tuple|union|<class", sentence), "the message names Python types"
        return sentence

    return run


@pytest.fixture
def run_error(command_error: Callable[..., str]) -> Callable[..., str]:
    """`run_error("training.optimizer.lr=-1")` returns the message of `fedray run spec.yaml ...`."""

    def run(*arguments: str) -> str:
        chosen = arguments if "spec.yaml" in arguments or "--" in arguments else ("spec.yaml", *arguments)
        return command_error("run", *(a for a in chosen if a != "--"))

    return run
