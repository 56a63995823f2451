"""Stage 6: classify the test images and write submission.csv, checked before it is kept."""

from __future__ import annotations

import numpy as np

from model import digits, evaluation
from model.recipes import Recipe
from tasks.support import workspace
from tasks.support.caching import stage
from tasks.support.records import File, Member, Predictions, TestRows


@stage("tensorflow", "keras", "numpy")
def predict(
    rows: TestRows,
    recipe: Recipe,
    members: list[Member],
    sample_submission: File,
    test_labels: File | None,
) -> Predictions:
    """Average the members' probabilities and write the most probable digit of each image."""
    from model import prediction

    images = rows.images.array()
    probabilities = sum(
        prediction.predict(
            prediction.load(member.model.location),
            images,
            form=recipe.form(member.member),
            views=recipe.views,
        )
        for member in members
    )
    labels = np.argmax(probabilities, axis=1).astype(np.uint8)
    with workspace.current().temporary_folder() as folder:
        path = folder / "submission.csv"
        digits.write_submission(path, labels)
        digits.check_submission(path, sample_submission.location)
        submission = File.keep(path)
    accuracy = interval = None
    if test_labels:
        correct = int((digits.read_submission(test_labels.location) == labels).sum())
        accuracy, interval = correct / rows.count, evaluation.wilson_interval(correct, rows.count)
    return Predictions(
        submission=submission,
        rows=rows.count,
        test_accuracy=accuracy,
        test_accuracy_ci95=interval,
    )
