"""Prefect's storage for what stages return: this disk, and behind it the artifact store.

Not Prefect's LocalFileSystem, which leaves a half-written result on a full disk and refuses to
replace what is not a file. Not prefect-aws' S3Bucket either: the files that a result names must be
stored before it, and a run must go on with what is on its disk while the bucket is out of reach.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect.filesystems import WritableFileSystem
from prefect.serializers import JSONSerializer
from prefect.utilities.importtools import to_qualified_name
from pydantic import Field, PrivateAttr

from model.errors import PermanentError, PipelineError, TransientError
from tasks.support import artifact_store, stored_checkpoints, workspace
from tasks.support.artifact_store import Item
from tasks.support.logs import log
from tasks.support.records import Record

PAUSE = 300  # seconds; a store that does not answer must not delay every stage


class ThisDisk(WritableFileSystem):
    """Results in the workspace alone."""

    def read_path(self, path: str, _sync: bool = True) -> bytes:  # type: ignore[override]
        """A result; Prefect takes any error raised here to mean that there is none."""
        return unsealed(self._resolve_path(path).read_text()).encode()

    def write_path(self, path: str, content: bytes, _sync: bool = True) -> None:  # type: ignore[override]
        """Save a result, whole or not at all; a training's checkpoints have then done their work.

        They are named by the same key. With them, --refresh would resume where it ended.
        """
        try:
            workspace.write_text(self._resolve_path(path), sealed(content.decode()))
        except OSError as error:  # of which Prefect shows nothing on the terminal
            log().warning("A result was not saved (%s): a later run computes it again.", error)
            raise
        key = self._resolve_path(path).name  # Prefect gives the whole path
        shutil.rmtree(workspace.current().checkpoints / key, ignore_errors=True)

    def _resolve_path(self, path: str) -> Path:
        """Prefect calls this too; a worker's workspace may be elsewhere than the flow's."""
        return workspace.current().results / path


class ArtifactStore(ThisDisk):
    """An artifact store as a Prefect block: ``ArtifactStore(uri="s3://...").save("main")``."""

    _block_type_name = "Artifact store"

    uri: str = Field(pattern=f"^{artifact_store.ADDRESS}$", description="s3://bucket/prefix")
    _shared: set[str] = PrivateAttr(default_factory=set)  # results known to be in the store
    _retry_at: float = PrivateAttr(default=0.0)  # after an outage, on the monotonic clock

    def read_path(self, path: str, _sync: bool = True) -> bytes:  # type: ignore[override]
        """A result from this disk, else from the store; ValueError if neither has it."""
        place = self._resolve_path(path)
        if place.is_file():
            self._share(place)
        else:
            workspace.write_text(place, self._fetch(place.name))
        return super().read_path(path)

    def write_path(self, path: str, content: bytes, _sync: bool = True) -> None:  # type: ignore[override]
        """Save a result on this disk and in the store."""
        super().write_path(path, content)
        self._share(self._resolve_path(path), anew=True)

    def _share(self, place: Path, anew: bool = False) -> None:
        """Upload a result, after its files; if that fails, the next reader tries again."""
        store, name = artifact_store.at(self.uri), f"results/{place.name}"
        if self._is_down() or (place.name in self._shared and not anew):
            return
        try:
            if anew or store.get(name) is None:
                store.upload(list(items_in(result_of(place.read_text()))))
                store.put(name, place.read_bytes())
                stored_checkpoints.forget(place.name)
            self._shared.add(place.name)
        except ValueError:
            pass  # a failed run's or stage's error, which Prefect stores too: of no use elsewhere
        except (PipelineError, OSError) as error:
            self._go_on_without(error)

    def _fetch(self, key: str) -> str:
        content = None
        try:
            if not self._is_down():
                content = artifact_store.at(self.uri).get(f"results/{key}")
        except PipelineError as error:
            self._go_on_without(error)
        if content is None:
            raise ValueError(f"There is no result {key}.")
        result_of(content.decode())
        self._shared.add(key)
        return content.decode()

    def _is_down(self) -> bool:
        return time.monotonic() < self._retry_at

    def _go_on_without(self, error: Exception) -> None:
        log().warning("The run goes on without its artifact store: %s", error)
        if isinstance(error, TransientError):
            self._retry_at = time.monotonic() + PAUSE


def sealed(content: str) -> str:
    """A result as it is saved: followed by a line with its sha256."""
    return f"{content}\n{hashlib.sha256(content.encode()).hexdigest()}\n"


def unsealed(kept: str) -> str:
    """The result; ValueError if it was altered."""
    content = kept[:-66]  # without two line feeds and a digest
    if sealed(content) != kept:
        raise ValueError("The result was altered.")
    return content


def result_of(kept: str) -> Any:
    """The JSON that a stage returned.

    What comes from elsewhere could itself tell Prefect how to read it, even as a pickle or by
    calling some function: ValueError for all but Prefect's own JSON of our records.
    """
    stored = json.loads(unsealed(kept))
    if stored["metadata"]["serializer"] != JSONSerializer().model_dump():
        raise ValueError("The result is not plain JSON.")
    return json.loads(stored["result"], object_hook=_of_records)


def _of_records(value: dict[str, Any]) -> dict[str, Any]:
    """An object of the JSON; ValueError if Prefect would turn it into anything but a record."""
    records = [to_qualified_name(record) for record in Record.__subclasses__()]
    if "__exc_type__" in value or ("__class__" in value and value["__class__"] not in records):
        raise ValueError("The result is no stage's.")
    return value


def items_in(value: Any) -> Iterator[Item]:
    """The files that a result names."""
    if isinstance(value, dict) and value.keys() == {"path", "sha256", "size"}:
        place = artifact_store.inside(workspace.current().root, value["path"])
        yield Item(f"cache/{value['sha256']}", place, value["sha256"], value["size"])
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from items_in(part)


def address(store: str | None) -> str | None:
    """``s3://bucket/prefix`` as it is; for ``artifact-store/NAME`` the address in that block."""
    if store is None or store.startswith("s3://"):
        return store
    try:
        block: Any = ArtifactStore.load(store.removeprefix("artifact-store/"))
    except ValueError as error:
        raise PermanentError(
            f"Prefect has no block {store}.", "Create it (docs/artifact-store.md), or give s3://..."
        ) from error
    return str(block.uri)
