"""The ledger keeps what was confirmed, whatever a kill or a full disk leaves behind it."""

from __future__ import annotations

import errno
import os
import resource
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import PermanentError
from tasks.support.ledger import Entry, Judged, Ledger

JUDGED = Judged(accuracy=0.99, ci95=(0.98, 1), train_sha256="t", rows_sha256="r", wrong_rows=[3])


def entry(digest: str = "d", **more: object) -> Entry:
    values = {"time": datetime.now(UTC), "competition": "c", "digest": digest, "status": "sending"}
    return Entry.model_validate({**values, "run": "first", "judged": JUDGED, **more})


def append(path: Path, *entries: Entry) -> None:
    ledger = Ledger(path)
    with ledger.locked():
        for one in entries:
            ledger.append(one)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "submissions.jsonl"


def test_gives_back_what_was_appended(path: Path) -> None:
    entries = [
        entry("a"),
        entry("b", ref=3, score=0.5, reason="ü\n"),
        entry("a", status="error"),
    ]
    append(path, *entries)
    assert Ledger(path).entries() == entries
    assert Ledger(path).latest("c") == {"a": entries[2], "b": entries[1]}
    assert Ledger(path).latest("another") == {}


def test_of_a_new_workspace(path: Path) -> None:
    assert Ledger(path).entries() == []


@settings(deadline=None)
@given(st.data())
def test_a_cut_last_line_is_ignored_and_repaired(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "submissions.jsonl"
    append(path, entry("a"), entry("b"))
    whole = path.read_bytes()
    second = whole.index(b"\n") + 1
    path.write_bytes(whole[: data.draw(st.integers(second, len(whole) - 2))])
    assert [e.digest for e in Ledger(path).entries()] == ["a"]
    append(path, entry("c"))
    assert [e.digest for e in Ledger(path).entries()] == ["a", "c"]


def test_a_last_line_without_its_line_feed_counts(path: Path) -> None:
    append(path, entry("a"), entry("b"))
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))  # as some editors save it
    assert [e.digest for e in Ledger(path).entries()] == ["a", "b"]
    append(path, entry("c"))
    assert [e.digest for e in Ledger(path).entries()] == ["a", "b", "c"]


def test_a_damaged_line_is_named(path: Path) -> None:
    append(path, entry("a"))
    path.write_bytes(path.read_bytes() + b"{}\n" + path.read_bytes())
    with pytest.raises(PermanentError, match="Line 2 of "):
        Ledger(path).entries()


def test_a_full_disk_leaves_it_readable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(path, entry("a"))

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(PermanentError, match="No space left"):
            append(path, entry("b"))
    assert Ledger(path).entries()[0].digest == "a"


def test_a_line_that_the_disk_cuts_is_an_error(path: Path) -> None:
    append(path, entry("a"))
    limit, hard_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard_limit))
    try:
        with pytest.raises(PermanentError, match="the disk is full"):
            append(path, entry("b"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard_limit))
    assert [e.digest for e in Ledger(path).entries()] == ["a"]


def test_a_folder_in_its_place_is_named(path: Path) -> None:
    path.mkdir()
    with pytest.raises(PermanentError, match="cannot be written"):
        append(path, entry())


def append_many(path: Path, name: str) -> None:
    for number in range(50):
        append(path, entry(f"{name}-{number}"))


def test_writers_take_turns(path: Path) -> None:
    """flock(2) keeps two opens of a file apart, be they of one process or of two."""
    writers = [threading.Thread(target=append_many, args=(path, name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len({e.digest for e in Ledger(path).entries()}) == 150
