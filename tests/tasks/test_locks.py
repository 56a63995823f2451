"""A lock has one holder among all processes, and none once that is dead."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from model.errors import PermanentError
from tasks.support import locks
from tasks.support.locks import FileLocks
from tasks.support.workspace import ENVIRONMENT_VARIABLE, Workspace

HOLD = """
import time
from tasks.support.locks import FileLocks
print(FileLocks().acquire_lock("key", "theirs", acquire_timeout=0), flush=True)
time.sleep(600)
"""


@pytest.fixture
def hold(opened_workspace: Workspace) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start another process that asks for the lock and then sleeps."""
    started: list[subprocess.Popen[str]] = []

    def hold() -> subprocess.Popen[str]:
        environment = {**os.environ, ENVIRONMENT_VARIABLE: str(opened_workspace.root)}
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, env=environment
            )
        )
        return started[-1]

    yield hold
    for process in started:
        process.kill()
        process.communicate()


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_a_lock_has_one_holder(hold: Callable[[], subprocess.Popen[str]]) -> None:
    ours = FileLocks()
    assert says(hold()) == "True"
    assert ours.is_locked("key")
    assert not ours.acquire_lock("key", "ours", acquire_timeout=0)
    assert not ours.wait_for_lock("key", timeout=0)
    assert says(hold()) == "False"
    assert ours.acquire_lock("another key", "ours", acquire_timeout=0)


def test_who_waits_for_another_run_is_told_once(
    hold: Callable[[], subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(locks, "TELL_SECONDS", 0)
    assert says(hold()) == "True"
    with caplog.at_level(logging.INFO):
        assert not FileLocks().acquire_lock("key", "ours", acquire_timeout=0.5)
    assert caplog.text.count("Another run is computing this result") == 1


def test_a_dead_holders_lock_is_free(hold: Callable[[], subprocess.Popen[str]]) -> None:
    ours, theirs = FileLocks(), hold()
    assert says(theirs) == "True"
    assert not ours.acquire_lock("key", "ours", acquire_timeout=0)
    theirs.send_signal(signal.SIGKILL)
    assert ours.acquire_lock("key", "ours", acquire_timeout=60)
    assert says(hold()) == "False"
    ours.release_lock("key", "ours")
    assert says(hold()) == "True"


def test_one_process_does_not_give_back_what_another_holds(
    hold: Callable[[], subprocess.Popen[str]],
) -> None:
    assert says(hold()) == "True"
    FileLocks().release_lock("key", "theirs")
    assert FileLocks().is_locked("key")


def test_two_threads_of_a_process_do_not_share_a_lock(opened_workspace: Workspace) -> None:
    locks = FileLocks()
    assert locks.acquire_lock("key", "one", acquire_timeout=0)
    assert locks.acquire_lock("key", "one", acquire_timeout=0)  # it has it
    assert not locks.acquire_lock("key", "other", acquire_timeout=0)
    locks.release_lock("key", "other")
    assert locks.is_lock_holder("key", "one")


def test_a_folder_in_its_place_is_named(opened_workspace: Workspace) -> None:
    (opened_workspace.locks / "key").mkdir()
    with pytest.raises(PermanentError, match=r"locks/key: Is a directory\."):
        FileLocks().acquire_lock("key", "ours")
