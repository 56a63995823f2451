"""The newest checkpoint of a training in the artifact store: ``checkpoints/<cache key>``.

For workers with a disk of their own: whichever takes over a dead worker's member finds it there.
One object per training, replaced at every epoch: the file's path, a line feed and its contents.
"""

from __future__ import annotations

from pathlib import Path

from model.errors import PipelineError
from tasks.support import artifact_store, workers, workspace
from tasks.support.logs import log


def bring(folder: Path) -> None:
    """Put the stored checkpoint, if there is one, where the training looks for it."""
    store = artifact_store.current()
    if not store or not workers.has_own_disk():
        return
    try:
        content = store.get(f"checkpoints/{folder.name}")
        if content:
            path, _, state = content.partition(b"\n")
            place = artifact_store.inside(folder, path.decode())
            with workspace.current().temporary_folder() as making:
                (making / "state").write_bytes(state)
                workspace.move_into_place(making / "state", place)
    except (PipelineError, OSError, UnicodeDecodeError) as error:
        log().warning("The training begins without the stored checkpoint: %s", error)


def send(folder: Path) -> None:
    """Store the newest checkpoint; if the store fails, training matters more and goes on."""
    store, states = artifact_store.current(), sorted(folder.glob("*/epoch-*.npz"))
    if not store or not states or not workers.has_own_disk():
        return
    path = states[-1].relative_to(folder).as_posix()
    try:
        store.put(f"checkpoints/{folder.name}", path.encode() + b"\n" + states[-1].read_bytes())
    except (PipelineError, OSError) as error:
        log().warning("The checkpoint is on this worker's disk only: %s", error)


def forget(key: str) -> None:
    """The training's result is stored: empty its checkpoint, or --refresh would resume from it."""
    store = artifact_store.current()
    if store and workers.has_own_disk():
        store.put(f"checkpoints/{key}", b"")
