"""Connecting to a cluster: errors are found before Ray connects, which would take minutes or end the process."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedray.backends.ray.cluster import start_ray
from fedray.errors import SpecError


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that is not Ray."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        monkeypatch.setattr("ray.is_initialized", lambda: False)
        yield address


def test_a_missing_token_is_an_error(listener: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "nowhere"))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    with pytest.raises(SpecError, match=f"RAY_ADDRESS={listener} requires a token") as raised:
        start_ray()
    assert "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH" in str(raised.value)


def test_an_address_without_a_server_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(SpecError, match=r"no Ray cluster answers at RAY_ADDRESS=127\.0\.0\.1:1 \(Connection refused\)"):
        start_ray()
