"""Errors with which Ray does not start or join become one sentence with their cause."""

import errno
import os
import resource
import sys
from pathlib import Path

import pytest
import ray
from ray._private import services

from fedray.backends.ray import own_ray
from fedray.backends.ray.cluster import start_ray
from fedray.backends.ray.joining import checked_address
from fedray.backends.ray.start_errors import start_error
from fedray.errors import RunError, SpecError

TIMED_OUT = Exception("The current node timed out during startup. This could happen because a process failed.")


@pytest.mark.parametrize(
    "address",
    ["headnode", "a:b:c", "ray://head:10001", "http://head:8265", "local:", "LOCAL", ":6379", "head:0", "head:99999",
     "head:６３７９", "head:-1", "a/b:1", "head:" + "9" * 5000],
)  # fmt: skip
def test_address_in_another_form_names_the_forms(address: str) -> None:
    with pytest.raises(SpecError, match=r"but must be HOST:PORT, such as .*; or auto, .* or local"):
        checked_address(address)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", ".bad:6379", "a" * 300 + ":6379", "no such host:1"])
def test_host_that_cannot_be_reached_is_named(address: str) -> None:
    with pytest.raises(SpecError, match="RAY_ADDRESS"):
        checked_address(address)


def test_auto_without_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", " auto ")
    monkeypatch.setattr(services, "find_gcs_addresses", set)  # other users' clusters run here, too
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # other tests share a Ray in this process
    with pytest.raises(SpecError, match="no Ray cluster runs on this machine"):
        start_ray()


def test_empty_address_means_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "  ", "local", " local "):
        monkeypatch.setenv("RAY_ADDRESS", value)
        assert own_ray.cluster_address() == "local"
    monkeypatch.delenv("RAY_ADDRESS")
    assert own_ray.cluster_address() == "local"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError("validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /x"), "set RAY_TMPDIR"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/ray/x"), "no space left for its temporary folder"),
        (PermissionError(errno.EACCES, "Permission denied", "/tmp/ray"), "'/tmp/ray' cannot be used"),
        (OSError(errno.EROFS, "Read-only file system", "/home/me/.ray"), "'/home/me/.ray' cannot be used"),
    ],
)
def test_causes_that_the_user_can_change(error: OSError, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/scratch/job")
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    found = start_error(error, "local")
    assert isinstance(found, SpecError)
    assert expected in str(found)
    assert "overloaded" not in str(found)


def test_only_a_timeout_asks_whether_the_machine_is_overloaded() -> None:
    for error in (TIMED_OUT, TimeoutError("Timed out waiting for file /tmp/ray/x")):
        found = start_error(error, "local")
        assert isinstance(found, RunError)
        assert str(found).endswith("is the machine overloaded?")
    assert "overloaded" not in str(start_error(RuntimeError("Failed to start\nlog"), "local"))
    assert str(start_error(ValueError(), "local")) == "Ray did not start (ValueError: no reason given)."


def test_too_low_limit_of_open_files_is_the_cause_of_a_timeout() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (63, limits[1]))
    try:
        found = start_error(TIMED_OUT, "local")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert isinstance(found, SpecError)
    assert "the limit is 63: ulimit -n 4096" in str(found)


def test_cluster_of_another_version_or_another_error() -> None:
    assert "has another version" in str(start_error(RuntimeError("Version mismatch: 2.50 and 2.60"), "h:1"))
    assert "refuses the connection (no)" in str(start_error(ConnectionError("no\nlog"), "h:1"))
    assert "cannot be joined (KeyError: 'x')" in str(start_error(KeyError("x"), "h:1"))


def test_protection_leaves_the_settings_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path), "RAY_ADDRESS": "h:1"})
    own_ray.protect()
    assert os.environ == {"HOME": str(tmp_path), "RAY_ADDRESS": "h:1"}
    os.environ |= {"RAY_ADDRESS": "", "RAY_AUTH_MODE": "disabled", own_ray.CLUSTER_SWITCH: "1"}
    own_ray.protect()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert os.environ[own_ray.CLUSTER_SWITCH] == "1"
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_each_session_has_a_token_of_its_own_unless_the_user_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    tokens = []
    for _ in range(2):
        monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path)})
        own_ray.protect()
        assert os.environ["RAY_AUTH_MODE"] == "token"
        tokens.append(os.environ["RAY_AUTH_TOKEN"])
    assert len(set(tokens)) == 2
    assert {len(token) for token in tokens} == {64}
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("mine")
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path)})
    own_ray.protect()
    assert "RAY_AUTH_TOKEN" not in os.environ
