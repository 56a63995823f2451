"""Which checkpoints a training finds; that it resumes from them is in test_training.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from model import processor
from model.checkpoints import Checkpoints, identity
from model.history import Epoch
from model.recipes import recipe_for

RECIPE = recipe_for("classic")
LABELS = np.arange(10, dtype=np.uint8)
IMAGES = np.zeros((10, 28, 28, 1), np.uint8)
HELD_OUT = LABELS < 3


def test_only_the_same_training_finds_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    altered = IMAGES.copy()
    altered[-1, -1, -1] ^= 1
    trainings = [
        (RECIPE, 5, 0, IMAGES, LABELS, HELD_OUT),
        (RECIPE.model_copy(update={"epochs": 4}), 5, 0, IMAGES, LABELS, HELD_OUT),
        (RECIPE, 6, 0, IMAGES, LABELS, HELD_OUT),
        (RECIPE, 5, 1, IMAGES, LABELS, HELD_OUT),
        (RECIPE, 5, 0, altered, LABELS, HELD_OUT),
        (RECIPE, 5, 0, IMAGES, LABELS[::-1], HELD_OUT),
        (RECIPE, 5, 0, IMAGES, LABELS, ~HELD_OUT),
    ]
    names = [identity(*what) for what in trainings]
    assert len(set(names)) == len(trainings)
    assert identity(RECIPE, 5, 0, IMAGES.copy(), LABELS, HELD_OUT) == names[0]
    monkeypatch.setattr(processor, "identity", lambda: {"processor": "another"})
    assert identity(*trainings[0]) not in names


def test_a_checkpoint_that_cannot_be_read_is_told_and_the_one_before_it_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints, variable = Checkpoints(tmp_path), tf.Variable(0.0)
    epochs = [Epoch(number, 0.9, 0.3, 0.8, 0.4, 0.001, 1.0) for number in (1, 2)]
    for count in (1, 2):
        variable.assign(count)
        checkpoints.save([variable], epochs[:count])
    newest = max(tmp_path.iterdir())
    newest.unlink()
    newest.mkdir()
    assert checkpoints.restore([variable]) == epochs[:1]
    assert variable.numpy() == 1
    assert f"{newest} cannot be read" in caplog.text


def test_new_checkpoints_take_the_place_of_damaged_ones_of_later_epochs(tmp_path: Path) -> None:
    checkpoints, variable = Checkpoints(tmp_path), tf.Variable(0.0)
    epochs = [Epoch(number, 0.9, 0.3, 0.8, 0.4, 0.001, 1.0) for number in range(1, 9)]
    for count in (7, 8):
        checkpoints.save([variable], epochs[:count])
    for path in tmp_path.iterdir():
        path.write_bytes(b"damaged")
    assert not checkpoints.restore([variable])
    variable.assign(3)
    checkpoints.save([variable], epochs[:1])
    assert checkpoints.restore([variable]) == epochs[:1]
    assert variable.numpy() == 3
    assert len(list(tmp_path.iterdir())) == 1
