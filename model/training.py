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

WARM_UP = 0.2  # share of a cycle's steps
CHUNK_ROWS = 4_000  # per call into TensorFlow, some seconds at most: enough for a live progress bar


@dataclass(frozen=True)
class Trained:
    """A trained network and how it came to be."""

    model: keras.Model
    history: list[Epoch]
    stopped_early: bool  # the target accuracy was reached before the last epoch
    train_seconds: float  # of all epochs, also those before a resume, and of this call's set-up


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
    """Train a member of the recipe, holding out the rows of the mask ``validation``, bool (n,).

    On the same machine, the same arguments give the same weights, byte for byte, also if training
    resumes from what a killed run with these arguments left in ``checkpoints``.
    ``on_batch(epoch, done, total)`` reports progress about every CHUNK_ROWS rows, ``on_epoch``
    every epoch that this call trained. Raises PermanentError if there is nothing to train on or to
    validate with.
    """
    started = time.perf_counter()
    training_rows, held_out = np.flatnonzero(~validation), np.flatnonzero(validation)
    if training_rows.size < recipe.lanes or not held_out.size:
        raise PermanentError(
            f"Of {len(labels)} rows {held_out.size} would be held out for validation.",
            "Choose a validation fraction that leaves rows for training and for validation.",
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
    """A network and Adam's state; ``variables`` is all that one epoch passes on to the next."""

    def __init__(self, recipe: Recipe, seed: int, member: int, rows: int) -> None:
        import tensorflow as tf

        self.recipe = recipe
        self.seed, self.member = seed, member
        trained = [self._trained_count(epoch, rows) for epoch in range(1, recipe.epochs + 1)]
        self.total_steps = sum(-(-count // recipe.batch_size) for count in trained)
        first_weights = int(self._random(epoch=0).generate_state(1)[0])
        self.model = networks.build(recipe.network, first_weights)
        self.weights = [weight.value for weight in self.model.trainable_variables]
        self.means = [tf.Variable(tf.zeros_like(weight)) for weight in self.weights]
        self.squares = [tf.Variable(tf.zeros_like(weight)) for weight in self.weights]
        self.steps = tf.Variable(0.0)
        self.losses = tf.Variable(tf.zeros(rows))  # of each row, when it was last trained on
        state = self.steps, self.losses
        self.variables = [*self.model.variables, *self.means, *self.squares, *state]
        # Evaluation and the saved network compute in float32, which runs well on any machine.
        with networks.computing_in(precision(recipe), self.model):
            self.fit = self._compile()

    def _random(self, epoch: int) -> np.random.SeedSequence:
        """The source of all randomness of an epoch; epoch 0 stands for the initial weights."""
        return np.random.SeedSequence(self.seed, spawn_key=(self.member, epoch))

    def _selected_count(self, epoch: int, rows: int) -> int:
        """How many of the rows the epoch selects."""
        return selection.count(rows, epoch, self.recipe.epochs, self.recipe.easy_share)

    def _trained_count(self, epoch: int, rows: int) -> int:
        """How many of these it trains on: a last batch with fewer rows than lanes is left out."""
        selected = self._selected_count(epoch, rows)
        left_over = selected % self.recipe.batch_size
        return selected - left_over if left_over < self.recipe.lanes else selected

    def run_epoch(
        self,
        epoch: int,
        images: Images,
        labels: Labels,
        rows: NDArray[np.int64],
        on_batch: Callable[[int, int, int], None] | None,
    ) -> tuple[float, float]:
        """Train once on the rows that the epoch selects, in random order; mean loss and accuracy.

        The means are over all rows, estimated if not all are selected.
        """
        batch_size = self.recipe.batch_size
        dropout_layers = [layer for layer in self.model.layers if hasattr(layer, "seed_generator")]
        order, augmenting, *dropouts = self._random(epoch).spawn(2 + len(dropout_layers))
        for layer, dropout in zip(dropout_layers, dropouts, strict=True):
            # Each step draws with the next counter; 31 bits fit any integer type of Keras' state.
            layer.seed_generator.state.assign([dropout.generate_state(1)[0] >> 1, 0])
        augment_seed = np.int32(augmenting.generate_state(1)[0] >> 1)
        losses, selected = self.losses.numpy(), self._selected_count(epoch, len(rows))
        chosen, weights = selection.select(losses, selected, np.random.default_rng(order))
        trained = self._trained_count(epoch, len(rows))
        sums = np.zeros(2)
        size = max(1, CHUNK_ROWS // batch_size) * batch_size
        for start in range(0, trained, size):
            part = slice(start, min(start + size, trained))
            taken = rows[chosen[part]]
            scores = self.fit(images[taken], labels[taken], weights[part], augment_seed).numpy()
            losses[chosen[part]] = scores[:, 0]
            sums += weights[part] @ scores
            if on_batch:
                on_batch(epoch, -(-part.stop // batch_size), -(-trained // batch_size))
        self.losses.assign(losses)
        loss, accuracy = sums / weights[:trained].sum(dtype=np.float64)
        return float(loss), float(accuracy)

    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self._learning_rate(self.steps + 1))

    def _learning_rate(self, step: Any) -> Any:
        """Learning rate of a step, counted from 1. One-cycle: L. Smith, Super-convergence, 2017."""
        import tensorflow as tf

        peak = tf.constant(self.recipe.learning_rate)
        if self.recipe.schedule == "constant":
            return peak
        share = step / (self.total_steps + 1)
        return peak * tf.minimum(share / WARM_UP, tf.maximum(0.0, 1 - share) / (1 - WARM_UP))

    def _compile(self) -> Any:
        """Trace the training loop: a function of images, labels, row weights, augmentation seed.

        It returns each row's loss and whether it was classified correctly (1 or 0), float32 (n, 2).

        It makes the same updates as Keras' fit with sample weights: weighted cross-entropy, its
        mean over a batch, then Adam. The lanes of a batch meet only in the sum of their gradients,
        so TensorFlow runs them in parallel, which is cheaper than splitting every operation.
        """
        import tensorflow as tf

        batch_size, lanes = self.recipe.batch_size, self.recipe.lanes
        gradients_of = self._compile_gradients()

        def step(
            start: Any, scores: Any, images: Any, labels: Any, weights: Any, augment_seed: Any
        ) -> Any:
            rows = tf.minimum(batch_size, tf.shape(labels)[0] - start)
            parts = []
            for lane in range(lanes):
                part = slice(start + lane * rows // lanes, start + (lane + 1) * rows // lanes)
                seed = tf.stack([augment_seed, lanes * tf.cast(self.steps, tf.int32) + lane])
                shares = weights[part] * (1 / tf.cast(rows, tf.float32))
                parts.append(gradients_of(images[part], labels[part], shares, seed))
            gradients, lane_scores = zip(*parts, strict=True)
            self._update([tf.add_n(lane) for lane in zip(*gradients, strict=True)])
            return start + batch_size, scores.write(scores.size(), tf.concat(lane_scores, axis=0))

        def fit(images: Any, labels: Any, weights: Any, augment_seed: Any) -> Any:
            _, scores = tf.while_loop(
                lambda start, _: start < tf.shape(labels)[0],
                lambda start, scores: step(start, scores, images, labels, weights, augment_seed),
                (0, tf.TensorArray(tf.float32, 0, dynamic_size=True, element_shape=(None, 2))),
            )
            return scores.concat()

        signature = [*_row_signature(tf), tf.TensorSpec((), tf.int32)]
        # AutoGraph would take 0.3 s to rewrite what already consists of graph operations.
        compiled = tf.function(fit, input_signature=signature, autograph=False)
        compiled.get_concrete_function()
        return compiled

    def _compile_gradients(self) -> Any:
        """Trace one lane: its part of the batch's gradients; each row's loss and correctness.

        ``shares`` (n,) are the rows' weights in the mean over the batch.
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
            # Raw: a third of the graph of tf.nn's, which would also differentiate by the labels.
            losses, slopes = tf.raw_ops.SoftmaxCrossEntropyWithLogits(features=logits, labels=truth)
            correct = tf.argmax(logits, axis=1, output_type=tf.int32) == tf.cast(labels, tf.int32)
            scores = tf.stack([losses, tf.cast(correct, tf.float32)], axis=1)
            return tape.gradient(logits, self.weights, slopes * shares[:, tf.newaxis]), scores

        signature = [*_row_signature(tf), tf.TensorSpec((2,), tf.int32)]
        return tf.function(gradients_of, input_signature=signature, autograph=False)

    def _update(self, gradients: list[Any]) -> None:
        """One step of Adam with Keras' epsilon.

        TensorFlow needs one operation per weight where Keras' optimizer needs a dozen: the same
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
    """The layers' precision on this machine: bfloat16 only if the processor supports it."""
    return recipe.precision if processor.multiplies_bfloat16() else "float32"


def _row_signature(tf: Any) -> list[Any]:
    """The signature of images, their labels, and one float for each."""
    rows = tf.TensorSpec((None,), tf.uint8), tf.TensorSpec((None,), tf.float32)
    return [tf.TensorSpec((None, 28, 28, 1), tf.uint8), *rows]
