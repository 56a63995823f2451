"""Which rows an epoch trains on: the hard ones, and enough of the others to stand for all."""

from __future__ import annotations

import numpy as np
import pytest

from model.selection import HARD, count, select

LOSSES = np.random.default_rng(0).exponential(size=1000).astype(np.float32)


def test_the_first_and_the_last_eighth_of_the_epochs_take_all_rows() -> None:
    counts = [count(1000, epoch, 16, easy_share=0.375) for epoch in range(1, 17)]
    assert counts == [1000] + [500] * 13 + [1000] * 2
    assert [count(1000, epoch, 2, easy_share=0.5) for epoch in (1, 2)] == [1000, 600]


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 999, 1000])
@pytest.mark.parametrize("easy_share", [0.01, 0.375, 1])
def test_no_epoch_is_empty_and_its_weights_stand_for_all_rows(rows: int, easy_share: float) -> None:
    taken = count(rows, 2, 16, easy_share)
    assert 1 <= taken <= rows
    chosen, weights = select(LOSSES[:rows], taken, np.random.default_rng(1))
    assert len(set(chosen)) == len(chosen) == len(weights) == taken
    assert weights.sum() == pytest.approx(rows, rel=1e-6)


def test_each_hard_row_is_taken_and_the_easy_ones_in_turns() -> None:
    hard = set(np.argsort(LOSSES)[-round(HARD * 1000) :])
    random = np.random.default_rng(2)
    often = np.zeros(1000)
    for _ in range(200):
        chosen, weights = select(LOSSES, 500, random)
        assert hard <= set(chosen)
        assert {*weights[np.isin(chosen, list(hard))]} == {1}
        often[chosen] += weights
    # Each row counts as often as it would where all are taken: 200 times, give or take chance.
    assert often.mean() == pytest.approx(200)
    easy = np.delete(often, list(hard))
    assert easy.std() == pytest.approx(np.sqrt(200 * 0.375 * 0.625) / 0.375, rel=0.15)
    assert 100 < easy.min() < easy.max() < 300


def test_where_all_are_taken_losses_do_not_matter() -> None:
    chosen, weights = select(LOSSES, 1000, np.random.default_rng(3))
    assert sorted(chosen) == list(range(1000))
    assert {*weights} == {1}
    assert list(chosen) == list(select(LOSSES[::-1], 1000, np.random.default_rng(3))[0])
