"""A run's results for people: report.html, one file that loads nothing else; model_card.md."""

import base64
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from pydantic import BaseModel, ConfigDict

from model.evaluation import ClassScore
from model.exploration import Exploration
from model.sources import SENTENCES, Source, notice

REFERENCE_TRAIN, REFERENCE_TEST = 0.987, 0.983  # of the reference CNN, on the competition's data

# Section and caption of each figure, in the order of the report.
CAPTIONS = {
    "label_counts": ("Explore", "Number of training images of each digit."),
    "pixel_intensities": (
        "Explore",
        "Intensities of all pixels. If train (area) and test (line) come from the same source,"
        " they coincide.",
    ),
    "train_against_test": (
        "Explore",
        "Mean intensity of each image. D is the largest gap between the two cumulative"
        " distributions; p is the probability that chance alone makes one as large.",
    ),
    "sample_grid": ("Explore", "Training images as they are, with ink in black."),
    "mean_images": ("Explore", "Mean of all training images of each digit."),
    "learning_curves": (
        "Train",
        "Accuracy and loss per epoch. Training figures are measured while dropout is on and the"
        " weights still change, in some recipes on augmented images and with smoothed labels, so"
        " they may look worse than validation figures. Both are of each image alone, without the"
        " further views that some recipes average in the end.",
    ),
    "confusion_matrix": (
        "Evaluate",
        "Rows are true digits, columns predicted digits. Mistakes are in colour.",
    ),
    "class_scores": (
        "Evaluate",
        "Precision: share of the images predicted as a digit that are this digit. Recall: share"
        " of the images of a digit that are predicted as it. F1: their harmonic mean.",
    ),
    "mistakes": (
        "Evaluate",
        "True digit, what it was read as, and the probability that the model gave its answer.",
    ),
}


class Metrics(BaseModel):
    """The content of metrics.json; further keys are kept, but not shown."""

    model_config = ConfigDict(frozen=True, extra="allow")

    train_accuracy: float
    train_count: int
    train_accuracy_ci95: tuple[float, float]
    validation_accuracy: float
    validation_count: int
    validation_accuracy_ci95: tuple[float, float]
    validation_loss: float
    train_seconds: float
    epochs_run: int
    stopped_early: bool
    parameters: int  # weights
    missing_members: dict[int, str] = {}  # those the run went on without, and why
    test_accuracy: float | None = None  # where the source knows the test labels
    test_count: int | None = None
    test_accuracy_ci95: tuple[float, float] | None = None
    public_score: float | None = None  # once Kaggle has scored the submission
    submission_ref: int | None = None


class ReportContext(BaseModel, frozen=True):
    """Everything that the report and the model card state."""

    run_name: str
    created: datetime
    source: Source
    data: list[dict[str, Any]]  # of each file that was read: name, sha256, rows
    recipe: str
    recipe_parameters: dict[str, Any]
    seed: int
    members: int
    metrics: Metrics
    classes: list[ClassScore]
    history: list[dict[str, float]]  # the rows of history.csv
    exploration: Exploration
    figures: dict[str, bytes]  # PNGs by the name of their function in model.figures
    submission: dict[str, Any]  # name, sha256, rows, decision: one sentence, sent or not and why
    stages: list[dict[str, Any]]  # stage, seconds, cached: its result was there already
    versions: dict[str, str]
    command: str


class Score(NamedTuple):
    """An accuracy, and what must be shown beside it."""

    name: str
    accuracy: float
    interval: tuple[float, float] | None  # 95%; None where the count is not known
    basis: str  # the data that it was measured on
    comparison: str = ""  # with the reference, where that applies


def render_report(context: ReportContext) -> str:
    """The report as HTML, every figure inside."""
    figures: dict[str, list[dict[str, str]]] = {}
    for name in sorted(context.figures, key=list(CAPTIONS).index):
        section, caption = CAPTIONS[name]
        uri = "data:image/png;base64," + base64.b64encode(context.figures[name]).decode()
        figures.setdefault(section, []).append({"name": name, "caption": caption, "uri": uri})
    return _render("report.html", context, figures=figures)


def render_model_card(context: ReportContext) -> str:
    """The model card as Markdown."""
    return _render("model_card.md", context)


def scores(context: ReportContext) -> list[Score]:
    """The accuracies of the run: validation, then on test data where known, then training."""
    m = context.metrics
    # In an ensemble, some members train on an image that others hold out.
    unseen, seen = " that were not trained on", " that were trained on"
    if context.members > 1:
        unseen = ", each read only by networks that were not trained on it"
        seen = ", each read by a network that was trained on it"
    basis = f"{m.validation_count:,} labelled images{unseen}"
    found = [Score("Validation accuracy", m.validation_accuracy, m.validation_accuracy_ci95, basis)]
    if m.test_accuracy is not None:
        basis = f"{m.test_count:,} test images, used for nothing else"
        found.append(Score("Test accuracy", m.test_accuracy, m.test_accuracy_ci95, basis))
    if m.public_score is not None:
        basis = (
            f"Kaggle's public test images: {m.public_score:.5f} for submission {m.submission_ref}"
        )
        found.append(Score("Public score", m.public_score, None, basis))
    basis = f"{m.train_count:,} images{seen}"
    found.append(Score("Training accuracy", m.train_accuracy, m.train_accuracy_ci95, basis))
    if context.source == "sample":
        return found
    return [score._replace(comparison=_compare(score)) for score in found]


def _compare(score: Score) -> str:
    training = score.name == "Training accuracy"
    reference = REFERENCE_TRAIN if training else REFERENCE_TEST
    low, high = score.interval or (score.accuracy, score.accuracy)
    verdict = "above" if low > reference else "below" if high < reference else "level with"
    return f"{verdict} the reference, {reference:.1%} on {'train' if training else 'test'}"


def _render(template: str, context: ReportContext, **more: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        percent=_percent, interval=_interval, duration=_duration, number=_number
    )
    facts = {name: getattr(context, name) for name in ReportContext.model_fields}
    facts |= {"sentence": SENTENCES[context.source], "notice": notice(context.source)}
    return environment.get_template(template).render(facts, scores=scores(context), **more)


def _percent(share: float) -> str:
    return f"{share:.2%}"


def _interval(bounds: tuple[float, float]) -> str:
    return f"{100 * bounds[0]:.2f} to {100 * bounds[1]:.2f}%"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"


def _number(value: Any) -> str:
    """A number as a table shows it; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if value == int(value):
        return f"{value:,.0f}"
    return f"{value:.4f}" if abs(value) >= 0.01 else f"{value:.4g}"
