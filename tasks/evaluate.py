"""Stage 5: measure the model on the rows that it was trained on and on those held out."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from model import digits, evaluation
from model.recipes import Recipe
from tasks.support import workspace
from tasks.support.caching import stage
from tasks.support.records import Evaluation, File, Member, TrainRows


@stage("tensorflow", "keras", "numpy", "matplotlib", "seaborn", "pillow")
def evaluate(
    rows: TrainRows, positions: File, recipe: Recipe, members: list[Member], notice: str | None
) -> Evaluation:
    """Accuracy, loss, confusion matrix, scores per class and the most confident mistakes.

    A row's validation prediction is the mean over the members that did not see it in training
    (out of fold); its training prediction is that of the first member that did: with all of them
    the evaluation of twelve members took a quarter of their training's time.
    """
    from model import figures, prediction

    images, labels = np.asarray(rows.images.array()), np.asarray(rows.labels.array())
    sums = np.zeros((2, rows.count, digits.CLASSES))  # held out, trained on
    times = np.zeros((2, rows.count), dtype=int)
    for member in members:
        held_out = digits.validation_mask(
            positions.array(), recipe.validation_fraction, member.member
        )
        first_trained_on = ~held_out & (times[1] == 0)
        wanted = held_out | first_trained_on
        model = prediction.load(member.model.location)
        probabilities = prediction.predict(
            model, images[wanted], form=recipe.form(member.member), views=recipe.views
        )
        for which, mask in enumerate((held_out, first_trained_on)):
            sums[which, mask] += probabilities[mask[wanted]]
            times[which] += mask

    held_out_rows, trained_rows = (np.flatnonzero(count) for count in times)
    validation_probabilities = sums[0, held_out_rows] / times[0, held_out_rows, None]
    training_probabilities = sums[1, trained_rows] / times[1, trained_rows, None]
    validation = evaluation.evaluate(labels[held_out_rows], validation_probabilities)
    training = evaluation.evaluate(labels[trained_rows], training_probabilities)

    history = [row for member in members for row in history_rows(member.history)]
    drawn = {
        "learning_curves": figures.learning_curves(history, recipe.target_accuracy, notice),
        "confusion_matrix": figures.confusion_matrix(validation, notice),
        "class_scores": figures.class_scores(validation, notice),
        "mistakes": figures.mistakes(
            images[held_out_rows], labels[held_out_rows], validation_probabilities, notice
        ),
    }
    correct = validation_probabilities.argmax(axis=1) == labels[held_out_rows]
    with workspace.current().temporary_folder() as folder:
        for name, figure in drawn.items():
            figures.save(figure, folder / f"{name}.png")
        np.save(folder / "correct", correct)
        np.save(folder / "rows", held_out_rows)
        merge([member.history for member in members], folder / "history.csv")
        (folder / "evaluation.json").write_text(json.dumps(asdict(validation), indent=2) + "\n")
        return Evaluation(
            train_accuracy=training.accuracy,
            train_count=training.count,
            train_accuracy_ci95=training.ci95,
            train_loss=training.loss,
            validation_accuracy=validation.accuracy,
            validation_count=validation.count,
            validation_accuracy_ci95=validation.ci95,
            validation_loss=validation.loss,
            history=File.keep(folder / "history.csv"),
            correct=File.keep(folder / "correct.npy"),
            validation_rows=File.keep(folder / "rows.npy"),
            numbers=File.keep(folder / "evaluation.json"),
            figures={name: File.keep(folder / f"{name}.png") for name in drawn},
        )


def history_rows(history: File) -> list[dict[str, float]]:
    """The rows of one member's history, a row an epoch."""
    with history.location.open(newline="") as file:
        return [{key: float(v) for key, v in row.items()} for row in csv.DictReader(file)]


def merge(histories: list[File], path: Path) -> None:
    """Put the members' histories into one file, under one header."""
    texts = [history.location.read_text().splitlines(keepends=True) for history in histories]
    path.write_text("".join([texts[0][0], *(line for text in texts for line in text[1:])]))
