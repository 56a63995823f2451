"""A history is written with six decimals, no times, and read back by its columns."""

from __future__ import annotations

from pathlib import Path

import pytest

from model import history
from model.history import Epoch

FIRST = Epoch(1, 0.9, 0.30000049, 0.95, 1 / 3, learning_rate=0.0012345678, seconds=2.5)
LAST = Epoch(2, 1.0, 0.2, 0.96, 0.25, learning_rate=0.0, seconds=2.0)
HEADER = (
    "member,epoch,train_accuracy,train_loss,validation_accuracy,validation_loss,learning_rate\n"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.csv"


def test_what_is_written(path: Path) -> None:
    history.write([FIRST, LAST], 3, path)
    assert path.read_bytes().decode() == (
        HEADER
        + "3,1,0.900000,0.300000,0.950000,0.333333,0.00123457\n"
        + "3,2,1.000000,0.200000,0.960000,0.250000,0\n"
    )


def test_members_follow_each_other_and_are_read_back(path: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    history.write([FIRST, LAST], 0, one)
    history.write([FIRST], 1, two)
    history.merge([one, two], path)
    rows = history.read(path)
    assert [(row["member"], row["epoch"]) for row in rows] == [(0, 1), (0, 2), (1, 1)]
    assert rows[2] == {
        "member": 1,
        "epoch": 1,
        "train_accuracy": 0.9,
        "train_loss": 0.3,
        "validation_accuracy": 0.95,
        "validation_loss": 0.333333,
        "learning_rate": 0.00123457,
    }
