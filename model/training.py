"""Train one network by a recipe: one loop for all recipes, resumable after every epoch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model import augmentation, forms, networks, prediction, processor, selection
from model.augmentation import Images
from model.checkpoints import Checkpoints, identity
from model.errors import PermanentError
from model.evaluation import evaluate
from model.history import Epoch
from model.recipes import Recipe

if TYPE_CHECKING:
    import keras

Labels = NDArray[np.uint8]  # (n,), 0 to 9

WARM_UP = 0.2  # of a cycle's steps
CHUNK_ROWS = 4_000  # one call into TensorFlow, at most 2 s: often enough for a live progress bar


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
    on_batch: Callable[[int, int, int], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpoints: Path | None = None,
) -> Trained:
    """Train a member of the recipe on the rows outside ``validation`` (n,), which are held out.

    The same arguments give the same weights to the byte on the same machine, also where
    ``checkpoints`` holds what a killed run with these arguments left: training goes on from there.
    ``on_batch(epoch, done, total)`` reports progress within an epoch a few times a second,
    ``on_epoch`` every epoch that this call trained. Raises PermanentError where there is nothing to
    train on or to validate with.
    """
    started = time.perf_counter()
    training_rows, held_out = np.flatnonzero(~validation), np.flatnonzero(validation)
    if training_rows.size < recipe.lanes or not held_out.size:
        raise PermanentError(
            f"Of {len(labels)} rows {held_out.size} would be held out for validation.",
            "Choose a validation fraction that leaves rows on both sides.",
        )
    images = forms.in_form(images, recipe.form(member))
    learner = _Learner(recipe, seed, member, len(training_rows))
    predict = prediction.predictor(learner.model)
    store = checkpoints and Checkpoints(
        checkpoints / identity(recipe, seed, member, images, labels, validation)
    )
    history = store.restore(learner.variables) if store else []
    seconds_before = sum(epoch.seconds for epoch in history)

    def reached_target() -> bool:
        target = recipe.target_accuracy
        return target < 1 and bool(history) and history[-1].validation_accuracy >= target

    while len(history) < recipe.epochs and not reached_target():
        epoch_started = time.perf_counter()
        number = len(history) + 1
        loss, accuracy = learner.run_epoch(number, images, labels, training_rows, on_batch)
        pieces = np.split(held_out, range(CHUNK_ROWS, len(held_out), CHUNK_ROWS))
        chunks = (images[rows] for rows in pieces)
        scores = evaluate(labels[held_out], np.concatenate(list(predict(chunks))))
        history.append(
            Epoch(
                epoch=number,
                train_accuracy=accuracy,
                train_loss=loss,
                validation_accuracy=scores.accuracy,
                validation_loss=scores.loss,
                learning_rate=learner.learning_rate(),
                seconds=time.perf_counter() - epoch_started,
            )
        )
        if store:
            store.save(learner.variables, history)
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

    def __init__(self, recipe: Recipe, seed: int, member: int, rows: int) -> None:
        import tensorflow as tf

        self.recipe = recipe
        self.seed, self.member = seed, member
        epochs = range(1, recipe.epochs + 1)
        self.total_steps = sum(-(-self._trained(e, rows) // recipe.batch_size) for e in epochs)
        first_weights = int(self._random(epoch=0).generate_state(1)[0])
        self.model = networks.build(recipe.network, first_weights)
        self.weights = [weight.value for weight in self.model.trainable_variables]
        self.means = [tf.Variable(tf.zeros_like(weight)) for weight in self.weights]
        self.squares = [tf.Variable(tf.zeros_like(weight)) for weight in self.weights]
        self.steps = tf.Variable(0.0)
        self.losses = tf.Variable(tf.zeros(rows))  # of each row, when it was last trained on
        state = self.steps, self.losses
        self.variables = [*self.model.variables, *self.means, *self.squares, *state]
        # What is evaluated and saved computes in float32, so that it runs well on any machine.
        with networks.computing_in(precision(recipe), self.model):
            self.fit = self._compile()

    def _random(self, epoch: int) -> np.random.SeedSequence:
        """The source of all randomness of an epoch; epoch 0 is what comes before the first."""
        return np.random.SeedSequence(self.seed, spawn_key=(self.member, epoch))

    def _taken(self, epoch: int, rows: int) -> int:
        """How many of the rows that epoch takes."""
        return selection.count(rows, epoch, self.recipe.epochs, self.recipe.easy_share)

    def _trained(self, epoch: int, rows: int) -> int:
        """How many of these it trains on: not on a last batch of fewer rows than lanes."""
        taken = self._taken(epoch, rows)
        left_over = taken % self.recipe.batch_size
        return taken - left_over if left_over < self.recipe.lanes else taken

    def run_epoch(
        self,
        epoch: int,
        images: Images,
        labels: Labels,
        rows: NDArray[np.int64],
        on_batch: Callable[[int, int, int], None] | None,
    ) -> tuple[float, float]:
        """Train on the epoch's rows once, in an order of its own; mean loss and accuracy.

        Means over all rows, estimated where not all are taken.
        """
        batch_size = self.recipe.batch_size
        noisy = [layer for layer in self.model.layers if hasattr(layer, "seed_generator")]
        order, changes, *dropouts = self._random(epoch).spawn(2 + len(noisy))
        for layer, dropout in zip(noisy, dropouts, strict=True):
            # Each step draws with the next counter; 31 bits fit whatever integer Keras keeps.
            layer.seed_generator.state.assign([dropout.generate_state(1)[0] >> 1, 0])
        augment_seed = np.int32(changes.generate_state(1)[0] >> 1)
        losses, taken = self.losses.numpy(), self._taken(epoch, len(rows))
        chosen, weights = selection.select(losses, taken, np.random.default_rng(order))
        taken = self._trained(epoch, len(rows))
        sums = np.zeros(2)
        size = max(1, CHUNK_ROWS // batch_size) * batch_size
        for start in range(0, taken, size):
            part = slice(start, min(start + size, taken))
            of_part = rows[chosen[part]]
            told = self.fit(images[of_part], labels[of_part], weights[part], augment_seed).numpy()
            losses[chosen[part]] = told[:, 0]
            sums += weights[part] @ told
            if on_batch:
                on_batch(epoch, -(-part.stop // batch_size), -(-taken // batch_size))
        self.losses.assign(losses)
        loss, accuracy = sums / weights[:taken].sum(dtype=np.float64)
        return float(loss), float(accuracy)

    def learning_rate(self) -> float:
        """That of the next step."""
        return float(self._learning_rate(self.steps + 1))

    def _learning_rate(self, step: Any) -> Any:
        """Of a step, counted from 1. One cycle: L. Smith, Super-convergence, 2017."""
        import tensorflow as tf

        peak = tf.constant(self.recipe.learning_rate)
        if self.recipe.schedule == "constant":
            return peak
        share = step / (self.total_steps + 1)
        return peak * tf.minimum(share / WARM_UP, tf.maximum(0.0, 1 - share) / (1 - WARM_UP))

    def _compile(self) -> Any:
        """The training loop, traced: from images, labels, weights and a seed of the changes.

        It gives each row's loss and whether it was read correctly (1 or 0), float32 (n, 2).

        The same updates as Keras' own fit with sample weights: weighted cross-entropy, its mean
        over a batch, then Adam. The lanes of a batch depend on each other only through their summed
        gradients, so that TensorFlow runs them side by side: cheaper than to share out every
        operation.
        """
        import tensorflow as tf

        batch_size, lanes = self.recipe.batch_size, self.recipe.lanes
        gradients_of = self._compile_gradients()

        def step(
            start: Any, told: Any, images: Any, labels: Any, weights: Any, augment_seed: Any
        ) -> Any:
            rows = tf.minimum(batch_size, tf.shape(labels)[0] - start)
            parts = []
            for lane in range(lanes):
                part = slice(start + lane * rows // lanes, start + (lane + 1) * rows // lanes)
                seed = tf.stack([augment_seed, lanes * tf.cast(self.steps, tf.int32) + lane])
                shares = weights[part] * (1 / tf.cast(rows, tf.float32))
                parts.append(gradients_of(images[part], labels[part], shares, seed))
            gradients, of_rows = zip(*parts, strict=True)
            self._update([tf.add_n(lane) for lane in zip(*gradients, strict=True)])
            return start + batch_size, told.write(told.size(), tf.concat(of_rows, axis=0))

        def fit(images: Any, labels: Any, weights: Any, augment_seed: Any) -> Any:
            _, told = tf.while_loop(
                lambda start, _: start < tf.shape(labels)[0],
                lambda start, told: step(start, told, images, labels, weights, augment_seed),
                (0, tf.TensorArray(tf.float32, 0, dynamic_size=True, element_shape=(None, 2))),
            )
            return told.concat()

        signature = [*_data(tf), tf.TensorSpec((), tf.int32)]
        # AutoGraph would take 0.3 s to rewrite what stands here as a graph already.
        compiled = tf.function(fit, input_signature=signature, autograph=False)
        compiled.get_concrete_function()
        return compiled

    def _compile_gradients(self) -> Any:
        """From a lane: its part of the batch's gradients; of each row its loss and if it was read.

        The shares (n,) are those of the rows in the batch's mean.
        """
        import tensorflow as tf

        smoothing = self.recipe.label_smoothing

        def gradients_of(images: Any, labels: Any, shares: Any, seed: Any) -> Any:
            truth = tf.one_hot(labels, 10, 1 - smoothing + smoothing / 10, smoothing / 10)
            if self.recipe.augmentation:
                images = augmentation.augment(images, seed)
            with tf.GradientTape() as tape:
                logits = images
                for layer in self.model.layers[:-1]:  # softmax is part of the loss here
                    logits = networks.in_training(layer, logits)
            # Raw, a third of the graph of tf.nn's, which would also run for the labels' gradients.
            losses, slopes = tf.raw_ops.SoftmaxCrossEntropyWithLogits(features=logits, labels=truth)
            right = tf.argmax(logits, axis=1, output_type=tf.int32) == tf.cast(labels, tf.int32)
            of_rows = tf.stack([losses, tf.cast(right, tf.float32)], axis=1)
            return tape.gradient(logits, self.weights, slopes * shares[:, tf.newaxis]), of_rows

        signature = [*_data(tf), tf.TensorSpec((2,), tf.int32)]
        return tf.function(gradients_of, input_signature=signature, autograph=False)

    def _update(self, gradients: list[Any]) -> None:
        """One step of Adam with Keras' epsilon.

        TensorFlow has it as one operation a weight where Keras' optimizer makes a dozen: the same
        formula, traced and run in less time.
        """
        import tensorflow as tf

        beta1, beta2 = (tf.constant(beta) for beta in self.recipe.betas)
        epsilon = tf.constant(1e-7)
        step = self.steps.assign_add(1.0)
        learning_rate = self._learning_rate(step)
        powers = tf.pow(beta1, step), tf.pow(beta2, step)
        for weight, mean, square, gradient in zip(
            self.weights, self.means, self.squares, gradients, strict=True
        ):
            tf.raw_ops.ResourceApplyAdam(
                var=weight.handle,
                m=mean.handle,
                v=square.handle,
                beta1_power=powers[0],
                beta2_power=powers[1],
                lr=learning_rate,
                beta1=beta1,
                beta2=beta2,
                epsilon=epsilon,
                grad=gradient,
            )


def precision(recipe: Recipe) -> str:
    """In what its layers compute here: bfloat16 only where the processor multiplies it itself."""
    return recipe.precision if processor.multiplies_bfloat16() else "float32"


def _data(tf: Any) -> list[Any]:
    """The signature of images, labels, and a number for each."""
    rows = tf.TensorSpec((None,), tf.uint8), tf.TensorSpec((None,), tf.float32)
    return [tf.TensorSpec((None, 28, 28, 1), tf.uint8), *rows]
