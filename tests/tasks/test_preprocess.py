"""Preprocess hands on checked arrays, or one error and nothing half-made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model import digits
from model.errors import PermanentError
from tasks.preprocess import preprocess
from tasks.support.archive import MEMBERS
from tasks.support.records import Dataset, File
from tasks.support.workspace import Workspace


@pytest.fixture
def dataset(opened_workspace: Workspace) -> Dataset:
    """Forty training rows and five test rows."""
    images = np.random.default_rng(0).integers(0, 256, (45, 28, 28, 1), dtype=np.uint8)
    folder = opened_workspace.data / "tiny"
    folder.mkdir()
    digits.write_train(folder / "train.csv", images[:40], np.arange(40, dtype=np.uint8) % 10)
    digits.write_test(folder / "test.csv", images[40:])
    digits.write_submission(folder / "sample_submission.csv", np.zeros(5, np.uint8))
    train, test, sample_submission = (File.put(folder / name, folder / name) for name in MEMBERS)
    return Dataset(
        source="directory",
        train=train,
        test=test,
        sample_submission=sample_submission,
        test_labels=None,
    )


def test_arrays(dataset: Dataset) -> None:
    made = preprocess.fn(dataset, seed=0)
    images, labels = digits.read_train(dataset.train.location)
    assert (made.train.images.array() == images).all()
    assert made.train.images.array().dtype == np.uint8
    assert made.train.images.array().shape == (40, 28, 28, 1)
    assert (made.train.labels.array() == labels).all()
    (test,) = digits.iterate_test(dataset.test.location)
    np.testing.assert_array_equal(made.test.images.array(), test, strict=True)
    assert (made.train.count, made.test.count) == (40, 5)


def test_the_seed_changes_the_split_and_nothing_else(dataset: Dataset) -> None:
    first, second, again = (preprocess.fn(dataset, seed) for seed in (0, 1, 0))
    assert first == again
    assert first.train == second.train
    assert first.test == second.test
    assert first.positions != second.positions


def test_bad_data_leaves_nothing(dataset: Dataset, opened_workspace: Workspace) -> None:
    path = Path(dataset.test.location)
    lines = path.read_text().splitlines()
    lines[3] = lines[3].replace(lines[3].split(",")[0], "x", 1)
    path.write_text("\n".join(lines))
    with pytest.raises(PermanentError, match=r"test\.csv, row 3 .*pixel0"):
        preprocess.fn(dataset, seed=0)
    assert not list(opened_workspace.files.iterdir())


def test_who_gave_the_files_is_sent_to_them_and_not_to_the_copies(dataset: Dataset) -> None:
    Path(dataset.train.location).write_text("label\n")
    with pytest.raises(PermanentError, match=r"copy: .* in --data-dir"):
        preprocess.fn(dataset, seed=0)
    with pytest.raises(PermanentError) as caught:
        preprocess.fn(dataset.model_copy(update={"source": "kaggle"}), seed=0)
    assert "copy" not in str(caught.value)


def test_a_test_file_that_does_not_fit_the_sample_submission(dataset: Dataset) -> None:
    for wanted in (4, 6):
        sample_submission = dataset.sample_submission.location
        digits.write_submission(sample_submission, np.zeros(wanted, np.uint8))
        with pytest.raises(PermanentError, match=rf"5 rows.*sample_submission\.csv.* {wanted}"):
            preprocess.fn(dataset, seed=0)
