"""The workspace: the one folder under which everything is written, and how files get there.

    data/     the competition's files as they came
    cache/    results/ (what each stage returned), files/ (what stages pass to each other, named
              by their sha256), checkpoints/ (trainings in progress), locks/ (stages in progress)
    runs/     one folder per run, for people; ``latest`` points to the newest

A cache entry holds no absolute path, so the workspace can be moved.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from model.errors import PermanentError

MAKING = ".making-"
SETTLED_SECONDS = 60
ENVIRONMENT_VARIABLE = "DIGIT_RECOGNIZER_WORKSPACE"
DISK_FAULTS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EEXIST,
}


class Workspace:
    """The folders of one workspace, and the seconds that each stage of this run took."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()
        self.data = self.root / "data"
        self.runs = self.root / "runs"
        self.results = self.root / "cache" / "results"
        self.files = self.root / "cache" / "files"
        self.checkpoints = self.root / "cache" / "checkpoints"
        self.locks = self.root / "cache" / "locks"
        self.stage_seconds: dict[str, float] = {}

    def make_folders(self) -> None:
        """Create the folders and remove what killed runs left; PermanentError if that fails."""
        try:
            for folder in (self.data, self.runs, self.results, self.files, self.locks):
                folder.mkdir(parents=True, exist_ok=True)
            for folder in (self.root, self.files, self.results, self.runs):
                remove_abandoned(folder)
            with self.temporary_folder():
                pass  # the folders may exist and yet not be writable
        except OSError as error:
            raise PermanentError(
                f"The workspace {self.root} cannot be written: {error.strerror or error}"
                f" ({error.filename}).",
                "Choose another folder with --workspace, or fix its permissions.",
            ) from error

    def temporary_folder(self) -> AbstractContextManager[Path]:
        """An empty folder on the workspace's own disk, gone at the end."""
        return making_folder(self.files)

    @contextmanager
    def time_stage(self, name: str) -> Iterator[None]:
        """Add the seconds that the block takes to the stage's sum."""
        started = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - started
            self.stage_seconds[name] = self.stage_seconds.get(name, 0.0) + seconds


_current: Workspace | None = None


def current() -> Workspace:
    """The workspace of this process: that of the run in progress, else that of the environment.

    The environment is for worker processes, on this machine or on another one.
    """
    global _current
    if _current is None:
        _current = Workspace(Path(os.environ.get(ENVIRONMENT_VARIABLE) or "workspace"))
        _current.make_folders()
    return _current


@contextmanager
def opened(root: Path) -> Iterator[Workspace]:
    """Make ``root`` the workspace of this process and of those that it starts."""
    global _current
    workspace = Workspace(root)
    workspace.make_folders()
    before, _current = _current, workspace
    try:
        with environment(ENVIRONMENT_VARIABLE, str(workspace.root)):
            yield workspace
    finally:
        _current = before


@contextmanager
def environment(name: str, value: str | None) -> Iterator[None]:
    """Set an environment variable, or unset it with None; restore it at the end."""
    before = os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


@contextmanager
def making_folder(parent: Path) -> Iterator[Path]:
    """An empty folder to make something in; gone at the end unless it was renamed.

    Its lock tells a later run whether the one that made it is still alive.
    """
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=MAKING))
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(handle)
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(parent: Path) -> None:
    """Remove what killed runs left half-made here."""
    for folder in parent.glob(MAKING + "*"):
        try:
            if abs(time.time() - folder.stat().st_mtime) < SETTLED_SECONDS:
                continue  # it may just now be getting its lock (abs: the clock may be set back)
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue  # its maker has just removed or renamed it
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue  # its maker is alive
        finally:
            os.close(handle)


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def move_into_place(source: Path, target: Path) -> None:
    """Move a file to ``target`` atomically: another process sees all of it or nothing."""
    with source.open("rb+") as file:
        os.fsync(file.fileno())
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)  # somebody made a folder where the file belongs
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with making_folder(path.parent) as folder:
        made = folder / path.name
        made.write_text(text, encoding="utf-8", newline="\n")
        move_into_place(made, path)


def is_disk_fault(error: BaseException) -> bool:
    """Whether the disk refused something; NumPy says so of a full one in words alone."""
    return isinstance(error, OSError) and (
        error.errno in DISK_FAULTS or "requested and" in str(error)
    )


def disk_fault(error: OSError) -> PermanentError:
    """The error that says what the disk refused, and where."""
    place = error.filename2 or error.filename or current().root
    return PermanentError(
        f"{place}: {error.strerror or 'the disk is full'}.",
        "Free up or repair the disk, fix the permissions, or choose another --workspace; the same "
        "command then resumes.",
    )
