"""One measurement in a process of its own: ``python -m tests.benchmarks.one KIND ...``.

It prints one line of JSON. Importing the libraries is not part of any measurement; tracing and the
first step are, and of a training also building the network.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import digits

Split = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]


def split(data: Path, held_out: int) -> Split:
    """All training images and labels, and which rows are held out: the same for every kind."""
    images, labels = digits.read_train(data / "train.csv")
    # Member 0 of this split holds out the rows that chose the recipes (RESULTS.md); 1 shares none.
    positions = digits.stratified_positions(labels, seed=123)
    return images, labels, digits.validation_mask(positions, held_out / len(labels), member=1)


def accuracy(probabilities: NDArray[Any], labels: NDArray[np.uint8]) -> float:
    return float((probabilities.argmax(axis=1) == labels).mean())


def plain_network() -> Any:
    """The reference as most notebooks have it."""
    import keras
    from keras import layers

    network = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.25),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    network.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    return network


def plain_fit(options: argparse.Namespace) -> dict[str, float]:
    """``model.fit`` of the reference, batch 50; no validation, so that nothing else is timed."""
    import keras

    images, labels, held_out = split(options.data_dir, options.held_out)
    keras.utils.set_random_seed(options.seed)
    started = time.perf_counter()
    network = plain_network()
    x = images[~held_out].astype(np.float32) / 255
    y = keras.utils.to_categorical(labels[~held_out], 10)
    network.fit(x, y, batch_size=50, epochs=options.epochs or 10, verbose=0)
    seconds = time.perf_counter() - started
    unseen = images[held_out].astype(np.float32) / 255
    return {
        "seconds": seconds,
        "epochs": options.epochs or 10,
        "accuracy": accuracy(network.predict(unseen, verbose=0), labels[held_out]),
    }


def torch_fit(options: argparse.Namespace) -> dict[str, float]:
    """The same in PyTorch, where it is installed."""
    import torch
    from torch import nn

    images, labels, held_out = split(options.data_dir, options.held_out)
    torch.manual_seed(options.seed)
    started = time.perf_counter()
    network = nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(1600, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    )
    adam = torch.optim.Adam(network.parameters())
    x = torch.from_numpy(images[~held_out].reshape(-1, 1, 28, 28).astype(np.float32) / 255)
    y = torch.from_numpy(labels[~held_out].astype(np.int64))
    epochs = options.epochs or 10
    for _ in range(epochs):
        for rows in torch.randperm(len(y)).split(50):
            adam.zero_grad()
            nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            adam.step()
    seconds = time.perf_counter() - started
    network.eval()
    with torch.no_grad():
        unseen = torch.from_numpy(images[held_out].reshape(-1, 1, 28, 28).astype(np.float32) / 255)
        logits = network(unseen).numpy()
    return {"seconds": seconds, "epochs": epochs, "accuracy": accuracy(logits, labels[held_out])}


def recipe_fit(options: argparse.Namespace) -> dict[str, float]:
    """A recipe's training as the pipeline runs it, on the rows that the plain fit trains on.

    The pipeline validates after every epoch, the plain fit does not: 1,000 rows have to do.
    """
    from model import prediction, selection, training
    from model.recipes import recipe_for

    images, labels, held_out = split(options.data_dir, options.held_out)
    unseen = np.flatnonzero(held_out)
    kept = np.concatenate([np.flatnonzero(~held_out), unseen[:1000]])
    recipe = recipe_for(options.recipe, epochs=options.epochs, target_accuracy=1.0)
    started = time.perf_counter()
    trained = training.train(recipe, images[kept], labels[kept], held_out[kept], options.seed)
    seconds = time.perf_counter() - started
    probabilities = prediction.predict(
        trained.model, images[unseen], form=recipe.form(0), views=recipe.views
    )
    rows = int((~held_out).sum())
    taken = [
        selection.count(rows, epoch.epoch, recipe.epochs, recipe.easy_share)
        for epoch in trained.history
    ]
    return {
        "seconds": seconds,
        "epochs": len(taken),
        "accuracy": accuracy(probabilities, labels[unseen]),
        "train_flops": train_flops(trained.model) * sum(taken),
    }


def train_flops(network: Any) -> int:
    """Multiplications and additions to train on one image once.

    A layer takes as many for the gradient of its weights as on the way forward, where they are
    learned, and for the gradient of its input, where something before it is learned.
    """
    import math

    total, learned_before = 0, False
    for layer in network.layers:
        learned = bool(layer.trainable_variables)
        if layer.weights and layer.weights[0].ndim > 1:  # not batch normalisation's
            places = math.prod(layer.output.shape[1:-1])
            forward = 2 * places * math.prod(layer.weights[0].shape)
            total += forward * (1 + learned + learned_before)
        learned_before |= learned
    return total


def prediction_rate(options: argparse.Namespace) -> dict[str, float]:
    """All test images by ``model.predict`` with its default batch size, and by ours; in turns.

    The first time of each is with its tracing, the second without.
    """
    from model import networks, prediction

    images = np.concatenate(list(digits.iterate_test(options.data_dir / "test.csv")))
    theirs = plain_network()

    def seconds(predict: Callable[[], Any]) -> float:
        started = time.perf_counter()
        predict()
        return time.perf_counter() - started

    ours = prediction.predictor(networks.build("reference", seed=0))
    ways = {
        "theirs": lambda: theirs.predict(images.astype(np.float32) / 255, verbose=0),
        "ours": lambda: np.concatenate(list(ours([images]))),
    }
    measured = {name + turn: seconds(way) for turn in ("", "_again") for name, way in ways.items()}
    return {**measured, "rows": len(images)}


def stream(options: argparse.Namespace) -> dict[str, float]:
    """Predict a test CSV of ``--times`` the rows, a chunk at a time."""
    from model import networks, prediction

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test.csv"
        repeat_rows(options.data_dir / "test.csv", path, options.times)
        predict = prediction.predictor(networks.build("reference", seed=0))
        started = time.perf_counter()
        rows = sum(len(part) for part in predict(digits.iterate_test(path)))
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "rows": rows, "peak_bytes": peak_bytes()}


def growth(options: argparse.Namespace) -> dict[str, float]:
    """Parse, check and split a train CSV of ``--times`` the rows; one epoch on it."""
    from model import training
    from model.recipes import recipe_for

    with tempfile.TemporaryDirectory() as folder:
        repeat_rows(options.data_dir / "train.csv", Path(folder) / "train.csv", options.times)
        started = time.perf_counter()
        images, labels, held_out = split(Path(folder), 4200 * options.times)
        training.train(recipe_for(options.recipe, epochs=1), images, labels, held_out, 0)
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "rows": len(labels), "peak_bytes": peak_bytes()}


def repeat_rows(source: Path, target: Path, times: int) -> None:
    header, _, rows = source.read_bytes().partition(b"\n")
    with target.open("wb") as file:
        file.write(header + b"\n")
        for _ in range(times):
            file.write(rows)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_rate(options: argparse.Namespace) -> dict[str, float]:
    """The best of ten products of 4096 x 4096 matrices, on all cores."""
    import tensorflow as tf

    rates = {}
    for dtype in (tf.float32, tf.bfloat16):
        matrix = tf.cast(tf.random.normal((4096, 4096), seed=0), dtype)
        product = tf.function(lambda matrix: matrix @ matrix)
        best = float("inf")
        for _ in range(10):
            started = time.perf_counter()
            product(matrix)[0, 0].numpy()
            best = min(best, time.perf_counter() - started)
        rates[dtype.name] = 2 * 4096**3 / best
    return rates


KINDS = {
    "plain-fit": plain_fit,
    "torch-fit": torch_fit,
    "recipe-fit": recipe_fit,
    "prediction": prediction_rate,
    "stream": stream,
    "growth": growth,
    "peak": peak_rate,
}


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--held-out", type=int, default=10_000)
    parser.add_argument("--recipe", default="classic")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--times", type=int, default=1)
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if options.kind in ("recipe-fit", "growth", "stream", "prediction"):
        import tasks.support.tensorflow_import as tensorflow_import

        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the pipeline has it
        tensorflow_import.load()
    if options.kind != "torch-fit":
        import tensorflow as tf

        tf.zeros(1)  # starts its threads
    cpu, measured = time.process_time(), KINDS[options.kind](options)
    measured["cpu_seconds"] = time.process_time() - cpu
    json.dump(measured, sys.stdout)
    print()


if __name__ == "__main__":
    main()
