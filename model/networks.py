"""The networks: each a list of Keras layers from raw pixels (0 to 255) to ten probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


def reference() -> list[keras.Layer]:
    """The reference CNN, 225,034 weights.

    ReLU stands behind the pooling: the same values (the larger of two is the same before and
    after ReLU) with a quarter of the work.
    """
    from keras import layers

    return [
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


NETWORKS = {"reference": reference}


def build(network: str, seed: int) -> keras.Model:
    """A new network, uint8 (n, 28, 28, 1) to float32 (n, 10); ``seed`` decides its weights."""
    import keras

    keras.utils.set_random_seed(seed)
    # Without the dtype Keras would have its input cast to float32 before the first layer sees it.
    pixels = keras.Input((28, 28, 1), dtype="uint8")
    return keras.Sequential([pixels, *NETWORKS[network]()], name=network)
