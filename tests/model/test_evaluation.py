import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import classification_report, confusion_matrix, log_loss

from model.errors import PermanentError
from model.evaluation import evaluate, mcnemar, most_confident_mistakes, wilson_interval

Labels = NDArray[np.uint8]
Probabilities = NDArray[np.float32]


@pytest.fixture
def predictions() -> tuple[Labels, Probabilities]:
    """500 labels, and probabilities that are right about two times in three."""
    random = np.random.default_rng(3)
    labels = random.integers(0, 10, 500).astype(np.uint8)
    scores = random.random((500, 10)) + 0.8 * np.eye(10)[labels]
    return labels, (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)


@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_agrees_with_scipy(case: tuple[int, int]) -> None:
    correct, count = case
    expected = binomtest(correct, count).proportion_ci(method="wilson")
    assert wilson_interval(correct, count) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(("correct", "count"), [(0, 1), (1, 1), (0, 28_000), (28_000, 28_000)])
def test_wilson_interval_stays_within_0_and_1(correct: int, count: int) -> None:
    low, high = wilson_interval(correct, count)
    assert 0 <= low <= correct / count <= high <= 1
    assert low < high


def test_evaluation_agrees_with_scikit_learn(predictions: tuple[Labels, Probabilities]) -> None:
    labels, probabilities = predictions
    result = evaluate(labels, probabilities)
    predicted = probabilities.argmax(axis=1)
    report = classification_report(labels, predicted, output_dict=True)
    assert result.count == 500
    assert result.correct == (predicted == labels).sum()
    assert result.accuracy == pytest.approx(report["accuracy"])
    assert result.ci95 == wilson_interval(result.correct, 500)
    assert result.loss == pytest.approx(log_loss(labels, probabilities), abs=1e-6)
    assert result.confusion == confusion_matrix(labels, predicted).tolist()
    for score in result.classes:
        expected = report[str(score.digit)]
        measured = (score.precision, score.recall, score.f1, score.support)
        assert measured == pytest.approx(
            tuple(expected[key] for key in ("precision", "recall", "f1-score", "support"))
        )


def test_digit_without_image_or_prediction_scores_0() -> None:
    result = evaluate(np.array([1], np.uint8), np.eye(10, dtype=np.float32)[[2]])
    absent = result.classes[7]
    assert (absent.precision, absent.recall, absent.f1, absent.support) == (0, 0, 0, 0)


def test_loss_of_a_certain_mistake_is_finite() -> None:
    result = evaluate(np.array([1], np.uint8), np.eye(10, dtype=np.float32)[[2]])
    assert result.loss == pytest.approx(-np.log(1e-7))


def test_diverged_training_is_a_permanent_error(predictions: tuple[Labels, Probabilities]) -> None:
    labels, probabilities = predictions
    probabilities[4, 2] = np.nan
    with pytest.raises(PermanentError, match="diverged"):
        evaluate(labels, probabilities)


@pytest.mark.parametrize("shape", [(0, 10), (3, 9), (2, 10)])
def test_shapes_that_do_not_fit_are_refused(shape: tuple[int, int]) -> None:
    count = 3 if shape[0] else 0
    with pytest.raises(ValueError, match="do not fit"):
        evaluate(np.zeros(count, np.uint8), np.full(shape, 0.1, np.float32))


def test_mistakes_come_most_confident_first() -> None:
    labels = np.array([0, 0, 0, 0], np.uint8)
    probabilities = np.zeros((4, 10), np.float32)
    probabilities[:, 0] = [0.1, 0.9, 0.3, 0.2]
    probabilities[:, 5] = [0.9, 0.1, 0.7, 0.8]
    assert most_confident_mistakes(labels, probabilities, 9).tolist() == [0, 3, 2]
    assert most_confident_mistakes(labels, probabilities, 2).tolist() == [0, 3]


@pytest.mark.parametrize(
    ("only_a", "only_b", "expected"),
    [
        (0, 0, 1),  # they misread the same images
        (1, 0, 1),
        (5, 5, 1),
        (0, 6, 2 / 2**6),
        (2, 10, 2 * (1 + 12 + 66) / 2**12),
        (1_050, 950, 0.0268241),  # 2**2000 is past what a float holds
    ],
)
def test_mcnemar_counts_the_ways_to_fall_as_far_apart(
    only_a: int, only_b: int, expected: float
) -> None:
    assert mcnemar(only_a, only_b) == pytest.approx(expected, rel=1e-5)
    assert mcnemar(only_b, only_a) == mcnemar(only_a, only_b)
