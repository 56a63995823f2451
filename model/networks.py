"""The networks: each a list of Keras layers from raw pixels (0 to 255) to ten probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import keras


def reference() -> list[keras.Layer]:
    """The reference CNN, 225,034 weights.

    ReLU comes after max pooling: the two commute, so the values are the same, for a quarter of
    the work.
    """
    from keras import layers

    return [
        # The second pooling drops a row and a column; the pixels that only they see are cropped.
        layers.Cropping2D(((0, 2), (0, 2))),
        layers.Rescaling(1 / 255),
        layers.Conv2D(32, 3),
        layers.MaxPooling2D(),
        layers.ReLU(),
        layers.Conv2D(64, 3),
        layers.MaxPooling2D(),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dropout(0.25),
        layers.Dense(128, activation="relu"),
        layers.Dropout(0.5),
        layers.Dense(10),
        layers.Softmax(),
    ]


def small() -> list[keras.Layer]:
    """A CNN for two epochs: the filters of its first layer are fixed, and the rest is learned."""
    from keras import initializers, layers

    return [
        layers.Cropping2D(2),  # digits keep clear of the border
        layers.Rescaling(1 / 255),
        # Fixed: the gradient of the largest feature map would take a quarter of the training
        # time, and two epochs do not turn random filters into better ones.
        layers.Conv2D(
            16,
            5,
            strides=2,
            use_bias=False,
            activation="relu",
            kernel_initializer=initializers.Constant(edges_and_bars()),
            trainable=False,
        ),
        layers.Conv2D(48, 3),
        layers.MaxPooling2D(),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dense(128, activation="relu"),
        layers.Dense(10),
        layers.Softmax(),
    ]


def edges_and_bars() -> NDArray[np.float32]:
    """Gabor filters, (5, 5, 1, 16): edges and bars, light and dark, in four directions each.

    D. Gabor, Theory of communication, 1946; in two dimensions J. Daugman, 1985.
    """
    y, x = np.mgrid[-2:3, -2:3]
    window = np.exp(-(x**2 + y**2) / (2 * 1.4**2))
    filters = []
    for direction in np.arange(4) * np.pi / 4:
        across = y * np.sin(direction) + x * np.cos(direction)
        for phase in np.arange(4) * np.pi / 2:
            wave = window * np.cos(1.4 * across + phase)
            wave -= wave.mean()  # no response to a uniform area
            filters.append(wave / np.linalg.norm(wave))
    return np.stack(filters, axis=-1)[:, :, np.newaxis].astype(np.float32)


def deep() -> list[keras.Layer]:
    """Six convolutions, five of them with batch normalisation; 349,834 weights."""
    from keras import layers

    # SiLU: on tuning rows and out of fold (not on withheld rows) a twentieth less cross-entropy
    # than ReLU, for a twentieth more time. After the first convolution too, whose feature maps are
    # the largest, it takes three times that for no gain.
    def convolution(filters: int) -> list[keras.Layer]:
        return [
            layers.Conv2D(filters, 3, use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.Activation("silu"),
        ]

    return [
        layers.Rescaling(1 / 255),
        # Not normalised: on the largest maps that took a similar network a quarter of its time.
        layers.Conv2D(32, 3, activation="relu"),
        layers.Conv2D(48, 3, use_bias=False),
        layers.MaxPooling2D(),
        layers.BatchNormalization(momentum=0.9),
        layers.Activation("silu"),
        *convolution(64),
        *convolution(96),
        *convolution(96),
        layers.MaxPooling2D(),
        *convolution(192),
        layers.Flatten(),
        # After the last normalisation: before one, its moments would not be those at prediction
        # (X. Li and others, Understanding the disharmony between dropout and batch normalization).
        layers.Dropout(0.2),
        layers.Dense(10),
        layers.Softmax(),
    ]


NETWORKS = {"reference": reference, "small": small, "deep": deep}


def build(network: str, seed: int) -> keras.Model:
    """A new network, uint8 (n, 28, 28, 1) to float32 (n, 10); ``seed`` determines its weights."""
    import keras

    layers = NETWORKS[network]()
    # Keras would seed the weights from Python's global generator, which any thread may draw from.
    learned = [each for each in layers if each.trainable and hasattr(each, "kernel_initializer")]
    seeds = np.random.SeedSequence(seed).generate_state(len(learned))
    for layer, layer_seed in zip(learned, seeds, strict=True):
        layer.kernel_initializer = keras.initializers.GlorotUniform(int(layer_seed >> 1))
    # Without the dtype, Keras would cast the input before the first layer sees it.
    pixels = keras.Input((28, 28, 1), dtype="uint8")
    return keras.Sequential([pixels, *layers], name=network)


def in_training(layer: keras.Layer, x: Any) -> Any:
    """Apply the layer in training mode, where batch normalisation updates its moving moments.

    TensorFlow does that in one fused operation, Keras' layer in a dozen. The result is the same
    but for rounding and the moving variance, whose estimate is unbiased here; all of ``deep``
    takes a tenth less time.
    """
    import keras
    import tensorflow as tf

    if not isinstance(layer, keras.layers.BatchNormalization):
        return layer(x, training=True)
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=layer.gamma.value,
        offset=layer.beta.value,
        mean=layer.moving_mean.value,
        variance=layer.moving_variance.value,
        epsilon=layer.epsilon,
        exponential_avg_factor=1 - layer.momentum,
    )
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(variance)
    return y


@contextmanager
def computing_in(precision: str, model: keras.Model) -> Iterator[None]:
    """What is traced within computes in ``precision``, float32 or bfloat16; logits in float32.

    The weights stay float32, and what is traced later computes in float32.
    """
    layers = model.layers[:-2] if precision == "bfloat16" else []
    for layer in layers:
        layer.dtype_policy = "mixed_bfloat16"
    try:
        yield
    finally:
        for layer in layers:
            layer.dtype_policy = "float32"
