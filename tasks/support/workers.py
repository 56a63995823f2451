"""What a worker that shares no environment with the flow needs: where the run keeps its files.

A worker that sees the flow's workspace works in it. One that does not, or whose environment names
another, has a workspace of its own: it gets its inputs from the artifact store by their digest, and
leaves its results there.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from model.errors import PipelineError
from tasks.support import artifact_store, tensorflow_import, workspace
from tasks.support.code_digest import project_digest
from tasks.support.versions import version_of

LIBRARIES = ("tensorflow", "keras", "numpy", "prefect")
# What `flows` sets before TensorFlow is imported; it must be the same everywhere.
ENVIRONMENT = ("TF_ENABLE_ONEDNN_OPTS", "TF_CPP_MIN_LOG_LEVEL")
# This process's own, read at import: each member sets the variable to its run's workspace.
OWN_WORKSPACE = os.environ.get(workspace.ENVIRONMENT_VARIABLE)


@dataclass(frozen=True)
class Place:
    """Where a run keeps its files, and what its workers must have."""

    root: Path  # of the flow's workspace
    marker: Path  # a file in it: a worker that sees it shares the folder
    store: str | None
    environment: dict[str, str]
    software: dict[str, str]

    @property
    def shared(self) -> bool:
        """Whether this process works in the flow's folder."""
        own = workspace.Workspace(Path(OWN_WORKSPACE or self.root)).root
        return self.marker.exists() and own == self.root

    def unfit(self) -> str | None:
        """Why this process cannot work for the run; None if it can."""
        for name, ours in software().items():
            if ours != self.software[name]:
                return f"has {name} {ours[:12]}, the flow {self.software[name][:12]}"
        if self.shared:
            return None
        if not self.store:
            return f"does not work in the flow's {self.root}, and there is no --artifact-store"
        try:
            artifact_store.at(self.store).reach()
        except PipelineError as error:
            return f"shares no folder with the flow and has no store: {error.cause}"
        return None

    @contextmanager
    def entered(self) -> Iterator[None]:
        """In a worker: keep results and files where the run does."""
        os.environ.update(self.environment)
        tensorflow_import.use_one_core()
        root = self.root if self.shared else workspace.current().root
        token = _own_disk.set(not self.shared)
        try:
            with (
                workspace.opened(root),
                workspace.environment(artifact_store.ENVIRONMENT_VARIABLE, self.store),
            ):
                yield
        finally:
            _own_disk.reset(token)


_own_disk: ContextVar[bool] = ContextVar("own_disk", default=False)


def has_own_disk() -> bool:
    """Whether this process is a worker that shares no folder with the flow."""
    return _own_disk.get()


@contextmanager
def place() -> Iterator[Place]:
    """In the flow: the place of the run in progress."""
    opened, store = workspace.current(), artifact_store.current()
    with tempfile.NamedTemporaryFile(dir=opened.locks, prefix="seen-by-workers-") as marker:
        yield Place(
            root=opened.root,
            marker=Path(marker.name),
            store=store.uri if store else None,
            environment={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
            software=software(),
        )


def software() -> dict[str, str]:
    """The versions that a member's bytes depend on."""
    versions = {name: version_of(name) for name in LIBRARIES}
    return {"code": project_digest(), "python": platform.python_version(), **versions}
