from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.typing import ColorType
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from model import figures
from model.evaluation import evaluate
from model.exploration import explore, mean_images

pytestmark = pytest.mark.filterwarnings("error")

DIGITS = load_digits()
ENLARGED = np.pad(np.kron(DIGITS.images, np.ones((3, 3))) * 255 / 16, ((0, 0), (2, 2), (2, 2)))
IMAGES, TEST_IMAGES = np.split(ENLARGED[:500, :, :, np.newaxis].astype(np.uint8), [300])
LABELS = DIGITS.target[:300].astype(np.uint8)
NOISE = np.random.default_rng(0).dirichlet(np.full(10, 0.3), 300)
PROBABILITIES = 0.7 * NOISE + 0.3 * np.eye(10)[LABELS]
NUMBERS = explore(IMAGES, LABELS, TEST_IMAGES)
SCORES = evaluate(LABELS, PROBABILITIES)
HISTORY = [
    {
        "epoch": epoch,
        "train_accuracy": 0.9 + epoch / 100,
        "train_loss": 1 / epoch,
        "validation_accuracy": 0.95 + epoch / 250,
        "validation_loss": 0.5 / epoch,
    }
    for epoch in range(1, 11)
]

Draw = Callable[[str | None], Figure]
FIGURES: dict[str, Draw] = {
    "label_counts": lambda notice: figures.label_counts(NUMBERS, notice),
    "pixel_intensities": lambda notice: figures.pixel_intensities(NUMBERS, notice),
    "train_against_test": lambda notice: figures.train_against_test(
        IMAGES, TEST_IMAGES, NUMBERS, notice
    ),
    "sample_grid": lambda notice: figures.sample_grid(IMAGES, LABELS, notice),
    "mean_images": lambda notice: figures.mean_images(mean_images(IMAGES, LABELS), notice),
    "learning_curves": lambda notice: figures.learning_curves(HISTORY, 0.987, notice),
    "confusion_matrix": lambda notice: figures.confusion_matrix(SCORES, notice),
    "class_scores": lambda notice: figures.class_scores(SCORES, notice),
    "mistakes": lambda notice: figures.mistakes(IMAGES, LABELS, PROBABILITIES, notice),
}
each_figure = pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES.keys())


def texts(figure: Figure) -> str:
    found = figure.findobj(Text)
    return " | ".join(" ".join(text.get_text().split()) for text in found)


def drawn(figure: Figure) -> NDArray[np.uint8]:
    """The pixels of a figure of images."""
    (ax,) = figure.axes
    return np.asarray(ax.images[0].get_array())


@each_figure
def test_png_is_sharp_small_and_the_same_bytes_each_time(draw: Draw, tmp_path: Path) -> None:
    paths = tmp_path / "one.png", tmp_path / "two.png"
    for path in paths:
        figures.save(draw(None), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    with Image.open(paths[0]) as picture:
        assert picture.width == 1600
        assert not picture.info
    assert paths[0].stat().st_size < 200_000
    assert not plt.get_fignums()


def test_a_missing_font_gives_way_to_the_one_that_matplotlib_brings(tmp_path: Path) -> None:
    figures.save(figures.label_counts(NUMBERS), tmp_path / "there.png")
    with plt.rc_context({"font.family": ["No Such Font"]}):
        figures.save(figures.label_counts(NUMBERS), tmp_path / "missing.png")
    assert (tmp_path / "missing.png").read_bytes() == (tmp_path / "there.png").read_bytes()


@each_figure
def test_notice_shows_in_full(draw: Draw) -> None:
    notice = "This is a sample and not MNIST: " + "nothing here can be compared. " * 4
    assert notice.strip() in texts(draw(notice))
    assert "sample" not in texts(draw(None))


def test_failed_save_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(OSError, match=r"taken\.png"):
        figures.save(FIGURES["mean_images"](None), tmp_path / "taken.png")
    assert [path.name for path in tmp_path.iterdir()] == ["taken.png"]


def test_titles_state_the_numbers() -> None:
    wrong = SCORES.count - SCORES.correct
    assert wrong > 24
    assert f"{wrong} of 300 validation images are misread" in texts(FIGURES["confusion_matrix"](""))
    assert f"{wrong} mistakes in 300" in texts(FIGURES["mistakes"](""))
    counts = np.bincount(LABELS)
    assert f"300 training images: {counts.min()} (digit" in texts(FIGURES["label_counts"](""))
    assert "lowest at epoch 10 of 10: 0.0500" in texts(FIGURES["learning_curves"](""))


def test_confusion_matrix_shows_every_count_in_the_row_of_the_true_digit() -> None:
    sevens = LABELS == 7
    probabilities = np.where(sevens[:, np.newaxis], np.eye(10)[2], PROBABILITIES)
    scores = evaluate(LABELS, probabilities)
    figure = figures.confusion_matrix(scores)
    assert f"most often 7 as 2 ({sevens.sum()})" in texts(figure)
    (ax,) = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted digit", "true digit")
    shown = {text.get_position(): text.get_text() for text in ax.texts}
    counts = np.ndenumerate(np.array(scores.confusion))
    assert shown == {(x + 0.5, y + 0.5): str(count) for (y, x), count in counts if count or x == y}


def test_mistakes_show_image_truth_prediction_and_confidence() -> None:
    probabilities = np.eye(10)[LABELS]
    probabilities[7] = 0
    probabilities[7, [2, 7]] = 0.875, 0.125
    figure = figures.mistakes(IMAGES, LABELS, probabilities)
    shown = texts(figure)
    assert "1 mistakes in 300" in shown
    assert "7 read as 2" in shown
    assert "87.5% sure" in shown
    first_tile = drawn(figure)[14:42, 2:30]
    np.testing.assert_array_equal(first_tile, IMAGES[7, :, :, 0])


def test_each_digit_of_the_grid_is_in_its_column() -> None:
    sheet = drawn(figures.sample_grid(IMAGES, LABELS))
    for digit, column in enumerate(np.split(sheet, 10, axis=1)):
        first = IMAGES[digit == LABELS][:8, :, :, 0]
        np.testing.assert_array_equal(column, first.reshape(-1, 28))


def test_perfect_predictions_draw(tmp_path: Path) -> None:
    certain = np.eye(10)[LABELS]
    perfect = evaluate(LABELS, certain)
    for figure in (
        figures.mistakes(IMAGES, LABELS, certain),
        figures.confusion_matrix(perfect),
        figures.class_scores(perfect),
    ):
        figures.save(figure, tmp_path / "perfect.png")


def test_each_curve_is_of_the_rows_that_its_label_names() -> None:
    _, loss = figures.learning_curves(HISTORY, 1).axes
    shown = {line.get_label(): list(np.ravel(line.get_ydata())) for line in loss.lines}
    parts = ("train", "validation")
    assert shown == {part: [row[f"{part}_loss"] for row in HISTORY] for part in parts}


def test_learning_curves_of_several_networks() -> None:
    history = [{**row, "member": member} for member in range(3) for row in HISTORY]
    figure = figures.learning_curves(history, 0.987)
    assert "3 networks" in texts(figure)
    accuracy, loss = figure.axes
    assert len(loss.lines) == 6
    assert len(accuracy.lines) == 7  # and the target accuracy
    assert "validation target: 98.7%" in texts(figure)
    never_stops_early = figures.learning_curves(history, 1)
    assert len(never_stops_early.axes[0].lines) == 6
    assert "target" not in texts(never_stops_early)


@pytest.mark.parametrize("accuracy", [0.1, 0.9872, 1.0])
def test_learning_curves_of_one_epoch_keep_a_readable_axis(accuracy: float) -> None:
    row = {**HISTORY[0], "train_accuracy": accuracy, "validation_accuracy": accuracy}
    axis = figures.learning_curves([row], accuracy).axes[0]
    assert all(place == round(place) for place in axis.get_xticks())
    ticks = axis.get_yticks()
    assert len(ticks) >= 2
    assert ticks.min() <= axis.lines[0].get_ydata()[0] <= ticks.max()  # type: ignore[index]


@pytest.mark.parametrize("highest", [0, 1, 5])
def test_images_that_are_nearly_blank_draw(highest: int, tmp_path: Path) -> None:
    images = np.minimum(IMAGES, highest).astype(np.uint8)
    figure = figures.train_against_test(images, images, explore(images, LABELS, images))
    figures.save(figure, tmp_path / "blank.png")


def test_labels_of_short_bars_stand_above_them() -> None:
    labels = np.zeros(300, np.uint8)
    labels[:9] = np.arange(1, 10)
    (ax,) = figures.label_counts(explore(IMAGES, labels, TEST_IMAGES)).axes
    shown = {text.get_text(): text.get_color() for text in ax.texts if text.get_text()}
    assert shown == {"291\n97.0%": "white", "1\n0.3%": figures.INK}


def test_a_digit_without_images_or_predictions_has_no_score() -> None:
    kept = LABELS != 3
    never_5 = np.where(np.arange(10) == 5, 0, PROBABILITIES)[kept]
    never_5[:, 3] = 0
    (ax,) = figures.class_scores(evaluate(LABELS[kept], never_5)).axes
    drawn = {line.get_label(): np.rint(line.get_xdata()).tolist() for line in ax.lines}
    digits = list(range(10))
    assert drawn["precision"] == [digit for digit in digits if digit not in (3, 5)]
    assert drawn["recall"] == drawn["F1"] == [digit for digit in digits if digit != 3]


def test_text_on_colour_can_be_read() -> None:
    """A contrast of 4.5 to 1, as the Web Content Accessibility Guidelines 2.1 have it."""
    confusion = figures.confusion_matrix(SCORES).axes[0]
    cells = [
        colour for mesh in confusion.collections for colour in to_rgba_array(mesh.get_facecolor())
    ]
    assert min(contrast(cell, figures.INK) for cell in cells if cell[3]) > 4.5
    assert contrast(figures.BAND, "white") > 4.5
    assert contrast(figures.BLUE, "white") > 4.5


def contrast(one: ColorType, other: ColorType) -> float:
    def luminance(colour: ColorType) -> float:
        parts = np.array(to_rgb(colour))
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    darker, lighter = sorted([luminance(one), luminance(other)])
    return (lighter + 0.05) / (darker + 0.05)
