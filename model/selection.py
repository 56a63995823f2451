"""Which rows an epoch trains on: all of them, or the hard ones and a share of the easy ones.

After Z. Qin and others, InfoBatch: lossless training speed up by unbiased dynamic data pruning,
2024. Unlike there, the number of rows per epoch is fixed beforehand: the schedule must know its
steps.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

HARD = 0.2  # share of all rows: those with the highest losses; every epoch takes them all
# Share of the epochs, at the end, that take all rows, as does the first, which knows no losses yet.
# Without it (two of best's sixteen), the cross-entropy of its networks was a twentieth higher.
WHOLE_AT_END = 1 / 8


def count(rows: int, epoch: int, epochs: int, easy_share: float) -> int:
    """How many of the rows the epoch, counted from 1, takes."""
    if epoch == 1 or epoch > epochs - int(WHOLE_AT_END * epochs):
        return rows
    hard = math.ceil(HARD * rows)
    return hard + math.ceil(easy_share * (rows - hard))


def select(
    losses: NDArray[np.float32], taken: int, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Indices (taken,) into the rows' latest losses (n,), in random order, and their weights.

    The easy rows taken also stand for those left out: the weights, float32 (taken,), sum to n, so
    that the gradient is on average that of all rows.
    """
    if taken == len(losses):
        return random.permutation(taken), np.ones(taken, np.float32)
    hard, easy = np.split(np.argsort(-losses, kind="stable"), [math.ceil(HARD * len(losses))])
    chosen = np.concatenate([hard, random.choice(easy, taken - len(hard), replace=False)])
    weights = np.ones(taken, np.float32)
    weights[len(hard) :] = len(easy) / (taken - len(hard))
    order = random.permutation(taken)
    return chosen[order], weights[order]
