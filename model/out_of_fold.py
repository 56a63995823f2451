"""What the members of an ensemble make of the training rows: unseen ones, and seen ones."""

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


class Read(NamedTuple):
    """Some of the training rows, and what is predicted of them."""

    rows: NDArray[np.int64]  # (n,): their numbers
    probabilities: NDArray[np.float64]  # (n, 10)


def predict(
    networks: Iterable[tuple[int, keras.Model]],
    images: Images,
    positions: NDArray[np.float64],
    recipe: Recipe,
) -> tuple[Read, Read]:
    """The rows that were held out and those that were trained on, by members and their networks.

    A held-out row's prediction is the mean over the members that did not see it in training (out
    of fold); that of a row trained on is by the first member that did: with all of them the
    evaluation of twelve members took a quarter of their training's time.
    """
    sums = np.zeros((2, len(images), digits.CLASSES))  # held out, trained on
    times = np.zeros((2, len(images)), dtype=int)
    for member, network in networks:
        held_out = digits.validation_mask(positions, recipe.validation_fraction, member)
        first_trained_on = ~held_out & (times[1] == 0)
        wanted = held_out | first_trained_on
        probabilities = prediction.predict(
            network, images[wanted], form=recipe.form(member), views=recipe.views
        )
        for which, mask in enumerate((held_out, first_trained_on)):
            sums[which, mask] += probabilities[mask[wanted]]
            times[which] += mask
    held_out_rows, trained_rows = (np.flatnonzero(count) for count in times)
    return (
        Read(held_out_rows, sums[0, held_out_rows] / times[0, held_out_rows, None]),
        Read(trained_rows, sums[1, trained_rows]),
    )
