"""submissions.jsonl: what was sent to Kaggle from this workspace, and what came of it.

One JSON object per line, append-only; the last line about a digest is its current state. A last
line that a killed process left incomplete does not count, and is cut off before the next is added.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from model.errors import PermanentError
from tasks.support import workspace
from tasks.support.logs import log

Status = Literal["sending", "unknown", "refused", "absent", "pending", "complete", "error"]
OPEN = ("sending", "unknown", "pending")  # Kaggle may know more than the ledger
SENT = ("unknown", "pending", "complete")


class Judged(BaseModel):
    """How good the submitted model is on its validation rows: enough to compare another with it."""

    model_config = ConfigDict(frozen=True)

    accuracy: float
    ci95: tuple[float, float]
    train_sha256: str  # of train.csv
    rows_sha256: str  # of the list of rows that were held out
    wrong_rows: list[int]  # which of them it got wrong


class Entry(BaseModel):
    """One line of the ledger."""

    model_config = ConfigDict(frozen=True)

    time: datetime
    competition: str
    digest: str  # hex sha256 of submission.csv
    status: Status
    ref: int | None = None
    score: float | None = None
    reason: str = ""
    not_before: datetime | None = None  # until then Kaggle may yet list it: do not resend
    run: str
    judged: Judged


class Ledger:
    """The file, for reading at any time and for appending while its lock is held."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    @classmethod
    def current(cls) -> Ledger:
        """The ledger of the current workspace."""
        return cls(workspace.current().root / "submissions.jsonl")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs of this workspace from sending; the kernel frees a dead run's lock."""
        try:
            file = self.path.open("ab+", buffering=0)
        except OSError as error:
            raise self._unwritable(error) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log().info("Another run is submitting from this workspace; waiting for it.")
                fcntl.flock(file, fcntl.LOCK_EX)
            self._file = file
            try:
                yield
            finally:
                self._file = None

    def append(self, entry: Entry) -> None:
        """Add a line; it is on the disk when this returns."""
        assert self._file, "append() needs the lock"
        line = entry.model_dump_json().encode() + b"\n"
        before = self._whole_lines()
        try:
            self._file.truncate(len(before.removesuffix(b"\n")))
            line = b"\n" + line if before else line
            if self._file.write(line) != len(line):
                raise OSError("the disk is full")
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error

    def entries(self) -> list[Entry]:
        """All lines, oldest first."""
        entries = []
        for number, line in enumerate(self._whole_lines().splitlines(), start=1):
            try:
                entries.append(Entry.model_validate_json(line))
            except ValidationError as error:
                raise PermanentError(
                    f"Line {number} of {self.path} is damaged.",
                    "Remove that line: what was sent is found again in Kaggle's own list.",
                ) from error
        return entries

    def latest(self, competition: str) -> dict[str, Entry]:
        """The last entry about each digest of the competition."""
        return {e.digest: e for e in self.entries() if e.competition == competition}

    def _whole_lines(self) -> bytes:
        """The file without an incomplete last line; its last line feed may be missing (editors)."""
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise workspace.disk_fault(error) from error
        lines, line_feed, last = content.rpartition(b"\n")
        try:
            Entry.model_validate_json(last)
        except ValidationError:
            return lines + line_feed
        return content + b"\n"

    def _unwritable(self, error: OSError) -> PermanentError:
        return PermanentError(
            f"{self.path} cannot be written ({error.strerror or error}).",
            "Free up disk space or fix the file's permissions, and run it again: what Kaggle "
            "already has is found, and nothing is sent twice.",
        )
