"""A run's folder under ``runs/``: complete once it exists, with a manifest of all its files."""

from __future__ import annotations

import json
import mimetypes
import shutil
from pathlib import Path
from typing import Any

from tasks.support import workspace
from tasks.support.records import File

MANIFEST = "manifest.json"
PENDING = ".upload-pending"  # marks a run that is not in the artifact store yet


def write(name: str, files: dict[str, File | str], store: str | None) -> Path:
    """Make the run's folder under a temporary name, then rename it: once it exists, it is complete.

    ``store`` is the address of the artifact store that the run is to be uploaded to.
    """
    runs = workspace.current().runs
    with workspace.making_folder(runs) as making:
        for path, content in files.items():
            target = making / path
            target.parent.mkdir(exist_ok=True)
            if isinstance(content, File):
                shutil.copyfile(content.location, target)
            else:
                target.write_text(content, encoding="utf-8", newline="\n")
        manifest = [describe(path, making) for path in sorted(making.rglob("*")) if path.is_file()]
        (making / MANIFEST).write_text(as_json({"run": name, "files": manifest}))
        if store:
            (making / PENDING).write_text(store)
        making.chmod(0o755)
        making.rename(runs / name)
    point_latest_to(runs / name)
    return runs / name


def each(name: str, runs: Path) -> list[Path]:
    """The file of that name in every run, ordered by run; not in ``latest`` or unfinished runs."""
    return sorted(
        path
        for path in runs.glob(f"*/{name}")
        if not path.parent.is_symlink() and not path.parent.name.startswith(workspace.MAKING)
    )


def describe(path: Path, root: Path) -> dict[str, Any]:
    """The file's entry in manifest.json."""
    return {
        "path": path.relative_to(root).as_posix(),
        "size": path.stat().st_size,
        "sha256": workspace.sha256_of(path),
        "media_type": MEDIA_TYPES.get(path.suffix)
        or mimetypes.guess_type(path.name)[0]
        or "application/octet-stream",
    }


MEDIA_TYPES = {".keras": "application/zip", ".md": "text/markdown", ".csv": "text/csv"}


def point_latest_to(folder: Path) -> None:
    """Rename a new link over ``latest``, so that there is no moment without one."""
    with workspace.making_folder(folder.parent) as making:
        (making / "latest").symlink_to(folder.name)
        (making / "latest").replace(folder.parent / "latest")


def as_json(content: object) -> str:
    """Indented JSON with a final newline."""
    return json.dumps(content, indent=2, default=str) + "\n"
