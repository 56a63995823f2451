"""How good predictions are: scores, confidence intervals, confusions, and a paired test."""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from model.digits import CLASSES
from model.errors import PermanentError


@dataclass(frozen=True)
class ClassScore:
    """How well one digit is recognised. A score whose denominator is zero is 0."""

    digit: int
    precision: float  # share of the images predicted as this digit that are this digit
    recall: float  # share of the images of this digit that are predicted as it
    f1: float  # harmonic mean of the two
    support: int  # images that are this digit


@dataclass(frozen=True)
class Evaluation:
    """The scores of predictions on labelled images; ``dataclasses.asdict`` makes it JSON-ready."""

    accuracy: float
    loss: float  # categorical cross-entropy, natural logarithm, mean per image
    count: int
    correct: int
    ci95: tuple[float, float]  # Wilson interval of the accuracy
    confusion: list[list[int]]  # images by true digit (row) and predicted digit (column)
    classes: list[ClassScore]


def evaluate(labels: NDArray[np.uint8], probabilities: NDArray[np.floating]) -> Evaluation:
    """Score predictions, uint8 (n,) labels against float (n, 10) probabilities, n >= 1.

    Raises:
        PermanentError: a probability is not finite, as after a training that diverged.
        ValueError: the shapes do not fit, or there is no image.
    """
    count = len(labels)
    if count == 0 or probabilities.shape != (count, CLASSES):
        raise ValueError(f"{labels.shape} labels do not fit {probabilities.shape} probabilities")
    if not np.isfinite(probabilities).all():
        raise PermanentError(
            "The network's probabilities are not finite: its training diverged.",
            "Train with a lower learning rate or another seed.",
        )
    confusion = confusion_matrix(labels, probabilities.argmax(axis=1))
    correct = int(confusion.trace())
    # The same clipping as Keras, so that one certain mistake does not make the loss infinite.
    of_truth = probabilities[np.arange(count), labels].astype(np.float64).clip(1e-7, 1.0)
    return Evaluation(
        accuracy=correct / count,
        loss=float(-np.log(of_truth).mean()),
        count=count,
        correct=correct,
        ci95=wilson_interval(correct, count),
        confusion=confusion.tolist(),
        classes=class_scores(confusion),
    )


def confusion_matrix(
    labels: NDArray[np.integer], predictions: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Count images by true digit (row) and predicted digit (column), int64 (10, 10)."""
    cells = labels.astype(np.int64) * CLASSES + predictions
    return np.bincount(cells, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def class_scores(confusion: NDArray[np.int64]) -> list[ClassScore]:
    """Precision, recall and F1 of each digit."""
    hits = confusion.diagonal()
    predicted, support = confusion.sum(axis=0), confusion.sum(axis=1)
    precision = hits / np.maximum(predicted, 1)
    recall = hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(predicted + support, 1)
    rows = zip(precision.tolist(), recall.tolist(), f1.tolist(), support.tolist(), strict=True)
    return [ClassScore(digit, *row) for digit, row in enumerate(rows)]


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """95% confidence interval of a proportion: within 0..1, and sound near both ends.

    Wilson, E. B. (1927), Probable inference, the law of succession, and statistical inference.
    """
    z = 1.959963984540054  # 97.5% quantile of the normal distribution
    share = correct / count
    centre = share + z * z / (2 * count)
    half = z * sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    scale = 1 + z * z / count
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def most_confident_mistakes(
    labels: NDArray[np.uint8], probabilities: NDArray[np.floating], how_many: int
) -> NDArray[np.int64]:
    """Indices of the wrong predictions with the highest probability, highest first."""
    mistakes = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    confidence = probabilities[mistakes].max(axis=1)
    return mistakes[np.argsort(-confidence, kind="stable")[:how_many]]


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p-value for the hypothesis that two models are equally good on the same images.

    The exact test: then, an image that only one of them misreads (there are ``only_a`` and
    ``only_b`` of these) is as likely to be misread by the one as by the other.
    McNemar, Q. (1947), Note on the sampling error of the difference between correlated proportions.
    """
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
