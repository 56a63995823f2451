"""The figures that explore hands on; what they show is in tests/model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from model import figures
from tasks.explore import explore
from tasks.support import records
from tasks.support.workspace import Workspace
from tests.model.test_figures import IMAGES, LABELS, texts
from tests.tasks.test_evaluate import keep


def test_every_figure_has_the_notice(
    opened_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, str] = {}

    def save(figure: Figure, path: Path) -> None:
        told[path.stem] = texts(figure)
        path.touch()

    monkeypatch.setattr(figures, "save", save)
    images = keep("images.npy", lambda path: np.save(path, IMAGES))
    labels = keep("labels.npy", lambda path: np.save(path, LABELS))
    train = records.TrainRows(images=images, labels=labels, count=len(IMAGES))
    test = records.TestRows(images=images, count=len(IMAGES))
    made = explore.fn(train, test, "This is a notice.")
    assert told.keys() == made.figures.keys()
    assert [name for name, text in told.items() if "This is a notice." not in text] == []
