import json
from dataclasses import asdict

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from model.exploration import explore, mean_images, mean_intensities

Images = NDArray[np.uint8]


def random_images(count: int, seed: int, highest: int = 255) -> Images:
    """Distinct images with a black frame of one pixel."""
    images = np.zeros((count, 28, 28, 1), np.uint8)
    inside = (count, 26, 26, 1)
    images[:, 1:-1, 1:-1] = np.random.default_rng(seed).integers(0, highest + 1, inside)
    return images


@pytest.fixture
def data() -> tuple[Images, NDArray[np.uint8], Images]:
    labels = np.tile(np.arange(10, dtype=np.uint8), 6)
    return random_images(60, 1), labels, random_images(40, 2)


def test_numbers_agree_with_numpy(data: tuple[Images, NDArray[np.uint8], Images]) -> None:
    train, labels, test = data
    numbers = explore(train, labels, test)
    assert (numbers.train_count, numbers.test_count) == (60, 40)
    assert numbers.label_counts == [6] * 10
    assert numbers.class_shares == [0.1] * 10
    assert numbers.train_histogram == [int((train == level).sum()) for level in range(256)]
    assert sum(numbers.test_histogram) == test.size
    assert numbers.train_mean == pytest.approx(train.mean())
    assert numbers.train_std == pytest.approx(train.std())
    assert numbers.test_mean == pytest.approx(test.mean())
    assert numbers.test_std == pytest.approx(test.std())
    assert numbers.train_zero_share == pytest.approx((train == 0).mean())
    assert numbers.test_zero_share == pytest.approx((test == 0).mean())
    assert numbers.always_zero_pixels == 28 * 28 - 26 * 26


def test_clean_data_gives_no_warning(data: tuple[Images, NDArray[np.uint8], Images]) -> None:
    numbers = explore(*data)
    assert numbers.warnings == []
    assert numbers.duplicates_within_train == numbers.duplicates_within_test == 0
    assert numbers.test_copies_of_train == numbers.conflicting_labels == 0


def test_numbers_are_ready_for_json(data: tuple[Images, NDArray[np.uint8], Images]) -> None:
    numbers = asdict(explore(*data))
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers


def test_copies_are_counted_and_warned_of(data: tuple[Images, NDArray[np.uint8], Images]) -> None:
    train, labels, test = data
    train[10] = train[20] = train[0]  # with the same label
    train[31] = train[5]  # 1 and 5
    test[3] = test[4] = test[5]
    test[6] = test[7] = train[0]
    numbers = explore(train, labels, test)
    assert numbers.duplicates_within_train == 3
    assert numbers.conflicting_labels == 1
    assert numbers.duplicates_within_test == 3
    assert numbers.test_copies_of_train == 2
    leak, repeats, test_repeats, conflict = numbers.warnings
    assert "3 of " in test_repeats
    assert leak.startswith("Leak: 2 of 40 test images are exact copies of training images")
    assert repeats.startswith("3 of 60 training images repeat an earlier one")
    assert conflict == "1 training images occur with more than one label."


def test_images_that_differ_in_one_pixel_are_no_copies() -> None:
    train = np.zeros((2, 28, 28, 1), np.uint8)
    train[1, -1, -1] = 1
    numbers = explore(train, np.array([0, 1], np.uint8), random_images(5, 3))
    assert numbers.duplicates_within_train == 0


def test_shift_is_the_kolmogorov_smirnov_statistic(
    data: tuple[Images, NDArray[np.uint8], Images],
) -> None:
    train, labels, _ = data
    darker = random_images(40, 4, highest=180)
    numbers = explore(train, labels, darker)
    expected = ks_2samp(train.mean(axis=(1, 2, 3)), darker.mean(axis=(1, 2, 3)))
    assert numbers.shift_statistic == pytest.approx(expected.statistic)
    assert numbers.shift_p_value < 0.001
    assert numbers.warnings[-1].startswith("Train and test images differ in mean intensity")


def test_mean_images_and_intensities() -> None:
    images = np.zeros((3, 28, 28, 1), np.uint8)
    images[0], images[1, 0, 0] = 200, 255
    means = mean_images(images, np.array([4, 4, 7], np.uint8))
    assert means.shape == (10, 28, 28)
    assert means[4, 0, 0] == 227.5
    assert means[4, 1, 1] == 100
    assert means[[0, 7]].max() == 0
    assert mean_intensities(images).tolist() == [200, 255 / 784, 0]
