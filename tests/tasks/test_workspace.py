"""Everything is written under one folder, whole or not at all."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.errors import PermanentError
from tasks.support import workspace
from tasks.support.records import File
from tasks.support.workspace import Workspace


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_file_is_kept_under_its_digest(opened_workspace: Workspace) -> None:
    with opened_workspace.temporary_folder() as folder:
        (folder / "made.txt").write_text("hello")
        file = File.keep(folder / "made.txt")
    assert file.location.read_text() == "hello"
    assert file.location.name == f"{file.sha256}.txt"
    assert file.path == f"cache/files/{file.sha256}.txt"
    assert list(opened_workspace.files.iterdir()) == [file.location]


def test_a_folder_in_a_files_place_gives_way(opened_workspace: Workspace, tmp_path: Path) -> None:
    made, target = tmp_path / "made", opened_workspace.data / "train.csv"
    made.write_text("new")
    (target / "folder").mkdir(parents=True)
    workspace.move_into_place(made, target)
    assert target.read_text() == "new"


def test_what_a_dead_run_was_making_is_removed(opened_workspace: Workspace) -> None:
    abandoned = opened_workspace.files / ".making-abandoned"
    abandoned.mkdir()
    os.utime(abandoned, (0, 0))
    with opened_workspace.temporary_folder() as alive:
        os.utime(alive, (0, 0))
        opened_workspace.make_folders()
        assert alive.is_dir()
        assert not abandoned.exists()


def test_a_workspace_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "workspace").write_text("")
    with pytest.raises(PermanentError, match=r"workspace cannot be written.*--workspace"):
        Workspace(tmp_path / "workspace").make_folders()


def test_a_read_only_workspace(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(PermanentError, match="cannot be written: Read-only file system"):
        Workspace(small_disk).make_folders()


def test_a_full_disk_leaves_nothing_half_written(small_disk: Path) -> None:
    with workspace.opened(small_disk / "workspace") as opened:
        (opened.data / "notes").write_text("before")
        with pytest.raises(OSError, match="No space left"):
            workspace.write_text(opened.data / "notes", "x" * 2_000_000)
        assert (opened.data / "notes").read_text() == "before"
        assert list(opened.data.iterdir()) == [opened.data / "notes"]
