"""The watchdog, on real processes and without Ray."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import psutil
import pytest
from helpers.processes import wait_for

from fedray.backends.ray import supervision as supervision_module
from fedray.backends.ray import watchdog
from fedray.backends.ray.supervision import Supervision, processes_of
from fedray.backends.ray.watchdog import Watchdog
from fedray.errors import RayLostError


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(["sleep", "100"])
    yield process
    process.kill()
    process.wait()


def no_loss() -> str:
    return ""


def test_a_killed_child_is_reported_once(child: "subprocess.Popen[bytes]") -> None:
    """The child is a zombie: its parent does not wait for it."""
    losses: list[str] = []
    Watchdog({"sleep": psutil.Process(child.pid)}, no_loss, losses.append)
    time.sleep(3 * watchdog.POLL_INTERVAL_S)
    assert losses == []
    child.kill()
    wait_for(lambda: bool(losses), timeout_s=5)
    time.sleep(3 * watchdog.POLL_INTERVAL_S)
    assert losses == ["its process sleep has ended (perhaps memory ran out)"]


def test_nothing_is_reported_after_stop(child: "subprocess.Popen[bytes]") -> None:
    losses: list[str] = []
    watching = Watchdog({"sleep": psutil.Process(child.pid)}, no_loss, losses.append)
    watching.stop()
    child.kill()
    time.sleep(3 * watchdog.POLL_INTERVAL_S)
    assert losses == []


def test_a_process_that_another_one_replaced_has_ended(child: "subprocess.Popen[bytes]") -> None:
    process = psutil.Process(child.pid)
    assert watchdog.is_alive(process)
    child.kill()
    child.wait()
    assert not watchdog.is_alive(process)


def test_the_clause_of_a_query_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "QUERY_INTERVAL_S", 0.01)
    losses: list[str] = []
    Watchdog({}, lambda: "the node is dead", losses.append)
    wait_for(lambda: bool(losses), timeout_s=5)
    assert losses == ["the node is dead"]


def test_a_query_without_reply_is_a_loss_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "QUERY_INTERVAL_S", 0.01)
    losses: list[str] = []
    replies = Event()
    start = time.monotonic()
    Watchdog({}, lambda: str(replies.wait()), losses.append, reply_timeout_s=1.0)
    wait_for(lambda: bool(losses), timeout_s=10)
    replies.set()
    assert losses == ["it has not replied for 1 seconds"]
    assert time.monotonic() - start > 0.9


def test_a_query_that_raises_now_and_then_is_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "QUERY_INTERVAL_S", 0.01)
    calls, losses = [], []

    def query() -> str:
        calls.append(0)
        if len(calls) % 2:
            raise ConnectionError
        return ""

    watching = Watchdog({}, query, losses.append, reply_timeout_s=0.5)
    time.sleep(1.5)
    watching.stop()
    assert losses == []
    assert len(calls) > 10


class TestSupervision:
    def test_a_loss_kills_the_writers_of_the_session_folder_and_nobody_else(
        self, child: "subprocess.Popen[bytes]", tmp_path: Path
    ) -> None:
        """A person who reads a log of the session keeps the reader."""
        session, other = tmp_path / "session_1", tmp_path / "session_11"
        session.mkdir()
        other.mkdir()
        (session / "log").touch()
        commands = {
            "worker": f"exec sleep 100 > {session}/worker.out",
            "other": f"exec sleep 100 > {other}/worker.out",
            "reader": f"exec sleep 100 < {session}/log",
        }
        started = {name: subprocess.Popen(["sh", "-c", command]) for name, command in commands.items()}
        wait_for(lambda: all(psutil.Process(each.pid).name() == "sleep" for each in started.values()), timeout_s=10)
        assert [process.pid for process in processes_of(session)] == [started["worker"].pid]
        errors: list[RayLostError] = []
        watched = Supervision()
        watched.handler = errors.append
        watched.watch({"raylet": psutil.Process(child.pid)}, no_loss, session)
        child.kill()
        wait_for(lambda: bool(errors), timeout_s=10)
        assert not psutil.pid_exists(started["worker"].pid)
        assert started["other"].poll() is started["reader"].poll() is None
        assert str(errors[0]) == "Ray was lost: its process raylet has ended (perhaps memory ran out)"
        assert errors[0].can_restart
        for process in started.values():
            process.kill()
            process.wait()

    def test_check_raises_without_waiting_for_the_watchdog(self, child: "subprocess.Popen[bytes]") -> None:
        watched = Supervision()
        watched.check()
        watched.watch({"raylet": psutil.Process(child.pid)}, no_loss, None)
        watched.check()
        child.kill()
        wait_for(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE, timeout_s=5)
        with pytest.raises(RayLostError, match="Ray was lost: its process raylet has ended") as raised:
            watched.check()
        assert not raised.value.can_restart  # a cluster that was joined

    def test_a_shutdown_that_hangs_is_left_after_a_limited_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(supervision_module, "SHUTDOWN_TIMEOUT_S", 0.2)
        monkeypatch.setattr(supervision_module, "KILL_TIMEOUT_S", 0.2)
        event = Event()
        assert not Supervision().stop(event.wait)
        event.set()
        assert Supervision().stop(event.wait)
