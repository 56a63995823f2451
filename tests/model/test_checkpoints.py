"""Which checkpoints a training finds; that it resumes from them is in test_training.py."""

from __future__ import annotations

import numpy as np

from model.checkpoints import identity
from model.recipes import recipe_for

RECIPE = recipe_for("classic")
LABELS = np.arange(10, dtype=np.uint8)
IMAGES = np.zeros((10, 28, 28, 1), np.uint8)
HELD_OUT = LABELS < 3


def test_only_the_same_training_finds_a_checkpoint() -> None:
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
