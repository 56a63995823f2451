"""Everything is written under one folder, whole or not at all."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from model.errors import PermanentError
from tasks.support import workspace
from tasks.support.records import File
from tasks.support.workspace import Workspace
from tests.small_disk import change, small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    with ExitStack() as stack:
        try:
            stack.enter_context(small_disk(tmp_path / "disk", "1m"))
        except OSError as error:
            pytest.skip(f"full and read-only disks are NOT tested here: {error}")
        yield tmp_path / "disk"


def test_a_file_is_kept_under_its_digest(opened_workspace: Workspace) -> None:
    with opened_workspace.temporary_folder() as folder:
        (folder / "made.txt").write_text("hello")
        file = File.keep(folder / "made.txt")
    assert file.location.read_text() == "hello"
    assert file.location.name == f"{file.sha256}.txt"
    assert file.path == f"cache/files/{file.sha256}.txt"
    assert list(opened_workspace.files.iterdir()) == [file.location]


def test_no_pickle_is_loaded(opened_workspace: Workspace) -> None:
    with opened_workspace.temporary_folder() as folder:
        (folder / "made.npy").write_bytes(pickle.dumps([1]))
        file = File.keep(folder / "made.npy")
    with pytest.raises(ValueError, match="pickle"):
        file.array()


def test_a_folder_in_a_files_place_gives_way(opened_workspace: Workspace, tmp_path: Path) -> None:
    made, target = tmp_path / "made", opened_workspace.data / "train.csv"
    made.write_text("new")
    (target / "folder").mkdir(parents=True)
    workspace.move_into_place(made, target)
    assert target.read_text() == "new"


def test_a_text_that_a_dead_run_was_writing_is_removed(
    opened_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    for place in (opened_workspace.results / "key", opened_workspace.root / "leaderboard.csv"):
        with monkeypatch.context() as dying:
            dying.setattr(workspace, "move_into_place", kill)
            dying.setattr("shutil.rmtree", lambda *_, **__: None)
            with pytest.raises(Killed):
                workspace.write_text(place, "half")
        (left,) = place.parent.glob(".*")
        os.utime(left, (0, 0))
        opened_workspace.make_folders()
        assert not left.exists()


@pytest.mark.parametrize("moment", [0, 2**32], ids=["long ago", "before the clock was set back"])
def test_what_a_dead_run_was_making_is_removed(opened_workspace: Workspace, moment: int) -> None:
    opened = opened_workspace
    places = opened.root, opened.files, opened.results, opened.runs
    abandoned = [place / f"{workspace.MAKING}abandoned" for place in places]
    for folder in abandoned:
        folder.mkdir()
        os.utime(folder, (moment, moment))
    with opened.temporary_folder() as alive:
        os.utime(alive, (0, 0))
        opened.make_folders()
        assert alive.is_dir()
    assert not [folder for folder in abandoned if folder.exists()]


def test_what_another_run_has_just_begun_to_make_is_left(opened_workspace: Workspace) -> None:
    begun = opened_workspace.files / f"{workspace.MAKING}begun"
    begun.mkdir()  # and not locked yet
    opened_workspace.make_folders()
    assert begun.is_dir()


@pytest.mark.parametrize("looked_at", ["stat", "open"])
def test_what_another_process_removes_meanwhile_is_left_to_it(
    opened_workspace: Workspace, looked_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = opened_workspace.files / f"{workspace.MAKING}x"
    folder.mkdir()
    os.utime(folder, (1, 1))
    owner: Any = Path if looked_at == "stat" else os
    original = getattr(owner, looked_at)

    def removed_before(path: object, *arguments: object, **options: object) -> object:
        if path == folder:
            with suppress(FileNotFoundError):
                folder.rmdir()
        return original(path, *arguments, **options)

    monkeypatch.setattr(owner, looked_at, removed_before)
    workspace.remove_abandoned(opened_workspace.files)
    monkeypatch.undo()
    assert not folder.exists()


def test_a_workspace_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "workspace").write_text("")
    with pytest.raises(PermanentError, match=r"workspace cannot be written.*--workspace"):
        Workspace(tmp_path / "workspace").make_folders()


def test_a_read_only_workspace(disk: Path) -> None:
    change(disk, "ro")
    with pytest.raises(PermanentError, match="cannot be written: Read-only file system"):
        Workspace(disk).make_folders()


def test_a_full_disk_leaves_nothing_half_written(disk: Path) -> None:
    with workspace.opened(disk / "workspace") as opened:
        (opened.data / "notes").write_text("before")
        with pytest.raises(OSError, match="No space left"):
            workspace.write_text(opened.data / "notes", "x" * 2_000_000)
        assert (opened.data / "notes").read_text() == "before"
        assert list(opened.data.iterdir()) == [opened.data / "notes"]
