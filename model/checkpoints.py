"""Checkpoints: the state of a training, saved after every epoch, so that it can be resumed."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from model import processor
from model.history import Epoch
from model.recipes import Recipe

if TYPE_CHECKING:
    import tensorflow as tf

KEPT = 2  # the newest, and the one before it in case the newest is damaged

logger = logging.getLogger(__name__)


class Checkpoints:
    """The newest checkpoints of a training in a folder, ``epoch-0007-<sha256 of the file>.npz``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def restore(self, variables: list[tf.Variable]) -> list[Epoch]:
        """Load the newest undamaged checkpoint into the variables; its history, or [] if none."""
        for path in sorted(self.folder.glob("epoch-*.npz"), reverse=True):
            try:
                content = path.read_bytes()
            except OSError as error:
                logger.warning(
                    "The checkpoint %s cannot be read (%s) and is not used.", path, error
                )
                continue
            if hashlib.sha256(content).hexdigest() != path.stem.rpartition("-")[2]:
                logger.warning("The checkpoint %s is damaged and is not used.", path)
                continue
            with np.load(io.BytesIO(content), allow_pickle=False) as saved:
                for index, variable in enumerate(variables):
                    variable.assign(saved[str(index)])
                history = [Epoch(**epoch) for epoch in json.loads(str(saved["history"]))]
            logger.info("Training resumes after epoch %d, from %s.", len(history), path)
            return history
        return []

    def save(self, variables: list[tf.Variable], history: list[Epoch]) -> None:
        """Write the state after the last epoch of the history, whole or not at all.

        If it cannot be written, training goes on: it is worth more than its checkpoint.
        """
        history_json = json.dumps([asdict(epoch) for epoch in history])
        arrays = {"history": np.array(history_json)}
        arrays |= {str(index): value.numpy() for index, value in enumerate(variables)}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        content = buffer.getvalue()
        name = f"epoch-{len(history):04}-{hashlib.sha256(content).hexdigest()}.npz"
        unfinished = self.folder / "unfinished"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self.folder / name)
            found = {path for path in self.folder.glob("epoch-*.npz") if path.is_file()}
            # Those of later epochs are damaged: the training did not resume from them.
            newest = sorted(path for path in found if path.name <= name)[-KEPT:]
            for path in found.difference(newest):
                path.unlink()
        except OSError as error:
            logger.warning(
                "The checkpoint after epoch %d cannot be saved (%s). Training goes on; if it is "
                "interrupted, it resumes from the previous checkpoint.",
                len(history),
                error,
            )


def identity(
    recipe: Recipe,
    seed: int,
    member: int,
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    validation: NDArray[np.bool_],
) -> str:
    """A name that two trainings share only if, with the same code, they give the same bytes."""
    import keras
    import tensorflow as tf

    data = hashlib.sha256()
    for array in (images, labels, validation):
        data.update(np.ascontiguousarray(array).data)
    what = {
        "recipe": recipe.model_dump(),
        "seed": seed,
        "member": member,
        "data": data.hexdigest(),
        "machine": processor.identity(),
        "threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "graphs": tf.config.optimizer.get_experimental_options(),
        "versions": [tf.__version__, keras.__version__],
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]
