"""Stage 5: measure the model on the rows that it was trained on and on those held out."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np

from model import evaluation, history
from model.recipes import Recipe
from tasks.support import workspace
from tasks.support.caching import stage
from tasks.support.records import Evaluation, File, Member, TrainRows


@stage("tensorflow", "keras", "numpy", "matplotlib", "seaborn", "pillow")
def evaluate(
    rows: TrainRows, positions: File, recipe: Recipe, members: list[Member], notice: str | None
) -> Evaluation:
    """Accuracy, loss, confusion matrix, scores per class and the most confident mistakes."""
    from model import figures, out_of_fold, prediction

    images, labels = np.asarray(rows.images.array()), np.asarray(rows.labels.array())
    networks = ((member.member, prediction.load(member.model.location)) for member in members)
    held_out, trained_on = out_of_fold.predict(networks, images, positions.array(), recipe)
    truth = labels[held_out.rows]
    validation = evaluation.evaluate(truth, held_out.probabilities)
    training = evaluation.evaluate(labels[trained_on.rows], trained_on.probabilities)
    misread = held_out.rows[held_out.probabilities.argmax(axis=1) != truth]

    with workspace.current().temporary_folder() as folder:
        history.merge([member.history.location for member in members], folder / "history.csv")
        epochs = history.read(folder / "history.csv")
        drawn = {
            "learning_curves": figures.learning_curves(epochs, recipe.target_accuracy, notice),
            "confusion_matrix": figures.confusion_matrix(validation, notice),
            "class_scores": figures.class_scores(validation, notice),
            "mistakes": figures.mistakes(
                images[held_out.rows], truth, held_out.probabilities, notice
            ),
        }
        for name, figure in drawn.items():
            figures.save(figure, folder / f"{name}.png")
        np.save(folder / "misread", misread)
        np.save(folder / "rows", held_out.rows)
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
            misread=File.keep(folder / "misread.npy"),
            validation_rows=File.keep(folder / "rows.npy"),
            numbers=File.keep(folder / "evaluation.json"),
            figures={name: File.keep(folder / f"{name}.png") for name in drawn},
        )
