"""The figures: each function draws one, and ``save`` writes it as a PNG.

Matplotlib's object API only, never pyplot: no global state, no window system, nothing to close.
A figure shows ``notice``, if given, so that nobody takes its data for the competition's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model.evaluation import Evaluation, most_confident_mistakes, wilson_interval
from model.exploration import SHIFT_P_VALUE, Exploration, mean_intensities

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The style: three colours that colour-blind people can tell apart (Okabe and Ito's palette).
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
BAND = "#A84A00"  # darker orange, on which white text is readable
INK, GREY, LIGHT = "#222222", "#767676", "#E8E8E8"
WIDTH = 8.0  # inches
DOTS_PER_INCH = 200
DIGITS = np.arange(10)
ACCURACY_TICKS = np.array([0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 1])


def label_counts(numbers: Exploration, notice: str | None = None) -> Figure:
    """The number of training images of each digit."""
    import seaborn as sns

    counts = np.array(numbers.label_counts)
    figure, (ax,) = _figure(
        f"{numbers.train_count:,} training images: {counts.min():,} (digit {counts.argmin()})"
        f" to {counts.max():,} (digit {counts.argmax()}) per digit",
        3.6,
        notice,
    )
    sns.barplot(x=DIGITS, y=counts, color=BLUE, saturation=1, width=0.75, ax=ax)
    bars = [f"{n:,}\n{share:.1%}" for n, share in zip(counts, numbers.class_shares, strict=True)]
    tall = counts > counts.max() / 5  # shorter bars have their labels above them
    for inside, place, colour in ((tall, "center", "white"), (~tall, "edge", INK)):
        texts = np.where(inside, bars, "")
        ax.bar_label(ax.containers[0], texts, label_type=place, color=colour, fontsize=9)  # type: ignore[arg-type]
    ax.axhline(counts.mean(), color=INK, linewidth=1, linestyle="--", label="equal shares")
    ax.set_ylim(top=counts.max() * 1.15)
    ax.yaxis.set_major_formatter("{x:,.0f}")
    _finish(ax, "digit", "training images", legend="upper right")
    return figure


def pixel_intensities(numbers: Exploration, notice: str | None = None) -> Figure:
    """How often each intensity occurs among the pixels of train and of test."""
    figure, (ax,) = _figure(
        f"{numbers.train_zero_share:.1%} of all training pixels and"
        f" {numbers.test_zero_share:.1%} of all test pixels are 0",
        3.6,
        notice,
    )
    train, test = numbers.train_histogram, numbers.test_histogram
    _train_and_test(
        ax,
        {"x": range(256), "weights": train, "label": f"train: mean {numbers.train_mean:.1f}"},
        {"x": range(256), "weights": test, "label": f"test: mean {numbers.test_mean:.1f}"},
        bins=64,
        binrange=(0, 256),
    )
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:g}%")
    _finish(ax, "intensity (0..255, bins of 4)", "pixels (log scale)", legend="upper center")
    return figure


def train_against_test(
    train_images: NDArray[np.uint8],
    test_images: NDArray[np.uint8],
    numbers: Exploration,
    notice: str | None = None,
) -> Figure:
    """The distribution of the images' mean intensities in train and in test."""
    figure, (ax,) = _figure(
        "Mean intensity of train and test images: Kolmogorov-Smirnov"
        f" D = {numbers.shift_statistic:.3f}, p = {numbers.shift_p_value:.2g}"
        f" (shift if p < {SHIFT_P_VALUE})",
        3.6,
        notice,
    )
    train, test = mean_intensities(train_images), mean_intensities(test_images)
    _train_and_test(
        ax,
        {"x": train, "label": f"train: {len(train):,} images"},
        {"x": test, "label": f"test: {len(test):,} images"},
        binwidth=2,
        binrange=(0, 2 * max(1, math.ceil(max(train.max(), test.max()) / 2))),
    )
    ax.yaxis.set_major_formatter("{x:g}%")
    _finish(ax, "mean intensity of an image (0..255, bins of 2)", "images", legend="best")
    return figure


def sample_grid(
    images: NDArray[np.uint8], labels: NDArray[np.uint8], notice: str | None = None
) -> Figure:
    """The first images of each digit, one column per digit."""
    how_many = 8
    tiles = np.zeros((how_many, len(DIGITS), 28, 28), np.uint8)
    for digit in DIGITS:
        chosen = np.flatnonzero(labels == digit)[:how_many]
        tiles[: len(chosen), digit] = images[chosen, :, :, 0]
    figure, (ax,) = _figure(f"The first {how_many} training images of each digit", 7.0, notice)
    _show_tiles(ax, tiles, columns=DIGITS)
    return figure


def mean_images(means: NDArray[np.float32], notice: str | None = None) -> Figure:
    """The mean image of each digit, float (10, 28, 28) in 0..255."""
    figure, (ax,) = _figure("The mean training image of each digit", 1.6, notice)
    _show_tiles(ax, means[np.newaxis], columns=DIGITS)
    return figure


def learning_curves(
    history: Sequence[Mapping[str, Any]], target_accuracy: float, notice: str | None = None
) -> Figure:
    """Accuracy and loss per epoch, for each network one line for training and one for validation.

    Each row holds epoch, train_accuracy, train_loss, validation_accuracy, validation_loss and,
    if there are several networks, member. Accuracies are drawn on a log scale of the error, so
    that 98, 99 and 99.5% are well apart; above 99.99% they are drawn as 100%.
    """
    from matplotlib.ticker import MaxNLocator

    members: dict[int, list[Mapping[str, Any]]] = {}
    for row in history:
        members.setdefault(int(row.get("member", 0)), []).append(row)
    lowest = [min(rows, key=lambda row: row["validation_loss"]) for rows in members.values()]
    title = f"Validation loss is lowest at epoch {lowest[0]['epoch']:.0f}"
    title += f" of {len(history)}: {lowest[0]['validation_loss']:.4f}"
    if len(members) > 1:
        losses = np.array([row["validation_loss"] for row in lowest])
        title = f"Lowest validation loss of {len(members)} networks: {losses.min():.4f}"
        title += f" to {losses.max():.4f}"
    figure, (left, right) = _figure(title, 3.8, notice, columns=2)
    for part, colour, marker in (("train", BLUE, "o"), ("validation", ORANGE, "s")):
        for place, rows in enumerate(members.values()):
            style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4}
            style |= {"alpha": 1 / len(members) ** 0.5, "label": None if place else part}
            epochs = [row["epoch"] for row in rows]
            accuracies = np.array([row[f"{part}_accuracy"] for row in rows])
            left.plot(epochs, _stretched(accuracies), **style)
            right.plot(epochs, [row[f"{part}_loss"] for row in rows], **style)
    if target_accuracy < 1:  # otherwise training never stops early
        left.axhline(_stretched(target_accuracy), color=INK, linewidth=1, linestyle="--")
        left.lines[-1].set_label(f"validation target: {100 * target_accuracy:g}%")
    first, last = np.searchsorted(_stretched(ACCURACY_TICKS), left.get_ylim())
    ticks = ACCURACY_TICKS[max(first - 1, 0) : last + 1]  # the axis expands to show them all
    left.set_yticks(_stretched(ticks), [f"{100 * tick:g}%" for tick in ticks])
    right.set_ylim(bottom=0)
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _finish(left, "epoch", "accuracy (log scale of the error)", legend="best")
    _finish(right, "epoch", "loss (cross-entropy)", legend="best")
    return figure


def confusion_matrix(evaluation: Evaluation, notice: str | None = None) -> Figure:
    """Which digit is taken for which: mistakes in colour, correct predictions in grey."""
    import seaborn as sns

    hits = np.eye(len(DIGITS), dtype=bool)
    confusion = np.array(evaluation.confusion)
    wrong = np.where(hits, 0, confusion)
    true, predicted = divmod(int(wrong.argmax()), len(DIGITS))
    title = f"{wrong.sum():,} of {evaluation.count:,} validation images are misread"
    if (wrong == wrong.max()).sum() == 1:
        title += f", most often {true} as {predicted} ({wrong.max():,})"
    figure, (ax,) = _figure(title, 6.0, notice)
    common = {"annot": True, "cbar": False, "linewidths": 1, "linecolor": LIGHT, "ax": ax}
    common["annot_kws"] = {"color": INK}
    highest = 2 * max(wrong.max(), 4)  # half of the colours: on the darker ones text is unreadable
    sns.heatmap(wrong, mask=wrong == 0, fmt="d", cmap="Oranges", vmin=0, vmax=highest, **common)
    sns.heatmap(confusion, mask=~hits, fmt=",d", cmap=[LIGHT], **common)
    _finish(ax, "predicted digit", "true digit", grid=False)
    ax.tick_params(axis="y", rotation=0)
    return figure


def class_scores(evaluation: Evaluation, notice: str | None = None) -> Figure:
    """Precision, recall and F1 of each digit; the first two with their 95% intervals.

    A score is left out where it is undefined: the digit was never predicted, or has no image.
    """
    classes = evaluation.classes
    measured = [c for c in classes if c.support]
    worst, best = min(measured, key=lambda c: c.f1), max(measured, key=lambda c: c.f1)
    figure, (ax,) = _figure(
        f"F1 by digit on {evaluation.count:,} validation images:"
        f" {worst.f1:.1%} ({worst.digit}) to {best.f1:.1%} ({best.digit})",
        4.2,
        notice,
    )
    confusion = np.array(evaluation.confusion)
    hits = confusion.diagonal().tolist()
    for name, x, counts, colour, marker in (
        ("precision", DIGITS - 0.22, confusion.sum(axis=0), BLUE, "o"),
        ("recall", DIGITS, confusion.sum(axis=1), ORANGE, "s"),
    ):
        some = np.flatnonzero(counts)
        bounds = [wilson_interval(hits[digit], int(counts[digit])) for digit in some]
        scores = [getattr(classes[digit], name) for digit in some]
        ax.vlines(x[some], *np.transpose(bounds), color=colour, linewidth=2, alpha=0.4)
        ax.plot(x[some], scores, marker, color=colour, label=name, markersize=5)
    x = np.array([c.digit for c in measured]) + 0.22
    ax.plot(x, [c.f1 for c in measured], "D", color=GREEN, label="F1", markersize=5)
    ax.set_xticks(DIGITS)
    ax.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.4g}%")
    _finish(ax, "digit", "score (lines: 95% interval)", legend="best")
    return figure


def mistakes(
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    probabilities: NDArray[np.floating],
    notice: str | None = None,
) -> Figure:
    """The most confident mistakes, at most 24."""
    columns, height, width = 8, 42, 32  # a tile holds the image and two lines of text above it
    chosen = most_confident_mistakes(labels, probabilities, 24)
    rows = max(1, -(-len(chosen) // columns))
    wrong = int((probabilities.argmax(axis=1) != labels).sum())
    figure, (ax,) = _figure(
        f"{wrong:,} mistakes in {len(labels):,} validation images"
        + (f"; the {len(chosen)} most confident ones" if len(chosen) < wrong else ""),
        1.31 * rows + 0.4,
        notice,
    )
    tiles = np.zeros((rows, columns, height, width), np.uint8)
    for place, index in enumerate(chosen):
        row, column = divmod(place, columns)
        tiles[row, column, 14:, 2:30] = images[index, :, :, 0]
        x, y = (column + 0.5) * width, row * height
        confidence = probabilities[index].max()
        sure = f"{confidence:.1%} sure" if confidence < 0.9995 else "over 99.9% sure"
        read_as = f"{labels[index]} read as {probabilities[index].argmax()}"
        ax.text(x, y + 6, read_as, ha="center", color=INK, fontsize=9)
        ax.text(x, y + 12, sure, ha="center", color=GREY, fontsize=7.5)
    _show_tiles(ax, tiles)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG; the same figure gives the same bytes."""
    from PIL import Image

    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=DOTS_PER_INCH, pil_kwargs={"compress_level": 1})
    # A palette of 256 colours halves the size; Pillow writes neither a date nor a version.
    picture = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    picture.save(path, format="png")


def _figure(
    title: str, height: float, notice: str | None, columns: int = 1
) -> tuple[Figure, Sequence[Axes]]:
    """A figure with its title, the notice where there is one, and its empty axes."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    height += 0.3 if notice else 0
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06)  # inches
    figure = Figure(figsize=(WIDTH, height), layout=layout, facecolor="white")
    title_style: dict[str, Any] = {"fontsize": 11, "fontweight": "bold", "color": INK}
    figure.suptitle(fill(title, 84), x=0.012, ha="left", **title_style)
    if notice:
        band = {"facecolor": BAND, "edgecolor": "none", "pad": 3}
        text_style: dict[str, Any] = {"fontsize": 9, "color": "white", "bbox": band}
        figure.supxlabel(fill(notice, 110), x=0.015, ha="left", **text_style)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _finish(ax: Axes, x_label: str, y_label: str, grid: bool = True, legend: Any = None) -> None:
    """Label the axes and remove lines that carry no information."""
    ax.set_xlabel(x_label, color=INK)
    ax.set_ylabel(y_label, color=INK)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(GREY)
    ax.tick_params(which="both", length=0, labelcolor=INK)
    if grid:
        ax.grid(axis="y", color=LIGHT)
        ax.set_axisbelow(True)
    if legend:
        ax.legend(frameon=False, loc=legend)


def _train_and_test(
    ax: Axes, train: Mapping[str, Any], test: Mapping[str, Any], **bins: Any
) -> None:
    """Two histograms in percent, superimposed: train as an area, test as a line."""
    import seaborn as sns

    common = {"stat": "percent", "element": "step", "ax": ax, **bins}
    sns.histplot(**train, **common, color=BLUE, alpha=0.35, linewidth=0)
    sns.histplot(**test, **common, color=ORANGE, fill=False)
    ax.margins(x=0.01)


def _show_tiles(
    ax: Axes, tiles: NDArray[Any], columns: NDArray[np.integer] | tuple[()] = ()
) -> None:
    """Show (rows, columns, height, width) images as a grid, 0 as white and 255 as black."""
    rows, across, height, width = tiles.shape
    sheet = tiles.transpose(0, 2, 1, 3).reshape(rows * height, across * width)
    ax.imshow(sheet, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
    ax.set_xticks([(place + 0.5) * width for place in range(len(columns))], map(str, columns))
    ax.set_yticks([])
    ax.xaxis.tick_top()
    ax.tick_params(length=0, labelcolor=INK, labelsize=11)
    ax.spines[:].set_visible(False)


def _stretched(accuracy: Any) -> Any:
    return -np.log10(np.maximum(1 - accuracy, 1e-4))
