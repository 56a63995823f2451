"""What evaluate measures, of one network and of several, and the files that it hands on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model import digits, prediction
from model.evaluation import wilson_interval
from model.recipes import Recipe, recipe_for
from tasks.evaluate import evaluate
from tasks.support import tensorflow_import, workspace
from tasks.support.records import Evaluation, File, Member, TrainRows

COUNT = 60
LABELS = np.repeat(np.arange(10, dtype=np.uint8), COUNT // 10)
POSITIONS = digits.stratified_positions(LABELS, seed=0)
IMAGES = np.zeros((COUNT, 28, 28, 1), np.uint8)
IMAGES[:, 0, 0, 0] = np.arange(COUNT)  # by which a stub knows the row
RANDOM = np.random.default_rng(0)
# What each of three networks makes of each row: right more often than not.
ANSWERS = 0.8 * RANDOM.dirichlet(np.ones(10), (3, COUNT)) + 0.2 * np.eye(10)[LABELS]
HEADER = (
    "member,epoch,train_accuracy,train_loss,validation_accuracy,validation_loss,learning_rate\n"
)


@dataclass
class Evaluated:
    """The record of one evaluation, and what the test knows of it."""

    made: Evaluation
    members: tuple[int, ...]
    recipe: Recipe
    asked: list[tuple[int, str, tuple[float, ...]]]  # which network, in what form, by what views

    def held_out(self, row: int) -> list[int]:
        """The members that held out that row."""
        fraction = self.recipe.validation_fraction
        return [m for m in self.members if digits.validation_mask(POSITIONS, fraction, m)[row]]

    def validation(self) -> dict[int, NDArray[Any]]:
        """By row the mean of the members that held it out."""
        by_row = {row: self.held_out(row) for row in range(COUNT)}
        return {row: ANSWERS[held, row].mean(axis=0) for row, held in by_row.items() if held}

    def training(self) -> dict[int, NDArray[Any]]:
        """By row the answer of the first member that was trained on it."""
        by_row = {
            row: [m for m in self.members if m not in self.held_out(row)] for row in range(COUNT)
        }
        return {row: ANSWERS[seen[0], row] for row, seen in by_row.items() if seen}


def keep(name: str, write: Callable[[Path], object]) -> File:
    """A file of the workspace."""
    with workspace.current().temporary_folder() as folder:
        write(folder / name)
        return File.keep(folder / name)


def history(member: int) -> str:
    """Two epochs of that member."""
    rows = (f"{member},{epoch},0.9{member},0.3,0.8{member},0.4,0.001\n" for epoch in (1, 2))
    return "".join(rows)


def network(member: int) -> Member:
    """A member whose network is a file with its number."""
    return Member(
        member=member,
        model=keep("model.keras", lambda path: path.write_text(str(member))),
        history=keep("history.csv", lambda path: path.write_text(HEADER + history(member))),
        epochs_run=2,
        stopped_early=False,
        train_seconds=1.0,
        parameters=1,
    )


@pytest.fixture(
    scope="module",
    # One network; three, some rows held out by two of them; and one missing, some rows by none.
    params=[((0,), 0.2), ((0, 1, 2), 0.4), ((0, 2), 0.4)],
    ids=["one", "three", "one missing"],
)
def evaluated(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Evaluated]:
    members, fraction = request.param
    recipe = recipe_for("best", validation_fraction=fraction)
    asked = []

    def predict(model: int, images: NDArray[Any], *, form: str, views: Any) -> NDArray[Any]:
        asked.append((model, form, views))
        answers: NDArray[np.float32] = ANSWERS[model, images[:, 0, 0, 0]].astype(np.float32)
        return answers

    with (
        pytest.MonkeyPatch.context() as patch,
        workspace.opened(tmp_path_factory.mktemp("workspace")),
    ):
        patch.setattr(tensorflow_import, "load", lambda: None)  # no network is one
        patch.setattr(prediction, "load", lambda path: int(path.read_text()))
        patch.setattr(prediction, "predict", predict)
        rows = TrainRows(
            images=keep("images.npy", lambda path: np.save(path, IMAGES)),
            labels=keep("labels.npy", lambda path: np.save(path, LABELS)),
            count=COUNT,
        )
        positions = keep("positions.npy", lambda path: np.save(path, POSITIONS))
        networks = [network(member) for member in members]
        made = evaluate.fn(rows, positions, recipe, networks, notice=None)
        yield Evaluated(made, members, recipe, asked)


def right(answers: dict[int, NDArray[Any]]) -> list[bool]:
    return [bool(answer.argmax() == LABELS[row]) for row, answer in answers.items()]


def loss(answers: dict[int, NDArray[Any]]) -> float:
    return float(np.mean([-np.log(answer[LABELS[row]]) for row, answer in answers.items()]))


def test_held_out_rows_and_those_that_were_misread_are_told(evaluated: Evaluated) -> None:
    made, answers = evaluated.made, evaluated.validation()
    assert made.validation_rows.array().tolist() == list(answers)
    misread = [row for row, hit in zip(answers, right(answers), strict=True) if not hit]
    assert made.misread.array().tolist() == misread


def test_validation_is_by_networks_that_held_the_row_out(evaluated: Evaluated) -> None:
    made, answers = evaluated.made, evaluated.validation()
    hits, count = sum(right(answers)), len(answers)
    assert (made.validation_count, made.validation_accuracy) == (count, hits / count)
    assert made.validation_accuracy_ci95 == wilson_interval(hits, count)
    assert made.validation_loss == pytest.approx(loss(answers))


def test_training_is_by_the_first_network_that_saw_the_row(evaluated: Evaluated) -> None:
    made, answers = evaluated.made, evaluated.training()
    hits, count = sum(right(answers)), len(answers)
    assert (made.train_count, made.train_accuracy) == (count, hits / count)
    assert made.train_accuracy_ci95 == wilson_interval(hits, count)
    assert made.train_loss == pytest.approx(loss(answers))


def test_the_confusions_are_those_of_validation(evaluated: Evaluated) -> None:
    expected = np.zeros((10, 10), int)
    for row, answer in evaluated.validation().items():
        expected[LABELS[row], answer.argmax()] += 1
    assert json.loads(evaluated.made.numbers.location.read_text())["confusion"] == expected.tolist()


def test_the_histories_follow_each_other_under_one_header(evaluated: Evaluated) -> None:
    told = evaluated.made.history.location.read_text()
    assert told == HEADER + "".join(history(member) for member in evaluated.members)


def test_each_network_is_asked_once_in_its_form_and_by_the_views(evaluated: Evaluated) -> None:
    recipe = evaluated.recipe
    assert evaluated.asked == [(m, recipe.form(m), recipe.views) for m in evaluated.members]


def test_each_figure_is_a_picture(evaluated: Evaluated) -> None:
    figures = evaluated.made.figures
    assert set(figures) == {"learning_curves", "confusion_matrix", "class_scores", "mistakes"}
    assert len({file.sha256 for file in figures.values()}) == 4
    for file in figures.values():
        assert file.location.read_bytes().startswith(b"\x89PNG")
