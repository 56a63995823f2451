"""A small disk, mounted for a test: needs root, or a sudo that asks for no password."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """An empty disk of ``size`` in place of the folder; OSError where that is not permitted."""
    folder.mkdir()
    _as_root("mount", "-t", "tmpfs", "-o", f"size={size},mode=777", "tmpfs", folder)
    try:
        yield
    finally:
        _as_root("umount", "--lazy", folder)


def change(folder: Path, options: str) -> None:
    """Make the disk read-only (``ro``), or of another size (``size=2m``)."""
    _as_root("mount", "-o", f"remount,{options}", folder)


def _as_root(*command: str | Path) -> None:
    sudo = () if os.geteuid() == 0 else ("sudo", "-n")
    done = subprocess.run([*sudo, *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PermissionError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
