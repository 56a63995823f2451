"""The forms in which a network sees digits: as drawn, upright, or all of one width.

Members that see different forms misread different digits, so their mean misreads fewer: D. Ciresan,
U. Meier, J. Schmidhuber, Multi-column deep neural networks for image classification, 2012.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.augmentation import Images, transform
from model.recipes import Form

WIDTH = 20  # pixels
STRETCH = 1.6  # largest factor by which a digit is widened or narrowed: a 1 stays a stroke
SHEAR = 0.8  # pixels per row: the largest slant that is removed
INK = 30  # above it, a pixel belongs to the digit's bounding box
CENTRE = 27 / 2  # of pixels 0 to 27


def in_form(images: Images, form: Form) -> Images:
    """The images in that form, each digit centred; for ``drawn`` the very same array."""
    if form == "drawn":
        return images
    return transform(images, _upright if form == "upright" else _of_one_width)


def _upright(images: Images) -> NDArray[np.float32]:
    """Maps that shear each digit until the centres of its rows show no slant on average."""
    ink = images[..., 0] / np.maximum(1.0, images.sum(axis=(1, 2, 3))[:, None, None])
    by_row, by_column = ink.sum(axis=2), ink.sum(axis=1)
    pixels = np.arange(28)
    y, x = by_row @ pixels, by_column @ pixels
    variance = by_row @ pixels**2 - y**2
    covariance = np.einsum("nyx,y,x->n", ink, pixels, pixels, optimize=True) - y * x
    slant = np.clip(covariance / np.maximum(variance, 1e-6), -SHEAR, SHEAR)
    return _maps(images, y, x, np.ones_like(slant), slant)


def _of_one_width(images: Images) -> NDArray[np.float32]:
    """Maps that scale the bounding box of each digit to WIDTH."""
    ink = images[..., 0] > INK
    (top, bottom), (left, right) = (_ends(ink.max(axis=axis)) for axis in (2, 1))
    stretch = np.clip((right - left + 1) / WIDTH, 1 / STRETCH, STRETCH)
    return _maps(images, (top + bottom) / 2, (left + right) / 2, stretch, np.zeros_like(stretch))


def _ends(inked: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the first and the last True in each row of bool (n, 28)."""
    return inked.argmax(axis=1), 27 - inked[:, ::-1].argmax(axis=1)


def _maps(
    images: Images,
    y: NDArray[np.floating],
    x: NDArray[np.floating],
    stretch: NDArray[np.floating],
    slant: NDArray[np.floating],
) -> NDArray[np.float32]:
    """Maps, float32 (n, 6), that move y, x to the centre; an empty image stays as it is."""
    one, zero = np.ones_like(stretch), np.zeros_like(stretch)
    to_x = stretch, slant, x - (stretch + slant) * CENTRE
    maps = np.stack([*to_x, zero, one, y - CENTRE], axis=1)
    empty = ~images.any(axis=(1, 2, 3))
    maps[empty] = 1, 0, 0, 0, 1, 0
    return maps.astype(np.float32)
