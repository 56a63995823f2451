"""Augmentation: warp, bend, thicken or thin each digit at random; or warp digits by given maps.

Bending is the elastic distortion of P. Simard, D. Steinkraus, J. Platt, Best practices for
convolutional neural networks applied to visual document analysis, 2003, here smoothed by cubic
splines.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]  # (n, 28, 28, 1), 0 to 255

ROTATION = math.radians(12)  # at most, in either direction; so are the next three
ZOOM = 0.12  # logarithm of the factor; width and height independently
SHEAR = 0.15
SHIFT = 1.2  # pixels: digits come centred
BEND = 0.8  # pixels: standard deviation of each knot's displacement, in x and in y independently
KNOTS = 7  # per row and per column, the first and last of them beyond the border
BORDER = 2  # pixels of background around the image
STROKES = 0.5  # at most: share of thickening or thinning by a whole pixel on every side
PIECE = 4_000  # images at a time, since in float32 they take four times the memory


def augment(images: Any, seed: Any) -> Any:
    """Augment uint8 (n, 28, 28, 1) to float32 of that shape; ``seed``, int32 (2,), decides how."""
    import tensorflow as tf

    warp_seed, stroke_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    return dilate_or_erode(warp(images, warp_seed), stroke_seed)


def warp(images: Any, seed: Any) -> Any:
    """Rotate, zoom, shear, shift and bend uint8 (n, 28, 28, 1); float32 of the same shape.

    The warps are composed first, and pixels interpolated once: a stack of Keras layers would
    interpolate, and so blur, in every layer.
    """
    import tensorflow as tf

    map_seed, bend_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    amounts = tf.random.stateless_uniform((6, tf.shape(images)[0]), map_seed, -1, 1)
    x, y = _mapped(_inverse_maps(amounts))
    bend_x, bend_y = _bends(tf.shape(images)[0], bend_seed)
    return _sampled(images, x + bend_x, y + bend_y)


def dilate_or_erode(images: Any, seed: Any) -> Any:
    """Thicken or thin the strokes of float32 (n, 28, 28, 1); same shape and dtype."""
    import tensorflow as tf

    amount = tf.random.stateless_uniform((tf.shape(images)[0], 1, 1, 1), seed, -STROKES, STROKES)
    thicker = tf.nn.max_pool2d(images, 3, 1, "SAME") - images
    thinner = images + tf.nn.max_pool2d(-images, 3, 1, "SAME")
    return images + tf.nn.relu(amount) * thicker - tf.nn.relu(-amount) * thinner


def view(images: Images, share: float) -> Images:
    """The images, all warped alike: by ``share`` of every affine range; for 0 the very same array.

    For test-time augmentation: averaged over some views, a network trained with warps errs less.
    """
    if share == 0:
        return images
    maps = _inverse_maps(np.full((6, 1), share, np.float32))
    return transform(images, lambda _: maps)


def transform(images: Images, maps_of: Callable[[Images], Any]) -> Images:
    """Warp the images by affine maps; pixels from outside an image are background.

    ``maps_of`` returns the inverse maps of some of the images, float32 (n, 6), or (1, 6) for one
    that all share: with a b c d e f, pixel (x, y) comes from (ax+by+c, dx+ey+f).
    """
    moved = np.empty_like(images)
    for start in range(0, len(images), PIECE):
        piece = np.asarray(images[start : start + PIECE])
        moved[start : start + PIECE] = _sampled(piece, *_mapped(maps_of(piece))).numpy().round()
    return moved


def _inverse_maps(amounts: Any) -> Any:
    """Maps for ``transform``, float32 (n, 6), from amounts (6, n), each a share of its range."""
    import tensorflow as tf

    rotation, shear, zoom_x, zoom_y, shift_x, shift_y = tf.unstack(amounts)
    cosine, sine = tf.cos(ROTATION * rotation), tf.sin(ROTATION * rotation)
    wide, high, slant = tf.exp(ZOOM * zoom_x), tf.exp(ZOOM * zoom_y), SHEAR * shear
    a, b = cosine * wide, cosine * slant * wide - sine * high  # shear, then zoom, then rotation
    d, e = sine * wide, sine * slant * wide + cosine * high
    centre = 27 / 2  # of pixels 0 to 27: only the shift moves it
    c = centre - a * centre - b * centre + SHIFT * shift_x
    f = centre - d * centre - e * centre + SHIFT * shift_y
    return tf.stack([a, b, c, d, e, f], axis=1)


def _mapped(maps: Any) -> tuple[Any, Any]:
    """Where each pixel comes from: x and y, float32 (n, 28, 28)."""
    import tensorflow as tf

    x, y = tf.meshgrid(tf.range(28.0), tf.range(28.0))
    a, b, c, d, e, f = tf.unstack(maps[:, :, tf.newaxis, tf.newaxis], axis=1)
    return a * x + b * y + c, d * x + e * y + f


def _bends(count: Any, seed: Any) -> tuple[Any, Any]:
    """Displacement of each pixel, x and y, float32 (n, 28, 28): smooth between random knots."""
    import tensorflow as tf

    knots = BEND * tf.random.stateless_normal((2, count, KNOTS, KNOTS), seed)
    spline = tf.constant(_spline())
    bend_x, bend_y = tf.unstack(tf.einsum("yi,knij,xj->knyx", spline, knots, spline))
    return bend_x, bend_y


def _spline() -> NDArray[np.float32]:
    """The weight of each knot at each pixel of a row, (28, KNOTS): uniform cubic B-splines."""
    pixels = np.linspace(1, KNOTS - 2, 28)
    distance = np.abs(pixels[:, np.newaxis] - np.arange(KNOTS))
    near, far = 2 / 3 - distance**2 + distance**3 / 2, np.maximum(0, 2 - distance) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)


def _sampled(images: Any, x: Any, y: Any) -> Any:
    """The images at x and y, float32 (n, 28, 28, 1), bilinearly interpolated between pixels.

    Written out, since ImageProjectiveTransformV3 cannot bend and Keras' map_coordinates needs to
    know the number of images in advance.
    """
    import tensorflow as tf

    padded = tf.pad(images[..., 0], [(0, 0), (BORDER, BORDER), (BORDER, BORDER)])
    side = 28 + 2 * BORDER
    x, y = (tf.clip_by_value(at + BORDER, 0.0, side - 1.001) for at in (x, y))
    left, top = tf.floor(x), tf.floor(y)
    right_share, low_share = x - left, y - top
    first = side**2 * tf.range(tf.shape(images)[0])[:, tf.newaxis, tf.newaxis]
    corner = first + side * tf.cast(top, tf.int32) + tf.cast(left, tf.int32)
    values = tf.cast(tf.reshape(padded, [-1]), tf.float32)

    def across(offset: int) -> Any:
        at_left, at_right = (tf.gather(values, corner + offset + step) for step in (0, 1))
        return at_left + right_share * (at_right - at_left)

    upper, lower = across(0), across(side)
    return (upper + low_share * (lower - upper))[..., tf.newaxis]
