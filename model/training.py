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
    learning_rate: float
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
        loss, accuracy = learner.run_epoch(number, images, labels, training_rows, on_batch)
        chunks = (images[rows] for rows in _pieces(held_out, CHUNK_ROWS))
        scores = evaluate(labels[held_out], np.concatenate(list(predict(chunks))))
        history.append(
            Epoch(
                epoch=number,
                train_accuracy=accuracy,
                train_loss=loss,
                validation_accuracy=scores.accuracy,
                validation_loss=scores.loss,
                learning_rate=recipe.learning_rate,
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
    """A network and the state of Adam: its variables are all that one epoch hands to the next."""

    def __init__(self, recipe: Recipe, seed: int, member: int) -> None:
        import tensorflow as tf

        self.recipe = recipe
        self.seed, self.member = seed, member
        first_weights = self._random(epoch=0)
        self.model = networks.build(recipe.network, int(first_weights.generate_state(1)[0]))
        self.weights = [weight.value for weight in self.model.trainable_variables]
        self.means = [tf.Variable(tf.zeros_like(weight)) for weight in self.weights]
        self.squares = [tf.Variable(tf.zeros_like(weight)) for weight in self.weights]
        self.steps = tf.Variable(0.0)
        self.variables = [*self.model.variables, *self.means, *self.squares, self.steps]
        self.fit = self._compile()

    def _random(self, epoch: int) -> np.random.SeedSequence:
        """The source of all randomness of an epoch; epoch 0 is what comes before the first."""
        return np.random.SeedSequence(self.seed, spawn_key=(self.member, epoch))

    def run_epoch(
        self,
        epoch: int,
        images: Images,
        labels: Labels,
        rows: NDArray[np.int64],
        on_batch: Callable[[int, int], None] | None,
    ) -> tuple[float, float]:
        """Train on the rows once, in an order of this epoch's own; mean loss and accuracy."""
        batch_size = self.recipe.batch_size
        noisy = [layer for layer in self.model.layers if hasattr(layer, "seed_generator")]
        order, *dropouts = self._random(epoch).spawn(1 + len(noisy))
        for layer, dropout in zip(noisy, dropouts, strict=True):
            # Each step draws with the next counter; 31 bits fit whatever integer Keras keeps.
            layer.seed_generator.state.assign([dropout.generate_state(1)[0] >> 1, 0])
        shuffled = np.random.default_rng(order).permutation(rows)
        batches = -(-len(rows) // batch_size)
        done, loss, correct = 0, 0.0, 0
        for piece in _pieces(shuffled, max(1, CHUNK_ROWS // batch_size) * batch_size):
            piece_loss, piece_correct = self.fit(images[piece], labels[piece])
            loss += float(piece_loss)
            correct += int(piece_correct)
            done += -(-len(piece) // batch_size)
            if on_batch:
                on_batch(done, batches)
        return loss / len(rows), correct / len(rows)

    def _compile(self) -> Callable[[Images, Labels], Any]:
        """The training loop as one graph: steps over a piece of data; sum of losses, hits.

        The same updates as Keras' own fit: mean cross-entropy of a batch, then Adam.
        """
        import keras
        import tensorflow as tf

        logits_of = keras.Sequential(self.model.layers[:-1])  # softmax is part of the loss here
        batch_size = self.recipe.batch_size

        def fit(images: Any, labels: Any) -> Any:
            loss, hits = tf.constant(0.0), tf.constant(0)
            for start in tf.range(0, tf.shape(labels)[0], batch_size):
                truth = tf.cast(labels[start : start + batch_size], tf.int32)
                with tf.GradientTape() as tape:
                    logits = logits_of(images[start : start + batch_size], training=True)
                    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(truth, logits)
                    mean = tf.reduce_mean(losses)
                self._update(tape.gradient(mean, self.weights))
                right = tf.argmax(logits, axis=1, output_type=tf.int32) == truth
                loss += tf.reduce_sum(losses)
                hits += tf.reduce_sum(tf.cast(right, tf.int32))
            return loss, hits

        pixels = tf.TensorSpec((None, 28, 28, 1), tf.uint8)
        digits = tf.TensorSpec((None,), tf.uint8)
        compiled: Callable[[Images, Labels], Any] = tf.function(
            fit, input_signature=[pixels, digits]
        )
        return compiled

    def _update(self, gradients: list[Any]) -> None:
        """One step of Adam with Keras' defaults.

        TensorFlow has it as one operation a weight where Keras' optimizer makes a dozen: the same
        formula, traced and run in less time.
        """
        import tensorflow as tf

        beta1, beta2 = 0.9, 0.999
        self.steps.assign_add(1.0)
        for weight, mean, square, gradient in zip(
            self.weights, self.means, self.squares, gradients, strict=True
        ):
            tf.raw_ops.ResourceApplyAdam(
                var=weight.handle,
                m=mean.handle,
                v=square.handle,
                beta1_power=tf.pow(beta1, self.steps),
                beta2_power=tf.pow(beta2, self.steps),
                lr=self.recipe.learning_rate,
                beta1=beta1,
                beta2=beta2,
                epsilon=1e-7,
                grad=gradient,
            )


class _Checkpoints:
    """The newest states of one training in a folder: ``epoch-0007-<sha256 of the file>.npz``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def restore(self, learner: _Learner) -> list[Epoch]:
        """Put the newest undamaged state into the learner; the history up to it, maybe empty."""
        for path in sorted(self.folder.glob("epoch-*.npz"), reverse=True):
            try:
                content = path.read_bytes()
            except OSError as error:
                logger.warning(
                    "The saved state %s cannot be read (%s) and is not used.", path, error
                )
                continue
            if hashlib.sha256(content).hexdigest() != path.stem.rpartition("-")[2]:
                logger.warning("The saved state %s is damaged and is not used.", path)
                continue
            with np.load(io.BytesIO(content), allow_pickle=False) as saved:
                for index, variable in enumerate(learner.variables):
                    variable.assign(saved[str(index)])
                history = [Epoch(**epoch) for epoch in json.loads(str(saved["history"]))]
            logger.info("Training goes on after epoch %d, saved in %s.", len(history), path)
            return history
        return []

    def save(self, learner: _Learner, history: list[Epoch]) -> None:
        """Write the state after the last epoch of the history, whole or not at all.

        Where it cannot be written, training is worth more than its checkpoint and goes on.
        """
        told = json.dumps([asdict(epoch) for epoch in history])
        arrays = {"history": np.array(told)}
        arrays |= {str(index): value.numpy() for index, value in enumerate(learner.variables)}
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
            for old in sorted(self.folder.glob("epoch-*.npz"))[:-KEPT_CHECKPOINTS]:
                old.unlink()
        except OSError as error:
            logger.warning(
                "The state after epoch %d cannot be saved (%s). Training goes on; if it is "
                "interrupted, it begins again from the state before.",
                len(history),
                error,
            )


def machine() -> dict[str, str | int]:
    """What of this machine the bytes of a training depend on: the processor and its count."""
    cpuinfo = Path("/proc/cpuinfo")  # Linux; elsewhere the name is all that the system tells
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    about = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    features = hashlib.sha256("\n".join(sorted(about)).encode()).hexdigest()[:16]
    return {
        "architecture": platform.machine(),
        "processor": features if about else platform.processor(),
        "count": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
    }


def _identity(
    recipe: Recipe,
    seed: int,
    member: int,
    images: Images,
    labels: Labels,
    validation: NDArray[np.bool_],
) -> str:
    """A name that two trainings share only where they would give the same bytes."""
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
        "machine": machine(),
        "threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "versions": [tf.__version__, keras.__version__],
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


def _pieces(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """The rows in their order, ``size`` at a time; the last piece may be shorter."""
    return (rows[start : start + size] for start in range(0, len(rows), size))
