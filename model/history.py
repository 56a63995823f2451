"""The results of each epoch of a training, and the CSV that holds them, one row per epoch."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SCORES = ("train_accuracy", "train_loss", "validation_accuracy", "validation_loss")


@dataclass(frozen=True)
class Epoch:
    """The results of one epoch. Training figures are means over it: weights change, dropout is on.

    The learning rate is that of the step after the epoch, so one-cycle ends with zero.
    """

    epoch: int  # counted from 1
    train_accuracy: float
    train_loss: float
    validation_accuracy: float
    validation_loss: float
    learning_rate: float
    seconds: float


def write(history: Sequence[Epoch], member: int, path: Path) -> None:
    """Write a member's epochs, without times, so that the same training gives the same bytes."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["member", "epoch", *SCORES, "learning_rate"])
        for epoch in history:
            numbers = (f"{getattr(epoch, name):.6f}" for name in SCORES)
            writer.writerow([member, epoch.epoch, *numbers, f"{epoch.learning_rate:.6g}"])


def merge(histories: Sequence[Path], path: Path) -> None:
    """Put the members' histories into one file, under one header."""
    texts = [history.read_text().splitlines(keepends=True) for history in histories]
    path.write_text("".join([texts[0][0], *(line for text in texts for line in text[1:])]))


def read(path: Path) -> list[dict[str, float]]:
    """The rows, each a dict by column name."""
    with path.open(newline="") as file:
        return [{name: float(v) for name, v in row.items()} for row in csv.DictReader(file)]
