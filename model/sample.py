"""The embedded sample: scikit-learn's handwritten digits, converted to look like MNIST."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model import digits

SIZE, MAXIMUM = 8, 16  # scikit-learn's images: 8x8 pixels of 0..16
BOX, CENTRE = 20, 14  # MNIST fits a digit into 20x20 pixels, with its centre of mass at pixel 14
BLACK, WHITE = 0.3, 0.8  # enlarging blurs: these restore about MNIST's shares of black and white
TEST_FRACTION = 0.4  # the competition's: 28,000 of 70,000


def sample_digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (1797, 28, 28, 1) and labels (1797,): 8x8 digits enlarged, sharpened and centred."""
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    small = pixels.reshape(-1, SIZE, SIZE) / MAXIMUM
    factors = (1, BOX / SIZE, BOX / SIZE)
    large = zoom(small, factors, order=3, mode="grid-constant", grid_mode=True)
    boxes = np.rint(255 * np.clip((large - BLACK) / (WHITE - BLACK), 0, 1)).astype(np.uint8)
    images = np.zeros((len(boxes), digits.SIDE, digits.SIDE, 1), np.uint8)
    for image, box in zip(images, boxes, strict=True):
        top, left = _offset(box.sum(axis=1)), _offset(box.sum(axis=0))
        image[top : top + BOX, left : left + BOX, 0] = box
    return images, labels.astype(np.uint8)


def split_like_competition(
    images: NDArray[np.uint8], labels: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Train images and labels, test images and labels: a fixed 60% and 40% of each class."""
    test = digits.validation_mask(digits.stratified_positions(labels, seed=0), TEST_FRACTION)
    return images[~test], labels[~test], images[test], labels[test]


def _offset(ink: NDArray[np.unsignedinteger]) -> int:
    """Where a box starts in the image so that its ink, summed line by line, centres on CENTRE."""
    return round(CENTRE - float(np.average(np.arange(BOX), weights=ink)))
