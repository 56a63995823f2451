"""Train one network by a recipe: one loop for all recipes, resumable after every epoch."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model import networks, prediction
from model.errors import PermanentError
from model.evaluation import evaluate
from model.recipes import Recipe

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

Images = NDArray[np.uint8]  # (n, 28, 28, 1), 0 to 255
Labels = NDArray[np.uint8]  # (n,), 0 to 9

CHUNK_ROWS = 2_000  # one call into TensorFlow, some 0.2 s: often enough for a live progress bar
KEPT_CHECKPOINTS = 2  # the newest, and the one before should the newest be damaged

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave. Training figures are means while the weights change, with dropout."""

    epoch: int  # counted from 1
    train_accuracy: float
    train_loss: float
    validation_accuracy: float
    validation_loss: float
    learning_rate: float  # at the epoch's end
    seconds: float


@dataclass(frozen=True)
class Trained:
    """A trained network and how it came to be."""

    model: keras.Model
    history: list[Epoch]
    stopped_early: bool  # the target accuracy was reached before the last epoch
    train_seconds: float  # all epochs and set-up, also what a run before a resume took


def train(
    recipe: Recipe,
    images: Images,
    labels: Labels,
    validation: NDArray[np.bool_],
    seed: int,
    *,
    member: int = 0,
    on_batch: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpoints: Path | None = None,
) -> Trained:
    """Train a member of the recipe on the rows outside ``validation`` (n,), which are held out.

    The same arguments give the same weights to the byte on the same machine, also where
    ``checkpoints`` holds what a killed run with these arguments left: training goes on from there.
    ``on_batch(done, total)`` reports progress within an epoch a few times a second, ``on_epoch``
    every epoch that this call trained. Raises PermanentError where there is nothing to train on
    or to validate with.
    """
    started = time.perf_counter()
    training_rows, held_out = np.flatnonzero(~validation), np.flatnonzero(validation)
    if not training_rows.size or not held_out.size:
        raise PermanentError(
            f"Of {len(labels)} rows {held_out.size} would be held out for validation.",
            "Choose a validation fraction that leaves rows on both sides.",
        )
    learner = _Learner(recipe, seed, member)
    predict = prediction.predictor(learner.model)
    store = checkpoints and _Checkpoints(
        checkpoints / _identity(recipe, seed, member, images, labels, validation)
    )
    history = store.restore(learner) if store else []
    seconds_before = sum(epoch.seconds for epoch in history)

    def reached_target() -> bool:
        return bool(history) and history[-1].validation_accuracy >= recipe.target_accuracy

    while len(history) < recipe.epochs and not reached_target():
        epoch_started = time.perf_counter()
        number = len(history) + 1
        loss, accuracy, rate = learner.run_epoch(number, images, labels, training_rows, on_batch)
        chunks = (images[rows] for rows in _pieces(held_out, CHUNK_ROWS))
        scores = evaluate(labels[held_out], np.concatenate(list(predict(chunks))))
        history.append(
            Epoch(
                epoch=number,
                train_accuracy=accuracy,
                train_loss=loss,
                validation_accuracy=scores.accuracy,
                validation_loss=scores.loss,
                learning_rate=rate,
                seconds=time.perf_counter() - epoch_started,
            )
        )
        if store:
            store.save(learner, history)
        if on_epoch:
            on_epoch(history[-1])
    return Trained(
        model=learner.model,
        history=history,
        stopped_early=len(history) < recipe.epochs,
        train_seconds=seconds_before + time.perf_counter() - started,
    )


class _Learner:
    """A network with its optimizer, and the compiled loop that trains it on a chunk of rows."""

    def __init__(self, recipe: Recipe, seed: int, member: int) -> None:
        import keras

        self.recipe, self.seed, self.member = recipe, seed, member
        self.model = networks.build(recipe.network, self._number())
        self.optimizer = keras.optimizers.Adam(recipe.learning_rate)
        self.optimizer.build(self.model.trainable_variables)
        self._train_chunk = self._compiled()

    def _number(self, *what: int) -> int:
        """A random seed of its own for each thing that is random."""
        return int(np.random.SeedSequence([self.seed, self.member, *what]).generate_state(1)[0])

    @property
    def state(self) -> list[Any]:
        """Every variable that an epoch starts from; randomness follows from the epoch's number."""
        return [*self.model.variables, *self.optimizer.variables]

    def _compiled(self) -> Callable[..., Any]:
        import keras
        import tensorflow as tf

        logits_of = keras.Model(self.model.inputs, self.model.layers[-2].output)
        batch_size = self.recipe.batch_size
        variables = self.model.trainable_variables

        @tf.function(
            input_signature=[
                tf.TensorSpec((None, 28, 28, 1), tf.uint8),
                tf.TensorSpec((None,), tf.int32),
            ]
        )
        def train_chunk(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            loss_sum, correct = tf.constant(0.0), tf.constant(0, tf.int64)
            for start in tf.range(0, tf.shape(labels)[0], batch_size):
                batch, truth = images[start : start + batch_size], labels[start : start + batch_size]
                with tf.GradientTape() as tape:
                    logits = logits_of(batch, training=True)
                    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(truth, logits)
                    loss = tf.reduce_mean(losses)
                self.optimizer.apply(tape.gradient(loss, variables), variables)
                loss_sum += tf.reduce_sum(losses)
                hits = tf.argmax(logits, axis=1, output_type=tf.int32) == truth
                correct += tf.math.count_nonzero(hits)
            return loss_sum, correct

        return train_chunk

    def run_epoch(
        self,
        number: int,
        images: Images,
        labels: Labels,
        rows: NDArray[np.intp],
        on_batch: Callable[[int, int], None] | None,
    ) -> tuple[float, float, float]:
        """Train on all rows once, in an order of their own; mean loss, accuracy, learning rate."""
        import keras
        import tensorflow as tf

        for place, layer in enumerate(self.model.layers):
            if isinstance(layer, keras.layers.Dropout):
                layer.seed_generator.state.assign([self._number(number, place), 0])
        order = np.random.default_rng(self._number(number)).permutation(rows)
        size = self.recipe.batch_size
        loss_sum, correct, done = 0.0, 0, 0
        for piece in _pieces(order, max(1, CHUNK_ROWS // size) * size):
            loss, hits = self._train_chunk(
                tf.constant(images[piece]), tf.constant(labels[piece], tf.int32)
            )
            loss_sum, correct, done = loss_sum + float(loss), correct + int(hits), done + len(piece)
            if on_batch:
                on_batch(-(-done // size), -(-len(rows) // size))
        return loss_sum / len(rows), correct / len(rows), float(self.optimizer.learning_rate)


def _pieces(rows: NDArray[np.intp], size: int) -> Iterator[NDArray[np.intp]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _identity(
    recipe: Recipe,
    seed: int,
    member: int,
    images: Images,
    labels: Labels,
    validation: NDArray[np.bool_],
) -> str:
    """Hex digest of all that the bytes of a training depend on."""
    digest = hashlib.sha256()
    facts = [recipe.model_dump(), seed, member, platform.machine(), os.cpu_count()]
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for array in (images, labels, validation):
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]


class _Checkpoints:
    """The state after each of the newest epochs: a digest line, then NumPy arrays; no pickle."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, learner: _Learner, history: list[Epoch]) -> None:
        """Write the state whole or not at all; keep the newest two."""
        content = io.BytesIO()
        arrays = {f"{place:03d}": np.asarray(v) for place, v in enumerate(learner.state)}
        told = json.dumps([asdict(epoch) for epoch in history]).encode()
        np.savez(content, history=np.frombuffer(told, np.uint8), **arrays)
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{os.getpid()}"
        with temporary.open("wb") as file:
            file.write(hashlib.sha256(content.getbuffer()).digest())
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.folder / f"epoch-{len(history):04d}.checkpoint")
        for old in self._newest_first()[KEPT_CHECKPOINTS:]:
            old.unlink(missing_ok=True)

    def restore(self, learner: _Learner) -> list[Epoch]:
        """Set the newest undamaged state; return its history, empty where there is none."""
        for path in self._newest_first():
            try:
                arrays = _undamaged(path.read_bytes())
            except (OSError, ValueError) as error:
                logger.warning("The checkpoint %s is not used: %s.", path, error)
                continue
            history = json.loads(arrays.pop("history").tobytes())
            for name, variable in zip(sorted(arrays), learner.state, strict=True):
                variable.assign(arrays[name])
            logger.info("Training goes on after epoch %d of %s.", len(history), path)
            return [Epoch(**epoch) for epoch in history]
        return []

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("epoch-*.checkpoint"), reverse=True)


def _undamaged(content: bytes) -> dict[str, NDArray[Any]]:
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        raise ValueError("it is damaged")
    with np.load(io.BytesIO(content[32:]), allow_pickle=False) as arrays:
        return dict(arrays)
