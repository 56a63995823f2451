"""Locks between processes on flock(2): the kernel frees the lock of a process that died."""

from __future__ import annotations

import fcntl
import math
import time
from typing import IO

from tasks.support import workspace
from tasks.support.logs import log

TELL_SECONDS = 1  # a longer wait is logged

_held: dict[str, tuple[str, IO[bytes]]] = {}  # key: holder and open lock file, in this process


class FileLocks:
    """A lock manager for Prefect: a run waits for a result that another one is computing."""

    def acquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,  # noqa: ARG002
    ) -> bool:
        """Take the lock; False if not within ``acquire_timeout`` seconds (None: wait for ever)."""
        if self.is_lock_holder(key, holder):
            return True
        deadline = None if acquire_timeout is None else time.monotonic() + acquire_timeout
        file = open_lock(key)
        told_at = time.monotonic() + TELL_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if deadline is not None and time.monotonic() >= deadline:
                    file.close()
                    return False
                if time.monotonic() > told_at:
                    log().info("Another run is computing this result; waiting for it.")
                    told_at = math.inf
                time.sleep(0.1)
            else:
                _held[key] = (holder, file)
                return True

    def release_lock(self, key: str, holder: str) -> None:
        """Release the lock, if ``holder`` has it."""
        if self.is_lock_holder(key, holder):
            _held.pop(key)[1].close()

    def is_locked(self, key: str) -> bool:
        """Whether any process holds the lock."""
        with open_lock(key) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Whether ``holder`` has the lock."""
        return key in _held and _held[key][0] == holder

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait until nobody holds the lock; False if that takes longer than ``timeout`` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.is_locked(key):
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(0.1)
        return True

    async def aacquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,
    ) -> bool:
        """Part of Prefect's protocol; the stages are synchronous."""
        return self.acquire_lock(key, holder, acquire_timeout, hold_timeout)

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Part of Prefect's protocol; the stages are synchronous."""
        return self.wait_for_lock(key, timeout)


def open_lock(key: str) -> IO[bytes]:
    """The file whose lock is the key's; PermanentError if the disk refuses it."""
    try:
        return (workspace.current().locks / key).open("ab")
    except OSError as error:
        raise workspace.disk_fault(error) from error
