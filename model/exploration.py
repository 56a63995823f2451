"""What the data looks like, in numbers: balance, intensities, duplicates, train against test."""

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from model.digits import CLASSES

SHIFT_P_VALUE = 0.001  # below it, train and test are reported to differ


@dataclass(frozen=True)
class Exploration:
    """The numbers of eda.json; ``dataclasses.asdict`` makes it JSON-ready.

    ``shift_statistic`` is the two-sample Kolmogorov-Smirnov statistic of the images' mean
    intensities: the largest gap between the two cumulative distributions, 0 (same) to 1 (apart).
    It compares images and not pixels, because its p-value needs independent values and the
    pixels of one image are not.
    """

    train_count: int
    test_count: int
    label_counts: list[int]  # by digit
    class_shares: list[float]  # by digit
    train_histogram: list[int]  # pixels by intensity, 0..255
    test_histogram: list[int]
    train_mean: float  # intensity, 0..255
    train_std: float
    test_mean: float
    test_std: float
    train_zero_share: float  # share of pixels that are 0
    test_zero_share: float
    always_zero_pixels: int  # of 784, those that are 0 in every train and test image
    duplicates_within_train: int  # images that repeat an earlier one exactly
    duplicates_within_test: int
    test_copies_of_train: int  # test images that are also training images
    conflicting_labels: int  # distinct training images that carry more than one label
    shift_statistic: float
    shift_p_value: float
    warnings: list[str] = field(default_factory=list)


def explore(
    train_images: NDArray[np.uint8],
    train_labels: NDArray[np.uint8],
    test_images: NDArray[np.uint8],
) -> Exploration:
    """Describe uint8 (n, 28, 28, 1) images and uint8 (n,) labels."""
    from scipy.stats import ks_2samp

    label_counts = np.bincount(train_labels, minlength=CLASSES)
    train_histogram, test_histogram = _histogram(train_images), _histogram(test_images)
    train_mean, train_std = _mean_and_std(train_histogram)
    test_mean, test_std = _mean_and_std(test_histogram)
    train_ids, test_ids = _identities(train_images, test_images)
    distinct, distinct_test = np.unique(train_ids), np.unique(test_ids)
    labelled = np.unique(train_ids * CLASSES + train_labels) // CLASSES
    ever_on = train_images.any(axis=0) | test_images.any(axis=0)
    shift = ks_2samp(mean_intensities(train_images), mean_intensities(test_images), method="asymp")
    numbers = Exploration(
        train_count=len(train_images),
        test_count=len(test_images),
        label_counts=label_counts.tolist(),
        class_shares=(label_counts / len(train_labels)).tolist(),
        train_histogram=train_histogram.tolist(),
        test_histogram=test_histogram.tolist(),
        train_mean=train_mean,
        train_std=train_std,
        test_mean=test_mean,
        test_std=test_std,
        train_zero_share=float(train_histogram[0] / train_histogram.sum()),
        test_zero_share=float(test_histogram[0] / test_histogram.sum()),
        always_zero_pixels=int((~ever_on).sum()),
        duplicates_within_train=len(train_ids) - len(distinct),
        duplicates_within_test=len(test_ids) - len(distinct_test),
        test_copies_of_train=int(np.isin(test_ids, distinct).sum()),
        conflicting_labels=int((np.unique(labelled, return_counts=True)[1] > 1).sum()),
        shift_statistic=float(shift.statistic),
        shift_p_value=float(shift.pvalue),
    )
    return replace(numbers, warnings=_warnings(numbers))


def mean_images(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The mean image of each digit, float32 (10, 28, 28), 0..255; zeros where it has no image."""
    means = np.zeros((CLASSES, *images.shape[1:3]), np.float32)
    for digit in np.unique(labels):
        means[digit] = images[labels == digit, :, :, 0].mean(axis=0, dtype=np.float32)
    return means


def mean_intensities(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The mean intensity of each image, float64 (n,), 0..255."""
    pixels = images.reshape(len(images), -1)
    means: NDArray[np.float64] = pixels.mean(axis=1, dtype=np.float64)
    return means


def _histogram(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    histogram = np.zeros(256, np.int64)
    for part in np.array_split(images, 16):  # bincount widens its input to eight bytes per pixel
        histogram += np.bincount(part.ravel(), minlength=256)
    return histogram


def _mean_and_std(histogram: NDArray[np.int64]) -> tuple[float, float]:
    levels = np.arange(256)
    mean = float(np.average(levels, weights=histogram))
    return mean, float(np.sqrt(np.average((levels - mean) ** 2, weights=histogram)))


def _identities(*parts: NDArray[np.uint8]) -> list[NDArray[np.int64]]:
    """A number for each image, the same for images that are equal in every pixel."""
    seen: dict[bytes, int] = {}  # by sha256, a twenty-fifth of an image
    identities = []
    for images in parts:
        digests = (hashlib.sha256(image.data).digest() for image in np.ascontiguousarray(images))
        numbers = (seen.setdefault(digest, len(seen)) for digest in digests)
        identities.append(np.fromiter(numbers, np.int64, len(images)))
    return identities


def _warnings(numbers: Exploration) -> list[str]:
    warnings = []
    if copies := numbers.test_copies_of_train:
        warnings.append(
            f"Leak: {copies:,} of {numbers.test_count:,} test images are exact copies of training"
            " images, so a test score says less about new digits."
        )
    if repeats := numbers.duplicates_within_train:
        warnings.append(
            f"{repeats:,} of {numbers.train_count:,} training images repeat an earlier one exactly,"
            " so copies may be on both sides of the validation split."
        )
    if repeats := numbers.duplicates_within_test:
        warnings.append(
            f"{repeats:,} of {numbers.test_count:,} test images repeat an earlier one exactly."
        )
    if conflicts := numbers.conflicting_labels:
        warnings.append(f"{conflicts:,} training images occur with more than one label.")
    if numbers.shift_p_value < SHIFT_P_VALUE:
        warnings.append(
            "Train and test images differ in mean intensity: Kolmogorov-Smirnov"
            f" D = {numbers.shift_statistic:.3f}, p = {numbers.shift_p_value:.1g}."
        )
    return warnings
