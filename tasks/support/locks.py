"""Locks between processes on flock(2): the kernel frees the lock of a process that died."""

from __future__ import annotations

import fcntl
import math
import time
from typing import IO

from tasks.support import workspace
from tasks.support.logs import log

TELL_SECONDS = 1  # who waits longer is told why

_held: dict[str, tuple[str, IO[bytes]]] = {}  # key: holder and open lock file, in this process


class FileLocks:
    """Prefect's lock manager: who needs a result that another run is making waits for it."""

    def acquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,  # noqa: ARG002
    ) -> bool:
        """Take the lock; wait for it as long as ``acquire_timeout`` seconds, or for ever."""
        if self.is_lock_holder(key, holder):
            return True
        deadline = None if acquire_timeout is None else time.monotonic() + acquire_timeout
        file = (workspace.current().locks / key).open("ab")
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
        """Give the lock back."""
        if self.is_lock_holder(key, holder):
            _held.pop(key)[1].close()

    def is_locked(self, key: str) -> bool:
        """Whether any process holds the lock."""
        with (workspace.current().locks / key).open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Whether this very holder has it."""
        return key in _held and _held[key][0] == holder

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait until nobody holds the lock."""
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
