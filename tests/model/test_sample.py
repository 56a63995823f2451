from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import zoom
from sklearn.datasets import load_digits

from model import sample

Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@pytest.fixture(scope="module")
def digits() -> Arrays:
    return sample.sample_digits()


def test_the_digits_have_the_form_of_mnist(digits: Arrays) -> None:
    images, labels = digits
    assert images.shape == (1797, 28, 28, 1)
    assert labels.shape == (1797,)
    assert images.dtype == labels.dtype == np.uint8
    assert (images.max(axis=(1, 2, 3)) > 200).all()
    np.testing.assert_array_equal(labels, load_digits().target)


def test_the_ink_fits_the_box_and_is_centred(digits: Arrays) -> None:
    ink = digits[0][..., 0].astype(float)
    for profiles in (ink.sum(axis=1), ink.sum(axis=2)):
        inked = [np.flatnonzero(profile) for profile in profiles]
        assert 12 < max(lines[-1] - lines[0] + 1 for lines in inked) <= 20
        centres = profiles @ np.arange(28) / profiles.sum(axis=1)
        assert abs(centres - 14).max() <= 0.5


def test_shrunk_again_the_digits_are_those_of_scikit_learn(digits: Arrays) -> None:
    for image, small in zip(digits[0][:30, ..., 0], load_digits().images, strict=False):
        boxes = [image[y : y + 20, x : x + 20] for y in range(9) for x in range(9)]
        shrunk = [zoom(box / 255, 0.4, mode="grid-constant", grid_mode=True) for box in boxes]
        assert max(np.corrcoef(box.ravel(), small.ravel())[0, 1] for box in shrunk) > 0.9


def test_the_greys_are_spread_like_those_of_mnist(digits: Arrays) -> None:
    images, _ = digits
    assert (images == 0).mean() == pytest.approx(0.81, abs=0.05)  # 0.809 in the competition's train
    assert (images >= 250).mean() == pytest.approx(0.074, abs=0.03)


def test_the_split_is_the_competitions(digits: Arrays) -> None:
    train, train_labels, test, test_labels = sample.split_like_competition(*digits)
    assert len(train) == len(train_labels)
    assert len(test) == len(test_labels)
    assert len(test) / 1797 == pytest.approx(28_000 / 70_000, abs=0.005)
    shares = np.bincount(test_labels) / np.bincount(digits[1])
    np.testing.assert_allclose(shares, 0.4, atol=0.01)


def test_the_split_parts_all_digits_and_repeats(digits: Arrays) -> None:
    train, _, test, _ = parts = sample.split_like_competition(*digits)
    rows = sorted(image.tobytes() for image in (*train, *test))
    assert rows == sorted(image.tobytes() for image in digits[0])
    for first, second in zip(parts, sample.split_like_competition(*digits), strict=True):
        np.testing.assert_array_equal(first, second)
