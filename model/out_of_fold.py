"""What the members of an ensemble predict for the rows they held out and for those trained on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model import digits, prediction
from model.augmentation import Images
from model.recipes import Recipe

if TYPE_CHECKING:
    import keras


class Predicted(NamedTuple):
    """Predictions for some of the rows of train.csv."""

    rows: NDArray[np.int64]  # (n,): indices
    probabilities: NDArray[np.float64]  # (n, 10)


def predict(
    networks: Iterable[tuple[int, keras.Model]],
    images: Images,
    positions: NDArray[np.float64],
    recipe: Recipe,
) -> tuple[Predicted, Predicted]:
    """Predictions for held-out rows and for rows trained on, from (member, network) pairs.

    A held-out row gets the mean over the members that held it out (out of fold). A row trained on
    gets the prediction of the first member that trained on it: with all of them, evaluating twelve
    members took a quarter of their training time.
    """
    sums = np.zeros((2, len(images), digits.CLASSES))  # held out, trained on
    counts = np.zeros((2, len(images)), dtype=int)
    for member, network in networks:
        held_out = digits.validation_mask(positions, recipe.validation_fraction, member)
        first_trained_on = ~held_out & (counts[1] == 0)
        wanted = held_out | first_trained_on
        probabilities = prediction.predict(
            network, images[wanted], form=recipe.form(member), views=recipe.views
        )
        for which, mask in enumerate((held_out, first_trained_on)):
            sums[which, mask] += probabilities[mask[wanted]]
            counts[which] += mask
    held_out_rows, trained_rows = (np.flatnonzero(count) for count in counts)
    return (
        Predicted(held_out_rows, sums[0, held_out_rows] / counts[0, held_out_rows, None]),
        Predicted(trained_rows, sums[1, trained_rows]),
    )
