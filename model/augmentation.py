"""Warp digits at random, each differently: rotated, zoomed, sheared and shifted in one step."""

from __future__ import annotations

import math
from typing import Any

ROTATION = math.radians(9)  # at most, either way; as are all below
ZOOM = 0.1  # of the size, each way on its own
SHEAR = 0.12
SHIFT = 1  # pixel: digits come centred; gentler warps did better than stronger ones


def warp(images: Any, seed: Any) -> Any:
    """uint8 (n, 28, 28, 1) to float32 alike; ``seed``, int32 (2,), decides everything."""
    import tensorflow as tf

    return transform(images, _inverse_maps(tf.shape(images)[0], seed))


def transform(images: Any, maps: Any) -> Any:
    """uint8 (n, 28, 28, 1) to float32 alike, 0 to 255; what comes from outside is background.

    ``maps``, float32 (n, 8): where each pixel x, y comes from, a b c d e f 0 0 for
    (ax+by+c, dx+ey+f). They are composed before any pixel is touched: three layers of Keras would
    interpolate, and blur, three times.
    """
    import tensorflow as tf

    return tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32),
        transforms=maps,
        output_shape=(28, 28),
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=0.0,
    )


def _inverse_maps(count: Any, seed: Any) -> Any:
    """Maps for ``transform``, float32 (n, 8), each different."""
    import tensorflow as tf

    rotation, shear, zoom_x, zoom_y, shift_x, shift_y = tf.unstack(
        tf.random.stateless_uniform((6, count), seed, -1, 1)
    )
    cosine, sine = tf.cos(ROTATION * rotation), tf.sin(ROTATION * rotation)
    wide, high, slant = tf.exp(ZOOM * zoom_x), tf.exp(ZOOM * zoom_y), SHEAR * shear
    a, b = cosine * wide, cosine * slant * wide - sine * high  # rotated after sheared and zoomed
    d, e = sine * wide, sine * slant * wide + cosine * high
    centre = 27 / 2  # of the pixels 0 to 27: it stays in place but for the shift
    c = centre - a * centre - b * centre + SHIFT * shift_x
    f = centre - d * centre - e * centre + SHIFT * shift_y
    return tf.stack([a, b, c, d, e, f, 0 * a, 0 * a], axis=1)
