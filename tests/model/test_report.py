import re
from html.parser import HTMLParser
from typing import Any

import pytest
from pydantic import ValidationError

from model import figures
from model.evaluation import ClassScore
from model.exploration import Exploration
from model.report import CAPTIONS, ReportContext, render_model_card, render_report

PNG = b"\x89PNG\r\n\x1a\n, as far as the report can tell"
RENDERERS = pytest.mark.parametrize("render", [render_report, render_model_card])

EXPLORATION = Exploration(
    train_count=42_000,
    test_count=28_000,
    label_counts=[4_200] * 10,
    class_shares=[0.1] * 10,
    train_histogram=[1] * 256,
    test_histogram=[1] * 256,
    train_mean=33.4,
    train_std=78.7,
    test_mean=33.3,
    test_std=78.6,
    train_zero_share=0.8,
    test_zero_share=0.8,
    always_zero_pixels=65,
    duplicates_within_train=17,
    duplicates_within_test=18,
    test_copies_of_train=19,
    conflicting_labels=16,
    shift_statistic=0.01,
    shift_p_value=0.02,
    warnings=["Leak: 19 of 28,000 test images are exact copies of training images."],
)

METRICS: dict[str, Any] = {
    "train_accuracy": 0.9912,
    "train_count": 37_800,
    "train_accuracy_ci95": (0.9902, 0.9921),
    "validation_accuracy": 0.9876,
    "validation_count": 4_200,
    "validation_accuracy_ci95": (0.9838, 0.9905),
    "validation_loss": 0.0456,
    "train_seconds": 131.2,
    "epochs_run": 8,
    "stopped_early": True,
    "parameters": 421_642,
}


def context(**changes: Any) -> ReportContext:
    facts: dict[str, Any] = {
        "run_name": "run-1",
        "created": "2026-11-22T11:04:05+00:00",
        "source": "directory",
        "data": [{"name": "train.csv", "sha256": "a1" * 32, "rows": 42_000}],
        "recipe": "classic",
        "recipe_parameters": {"batch_size": 50},
        "seed": 7,
        "members": 1,
        "metrics": METRICS,
        "classes": [ClassScore(digit, 0.98, 0.97, 0.975, 420) for digit in range(10)],
        "history": [{"epoch": "1", "train_accuracy": "0.9", "validation_loss": "0.12345"}],
        "exploration": EXPLORATION,
        "figures": dict.fromkeys(CAPTIONS, PNG),
        "submission": {
            "name": "submission.csv",
            "sha256": "b2" * 32,
            "rows": 28_000,
            "decision": "Not sent: nobody asked.",
        },
        "stages": [
            {"stage": "train", "seconds": 131.4, "cached": False},
            {"stage": "download", "seconds": 0.0, "cached": True},
        ],
        "versions": {"tensorflow": "2.21.0"},
        "command": "python flows/mnist_flow.py --seed 7",
    }
    return ReportContext.model_validate(facts | changes)


class References(HTMLParser):
    """Collects the tags of a page and all that it refers to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.targets: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.targets += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "action")]


def test_report_loads_nothing_from_elsewhere() -> None:
    page = render_report(context())
    found = References(page)
    assert "script" not in found.tags
    assert found.tags.count("img") == len(CAPTIONS)
    outside = [t for t in found.targets if not t.startswith(("data:", "#"))]
    assert outside == ["submission.csv"]  # a link to the file beside it
    assert "url(" not in page
    assert "@import" not in page
    assert "http:" not in page
    assert "https:" not in page


def test_links_within_the_report_lead_somewhere() -> None:
    page = render_report(context())
    anchors = [t for t in References(page).targets if t.startswith("#")]
    assert len(anchors) == 6
    for anchor in anchors:
        assert f'id="{anchor[1:]}"' in page


@RENDERERS
def test_the_same_context_gives_the_same_text(render: Any) -> None:
    assert render(context()) == render(context())


@RENDERERS
@pytest.mark.parametrize(
    "fact",
    [
        *("run-1", "2026-11-22 11:04:05+00:00", "classic"),
        "The competition&#39;s files, from a folder.",
        *("98.76%", "98.38 to 99.05%", "4,200", "99.12%", "99.02 to 99.21%", "37,800"),
        *("above the reference, 98.3% on test", "above the reference, 98.7% on train"),
        *("0.0456", "421,642", "8 epochs", "2 min 11 s", "Leak: 19 of 28,000 test images"),
        *("submission.csv", "28,000 rows", "b2" * 32, "Not sent: nobody asked."),
        *("tensorflow 2.21.0", "python flows/mnist_flow.py --seed 7"),
    ],
)
def test_report_and_model_card_hold_every_number(render: Any, fact: str) -> None:
    text = render(context()).replace("The competition's", "The competition&#39;s")
    assert fact in text


@pytest.mark.parametrize(
    ("render", "row"),
    [
        (render_report, f"<dt>train.csv</dt><dd>42,000 rows, sha256 <code>{'a1' * 32}</code></dd>"),
        (render_model_card, f"| train.csv | 42,000 | `{'a1' * 32}` |"),
        (render_report, "<dt>batch size</dt><dd>50</dd>"),
        (render_model_card, "| batch_size | 50 |"),
        (render_report, "7</th><td>98.00%</td><td>97.00%</td><td>97.50%</td><td>420</td>"),
        (render_model_card, "| 7 | 98.00% | 97.00% | 97.50% | 420 |"),
    ],
)
def test_data_parameters_and_classes_have_their_rows(render: Any, row: str) -> None:
    assert row in render(context())


@pytest.mark.parametrize(
    "fact",
    [
        *("17 within train", "18 within test", "19 test images", "65 of 784", "<dd>16</dd>"),
        *("33.4 train", "131.4 s", "cached", "90.00%", "0.1235"),
        *(caption for _, caption in CAPTIONS.values()),
    ],
)
def test_report_holds_what_only_it_tells(fact: str) -> None:
    assert fact in render_report(context())


def test_report_escapes_html() -> None:
    hostile = '<script>alert("x")</script>'
    page = render_report(
        context(
            run_name=hostile,
            command=hostile,
            recipe_parameters={hostile: hostile},
            versions={hostile: hostile},
        )
    )
    assert "script" not in References(page).tags
    assert "&lt;script&gt;" in page


@RENDERERS
def test_sample_is_named_and_not_compared(render: Any) -> None:
    text = render(context(source="sample"))
    assert "(1,797 digits of 8x8 pixels), not MNIST" in text
    assert "the reference, 98" not in text


def test_a_notice_stands_in_place_of_the_source_sentence() -> None:
    page = render_report(context(source="mnist"))
    assert page.count("not the competition&#39;s files") == 1
    assert "do not apply here" not in page


@RENDERERS
def test_test_accuracy_stands_with_count_and_interval(render: Any) -> None:
    known = {"test_accuracy": 0.975, "test_count": 450, "test_accuracy_ci95": (0.956, 0.986)}
    text = render(context(metrics=METRICS | known))
    assert "97.50%" in text
    assert "95.60 to 98.60%" in text
    assert "450 test images" in text
    assert "level with the reference, 98.3% on test" in text
    assert "Public score" not in text


@RENDERERS
def test_public_score_stands_with_its_submission(render: Any) -> None:
    text = render(context(metrics=METRICS | {"public_score": 0.98125, "submission_ref": 5123}))
    assert "0.98125 for submission 5123" in text
    assert "below the reference, 98.3% on test" in text


@RENDERERS
def test_early_stop_is_said_to_flatter(render: Any) -> None:
    assert "slightly optimistic" in render(context())
    assert "slightly optimistic" not in render(context(metrics=METRICS | {"stopped_early": False}))


@RENDERERS
def test_training_time_of_members_is_given_as_a_sum(render: Any) -> None:
    assert "8 epochs in 2 min 11 s" in render(context())
    summed = "8 epochs of each network, whose times add up to 2 min 11 s"
    assert summed in render(context(members=4))


@RENDERERS
def test_says_which_networks_of_an_ensemble_read_an_image(render: Any) -> None:
    assert "images that were not trained on" in render(context())
    text = render(context(members=4))
    assert "labelled images, each read only by networks that were not trained on it" in text
    assert "37,800 images, each read by a network that was trained on it" in text


def test_accuracy_without_count_is_refused() -> None:
    bare = {key: value for key, value in METRICS.items() if key != "validation_count"}
    with pytest.raises(ValidationError, match="validation_count"):
        context(metrics=bare)


def test_further_metrics_are_welcome() -> None:
    assert render_report(context(metrics=METRICS | {"train_loss": 0.1}))


def test_every_figure_has_its_caption() -> None:
    drawn = {
        name
        for name, function in vars(figures).items()
        if not name.startswith("_") and getattr(function, "__module__", "") == figures.__name__
    }
    assert drawn - {"save"} == set(CAPTIONS)
    with pytest.raises(ValueError, match="selfie"):
        render_report(context(figures={"selfie": PNG}))


@RENDERERS
def test_missing_members_are_named(render: Any) -> None:
    metrics = {**METRICS, "missing_members": {3: "The disk was full."}}
    text = render(context(members=4, metrics=metrics))
    assert "Of 5 members 1 could not be trained" in text
    assert re.search("Member 3: .?The disk was full.", text)
    assert "could not be trained" not in render(context())
