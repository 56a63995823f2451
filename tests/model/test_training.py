"""Training: what it computes, that it repeats, and that it resumes to the same bytes."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from model import augmentation, networks, processor, training
from model.augmentation import Images
from model.errors import PermanentError
from model.evaluation import evaluate
from model.forms import in_form
from model.history import Epoch
from model.prediction import predict
from model.recipes import recipe_for
from model.training import Labels, Trained, train

Weights = NDArray[np.float32]

RANDOM = np.random.default_rng(0)
LABELS = np.tile(np.arange(10, dtype=np.uint8), 23)
# Each class a picture of sixteen squares, each image one of them with noise.
DIGITS = np.kron(RANDOM.integers(0, 2, (10, 4, 4, 1)) * 200, np.ones((1, 7, 7, 1)))
IMAGES = (DIGITS[LABELS] + RANDOM.integers(0, 56, (len(LABELS), 28, 28, 1))).astype(np.uint8)
ONES = np.ones(len(LABELS), np.float32)
HELD_OUT = np.arange(len(LABELS)) % 7 == 0
RECIPE = recipe_for("classic", epochs=3, batch_size=24, target_accuracy=1.0)
RECIPE = RECIPE.model_copy(update={"learning_rate": 0.0005})  # not perfect before the last epoch
AUGMENTED = RECIPE.model_copy(update={"network": "small", "augmentation": True, "lanes": 2})
ROUGH = RECIPE.model_copy(update={"network": "small", "precision": "bfloat16"})


def weights(trained: Trained) -> list[bytes]:
    return [weight.numpy().tobytes() for weight in trained.model.trainable_variables]


def figures(history: list[Epoch]) -> list[tuple[float, ...]]:
    return [
        (e.train_accuracy, e.train_loss, e.validation_accuracy, e.validation_loss) for e in history
    ]


class KilledError(Exception):
    pass


def train_and_die(checkpoints: Path, after: int) -> None:
    """A training that ends abruptly once the state of that epoch is saved."""

    def die(epoch: Epoch) -> None:
        if epoch.epoch == after:
            raise KilledError

    with pytest.raises(KilledError):
        train(RECIPE, IMAGES, LABELS, HELD_OUT, 5, checkpoints=checkpoints, on_epoch=die)


@pytest.fixture(scope="module")
def undisturbed() -> Trained:
    return train(RECIPE, IMAGES, LABELS, HELD_OUT, 5)


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of a training that died after its second epoch of three."""
    folder = tmp_path_factory.mktemp("checkpoints")
    train_and_die(folder, after=2)
    return folder


@pytest.fixture
def checkpoints(left_behind: Path, tmp_path: Path) -> Path:
    for path in left_behind.glob("*/*"):
        copy = tmp_path / path.relative_to(left_behind)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return tmp_path


def resume(checkpoints: Path) -> tuple[Trained, list[int]]:
    """The training done, and the epochs that it trained."""
    epochs: list[int] = []
    trained = train(
        RECIPE,
        IMAGES,
        LABELS,
        HELD_OUT,
        5,
        checkpoints=checkpoints,
        on_epoch=lambda epoch: epochs.append(epoch.epoch),
    )
    return trained, epochs


@pytest.mark.parametrize(("smoothing", "betas"), [(0, (0.9, 0.999)), (0.1, (0.7, 0.9))])
def test_computes_the_updates_of_keras_fit(smoothing: float, betas: tuple[float, float]) -> None:
    # Dropout masks that put nothing on the edge of ReLU, where rounding decides of a gradient.
    keras.utils.set_random_seed(3)
    whole_batches = RECIPE.model_copy(update={"lanes": 1})  # dropout draws once for each, as theirs
    recipe = whole_batches.model_copy(update={"label_smoothing": smoothing, "betas": betas})
    learner = training._Learner(recipe, seed=1, member=0, rows=len(LABELS))
    same = networks.build("reference", seed=0)
    for ours, theirs in zip(learner.model.variables, same.variables, strict=True):
        theirs.assign(ours)  # dropout's random state too
    start = [variable.numpy() for variable in same.variables]
    adam = keras.optimizers.Adam(RECIPE.learning_rate, *betas)
    crossentropy = keras.losses.CategoricalCrossentropy(label_smoothing=smoothing)
    same.compile(adam, crossentropy, metrics=["accuracy"])
    truth = keras.utils.to_categorical(LABELS, 10)
    theirs = same.fit(IMAGES, truth, batch_size=24, shuffle=False, verbose=0).history
    # 230 rows: the last batch is a partial one.
    loss, accuracy = learner.fit(IMAGES, LABELS, ONES, np.int32(0)).numpy().mean(axis=0)
    assert loss == pytest.approx(theirs["loss"][0], rel=1e-4)
    assert accuracy == pytest.approx(theirs["accuracy"][0])
    for ours, expected, before in zip(learner.model.variables, same.variables, start, strict=True):
        # Over a whole variable: Adam makes whole steps of rounding where one gradient is next to 0.
        moved = np.linalg.norm(expected.numpy() - before)
        assert moved > 0
        assert np.linalg.norm(ours.numpy() - expected.numpy()) < 1e-3 * moved


def test_lanes_compute_the_updates_of_the_whole_batch() -> None:
    # A rate at which rounding does not grow from step to step.
    gentle = {"batch_size": 24, "precision": "float32", "learning_rate": 0.001}
    recipe = recipe_for("fast").model_copy(update=gentle)
    learners = [
        training._Learner(recipe.model_copy(update={"lanes": lanes}), 1, 0, rows=len(LABELS))
        for lanes in (1, 2, 3)
    ]
    told = [learner.fit(IMAGES, LABELS, ONES, np.int32(0)).numpy() for learner in learners]
    for learner, of_rows in zip(learners[1:], told[1:], strict=True):
        np.testing.assert_allclose(of_rows, told[0], rtol=1e-2, atol=1e-3)
        assert of_rows[:, 0].sum() == pytest.approx(told[0][:, 0].sum(), rel=1e-4)
        for ours, expected in zip(learner.weights, learners[0].weights, strict=True):
            np.testing.assert_allclose(ours.numpy(), expected.numpy(), atol=1e-3)


def test_a_row_of_weight_two_counts_as_two_rows() -> None:
    recipe = RECIPE.model_copy(update={"network": "small"})  # without dropout
    once, twice = (training._Learner(recipe, 1, 0, rows=24) for _ in range(2))
    weights = np.array([0, 2] * 12, np.float32)
    once.fit(IMAGES[:24], LABELS[:24], weights, np.int32(0))
    pairs = np.repeat(np.arange(1, 24, 2), 2)
    twice.fit(IMAGES[pairs], LABELS[pairs], ONES[:24], np.int32(0))
    for ours, expected in zip(once.weights, twice.weights, strict=True):
        np.testing.assert_allclose(ours.numpy(), expected.numpy(), atol=1e-6)


def test_epochs_between_train_on_half_of_the_rows_and_remember_each_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "CHUNK_ROWS", 50)
    recipe = RECIPE.model_copy(update={"epochs": 8, "easy_share": 0.375})
    learner = training._Learner(recipe, seed=0, member=0, rows=200)
    rows = np.arange(15, 215)
    hard = set(range(15, 55))  # rows 15 to 54 always have a loss, and are wrong
    seen: list[list[int]] = []

    def note(images: Images, labels: Labels, weights: Weights, _: np.int32) -> tf.Tensor:
        numbers = images[:, 0, 0, 0]
        seen[-1] += numbers.tolist()
        wrong = np.isin(numbers, list(hard))
        return tf.constant(np.stack([wrong + len(seen) / 9, ~wrong], axis=1), tf.float32)

    monkeypatch.setattr(learner, "fit", note)
    numbered = np.zeros((215, 28, 28, 1), np.uint8)
    numbered[:, 0, 0, 0] = np.arange(215)
    for epoch in range(1, 9):
        seen.append([])
        loss, accuracy = learner.run_epoch(epoch, numbered, LABELS, rows, None)
        assert (loss, accuracy) == pytest.approx((0.2 + epoch / 9, 0.8))  # of all rows
        assert [*np.round(learner.losses.numpy() % 1 * 9)].count(epoch) == len(seen[-1])
    assert [len(epoch) for epoch in seen] == [200, *[100] * 6, 200]
    assert all(hard <= set(epoch) for epoch in seen)
    assert set(seen[1]) != set(seen[2])
    assert learner.total_steps == 9 + 6 * 5 + 9


def test_batch_normalisation_is_keras_own_but_for_rounding() -> None:
    ours, theirs = (keras.layers.BatchNormalization(momentum=0.9) for _ in range(2))
    x = tf.constant(RANDOM.normal(3, 2, (64, 5, 5, 8)), tf.float32)
    for layer in (ours, theirs):
        layer.build(x.shape)
        layer.gamma.assign(np.linspace(0.5, 2, 8))
    slopes = tf.constant(RANDOM.normal(size=x.shape), tf.float32)

    def gradients(apply: Callable[[tf.Tensor], tf.Tensor], layer: keras.Layer) -> list[tf.Tensor]:
        inputs = [x, layer.gamma.value, layer.beta.value]
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = apply(x)
        return [y, *tape.gradient(y, inputs, slopes)]

    found = gradients(lambda x: networks.in_training(ours, x), ours)
    expected = gradients(lambda x: theirs(x, training=True), theirs)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(ours.moving_mean, theirs.moving_mean, rtol=1e-5)
    # TensorFlow divides by one row less, the unbiased estimate.
    np.testing.assert_allclose(ours.moving_variance, theirs.moving_variance, rtol=1e-3)
    assert networks.in_training(ours, tf.cast(x, tf.bfloat16)).dtype == tf.bfloat16


def test_trains_on_what_augmentation_makes_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "augment", lambda images, _: tf.zeros(tf.shape(images)))
    learner = training._Learner(AUGMENTED, seed=0, member=0, rows=24)
    losses = learner.fit(IMAGES[:24], LABELS[:24], ONES[:24], np.int32(0)).numpy()[:, 0]
    # A new network has no biases yet: in a blank image it sees every digit alike.
    np.testing.assert_allclose(losses, np.log(10), rtol=1e-6)


def test_every_lane_step_and_training_changes_images_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[tuple[int, int]] = []

    def note(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        tf.numpy_function(lambda pair: seeds.append(tuple(pair)), [seed], [])
        return tf.cast(images, tf.float32)

    monkeypatch.setattr(augmentation, "augment", note)

    def seeds_of(seed: int, member: int) -> set[tuple[int, int]]:
        learner = training._Learner(AUGMENTED, seed, member, rows=48)
        seeds.clear()
        for epoch in (1, 2):
            learner.run_epoch(epoch, IMAGES, LABELS, np.arange(48), None)
        return set(seeds)

    first = seeds_of(seed=0, member=0)
    assert len(first) == len(seeds) == 8  # two lanes, two steps, two epochs
    assert seeds_of(seed=0, member=0) == first
    assert seeds_of(seed=1, member=0).isdisjoint(first)
    assert seeds_of(seed=0, member=1).isdisjoint(first)


@pytest.mark.parametrize(("feature", "kind"), [("amx_bf16", tf.bfloat16), ("fma", tf.float32)])
def test_convolutions_are_computed_in_that_precision(
    monkeypatch: pytest.MonkeyPatch, feature: str, kind: tf.DType
) -> None:
    monkeypatch.setattr(processor, "_cpuinfo", lambda: {f"flags\t\t: {feature}"})
    assert training.precision(ROUGH) == kind.name
    assert training.precision(RECIPE) == "float32"
    learner = training._Learner(ROUGH, seed=0, member=0, rows=24)
    graph = learner.fit.get_concrete_function().graph.as_graph_def()
    nodes = [node for function in graph.library.function for node in function.node_def]
    kinds = {node.attr["T"].type for node in nodes if node.op.startswith("Conv2D")}
    assert kinds == {kind.as_datatype_enum}


@pytest.mark.parametrize(("rows", "trained_on"), [(48, 48), (49, 48), (50, 50)])
def test_a_last_batch_of_fewer_rows_than_lanes_is_left_out(rows: int, trained_on: int) -> None:
    learner = training._Learner(RECIPE, seed=0, member=0, rows=rows)
    learner.run_epoch(1, IMAGES, LABELS, np.arange(rows), None)
    assert int(learner.steps) == -(-trained_on // 24)


def test_one_cycle_goes_up_and_down_to_zero() -> None:
    recipe = recipe_for("fast", epochs=2, batch_size=24)
    learner = training._Learner(recipe, seed=0, member=0, rows=240)
    rates = [float(learner._learning_rate(float(step))) for step in range(1, 17)]  # 10 + 6
    top = rates.index(max(rates))
    assert 0 < rates[0] < rates[top] <= recipe.learning_rate
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < rates[-1] < 0.1 * recipe.learning_rate
    assert float(learner._learning_rate(17.0)) == 0


@pytest.mark.parametrize("name", ["fast", "best"])
def test_the_saved_network_computes_in_float32_and_resumes(name: str, tmp_path: Path) -> None:
    recipe = recipe_for(name, epochs=4, batch_size=24)  # all but the first take some of the rows
    once = train(recipe, IMAGES, LABELS, HELD_OUT, 3)
    assert {layer.compute_dtype for layer in once.model.layers} == {"float32"}

    def die(epoch: Epoch) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        train(recipe, IMAGES, LABELS, HELD_OUT, 3, checkpoints=tmp_path, on_epoch=die)
    resumed = train(recipe, IMAGES, LABELS, HELD_OUT, 3, checkpoints=tmp_path)
    assert weights(resumed) == weights(once)
    assert figures(resumed.history) == figures(once.history)


def test_learns_and_tells_how_it_went(undisturbed: Trained) -> None:
    last = undisturbed.history[-1]
    assert [epoch.epoch for epoch in undisturbed.history] == [1, 2, 3]
    assert last.validation_accuracy > 0.9
    assert last.train_loss < undisturbed.history[0].train_loss
    scores = evaluate(LABELS[HELD_OUT], predict(undisturbed.model, IMAGES[HELD_OUT]))
    assert (scores.accuracy, scores.loss) == (last.validation_accuracy, last.validation_loss)
    assert undisturbed.train_seconds >= sum(epoch.seconds for epoch in undisturbed.history)


def test_held_out_rows_teach_nothing(undisturbed: Trained) -> None:
    images = IMAGES.copy()
    images[HELD_OUT] = 0
    other = train(RECIPE, images, LABELS, HELD_OUT, 5)
    assert weights(other) == weights(undisturbed)
    assert other.history[-1].validation_loss != undisturbed.history[-1].validation_loss


def test_another_member_is_another_training(undisturbed: Trained) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 1})
    other = train(recipe, IMAGES, LABELS, HELD_OUT, 5, member=1)
    assert other.history[0].train_loss != undisturbed.history[0].train_loss


def test_seed_and_member_decide_the_first_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training._Learner, "_compile", lambda _: None)
    ways = [(0, 0), (1, 0), (0, 1)]
    learners = [training._Learner(RECIPE, seed, member, rows=24) for seed, member in ways]
    assert len({learner.weights[0].numpy().tobytes() for learner in learners}) == 3


def test_members_see_the_recipes_forms_in_turns() -> None:
    recipe = RECIPE.model_copy(update={"epochs": 1, "forms": ("drawn", "wide")})
    drawn = RECIPE.model_copy(update={"epochs": 1})
    for member, images in enumerate((IMAGES, in_form(IMAGES, "wide"), IMAGES)):
        ours = train(recipe, IMAGES, LABELS, HELD_OUT, 5, member=member)
        theirs = train(drawn, images, LABELS, HELD_OUT, 5, member=member)
        assert weights(ours) == weights(theirs)
        assert figures(ours.history) == figures(theirs.history)


def test_an_epoch_trains_on_every_row_once_and_tells_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "CHUNK_ROWS", 50)
    learner = training._Learner(RECIPE, seed=0, member=0, rows=197)
    seen: list[int] = []

    def note(images: Images, labels: Labels, weights: Weights, _: np.int32) -> tf.Tensor:
        assert len(images) == len(labels) == weights.sum()
        seen.extend(int(number) for number in images[:, 0, 0, 0])
        return tf.zeros((len(images), 2))

    monkeypatch.setattr(learner, "fit", note)
    numbered = np.zeros((200, 28, 28, 1), np.uint8)
    numbered[:, 0, 0, 0] = np.arange(200)
    told: list[tuple[int, int, int]] = []
    orders = []
    for epoch in (1, 2):
        seen.clear()
        learner.run_epoch(
            epoch, numbered, LABELS, np.arange(197), lambda *about: told.append(about)
        )
        assert sorted(seen) == list(range(197))
        orders.append(list(seen))
    assert orders[0] != orders[1]
    assert told == [(epoch, done, 9) for epoch in (1, 2) for done in (2, 4, 6, 8, 9)]


def test_stops_once_held_out_rows_reach_the_target_and_stays_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter(SimpleNamespace(accuracy=accuracy, loss=1.0) for accuracy in (0, 0.01, 0.02))
    monkeypatch.setattr(training, "evaluate", lambda *_: next(scores))
    recipe = RECIPE.model_copy(update={"target_accuracy": 0.01})  # which training rows reach sooner
    first = train(recipe, IMAGES, LABELS, HELD_OUT, 0, checkpoints=tmp_path)
    again = train(recipe, IMAGES, LABELS, HELD_OUT, 0, checkpoints=tmp_path)
    for trained in (first, again):
        assert trained.stopped_early
        assert len(trained.history) == 2
    assert weights(again) == weights(first)


def test_a_target_of_1_does_not_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "evaluate", lambda *_: SimpleNamespace(accuracy=1.0, loss=0.0))
    trained = train(RECIPE, IMAGES, LABELS, HELD_OUT, 0)
    assert len(trained.history) == RECIPE.epochs
    assert not trained.stopped_early


@pytest.mark.parametrize("rows", [191, 192, 193, 194, 385])
def test_a_cycle_has_as_many_steps_as_are_made(rows: int) -> None:
    recipe = recipe_for("fast", epochs=1, batch_size=192)
    learner = training._Learner(recipe, seed=0, member=0, rows=rows)
    images, labels = np.zeros((rows, 28, 28, 1), np.uint8), np.zeros(rows, np.uint8)
    learner.run_epoch(1, images, labels, np.arange(rows), None)
    assert learner.steps.numpy() == learner.total_steps
    assert learner.learning_rate() == 0


def test_a_killed_training_goes_on_to_the_same_bytes(
    undisturbed: Trained, checkpoints: Path
) -> None:
    resumed, epochs = resume(checkpoints)
    assert epochs == [3]
    assert weights(resumed) == weights(undisturbed)
    assert figures(resumed.history) == figures(undisturbed.history)
    kept = sorted(path.name[:10] for path in checkpoints.glob("*/*"))
    assert kept == ["epoch-0002", "epoch-0003"]


def test_the_time_before_a_kill_counts(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(perf_counter=itertools.count().__next__)
    monkeypatch.setattr(training, "time", clock)
    resumed, _ = resume(checkpoints)
    first, second, third = (epoch.seconds for epoch in resumed.history)
    assert third == 1
    assert resumed.train_seconds == pytest.approx(first + second + 3)


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_damaged_state_is_noticed_and_the_one_before_used(
    undisturbed: Trained, checkpoints: Path, damaged: int, caplog: pytest.LogCaptureFixture
) -> None:
    newest_first = sorted(checkpoints.glob("*/*"), reverse=True)
    for path in newest_first[:damaged]:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content if damaged == 1 else content[:-1])
    with caplog.at_level(logging.WARNING):
        resumed, epochs = resume(checkpoints)
    assert epochs == [2, 3] if damaged == 1 else [1, 2, 3]
    assert caplog.text.count("is damaged") == damaged
    assert weights(resumed) == weights(undisturbed)


def test_an_unfinished_file_of_a_kill_while_writing_is_no_state(
    undisturbed: Trained, checkpoints: Path
) -> None:
    newest = max(checkpoints.glob("*/*"))
    newest.rename(newest.with_name("unfinished"))
    resumed, epochs = resume(checkpoints)
    assert epochs == [2, 3]
    assert weights(resumed) == weights(undisturbed)
    assert not list(checkpoints.glob("*/unfinished"))


def test_training_outlives_a_folder_that_cannot_be_written(
    undisturbed: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        trained, epochs = resume(tmp_path / "file")
    assert epochs == [1, 2, 3]
    assert weights(trained) == weights(undisturbed)
    assert caplog.text.count("cannot be saved") == 3


@pytest.mark.parametrize("everything", [True, False])
def test_rows_are_needed_on_both_sides(everything: bool) -> None:
    with pytest.raises(PermanentError, match="held out"):
        train(RECIPE, IMAGES, LABELS, np.full(len(LABELS), everything), 0)


def test_every_epoch_and_layer_drops_at_random_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = training._Learner(RECIPE, seed=0, member=0, rows=24)
    monkeypatch.setattr(learner, "fit", lambda images, *_: tf.zeros((len(images), 2)))
    dropouts = [layer for layer in learner.model.layers if isinstance(layer, keras.layers.Dropout)]
    seen = set()
    for epoch in (1, 2):
        learner.run_epoch(epoch, IMAGES, LABELS, np.arange(24), None)
        seen |= {int(layer.seed_generator.state.numpy()[0]) for layer in dropouts}
    assert len(seen) == 4
