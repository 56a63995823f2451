"""Stage 2: parse and check the files, and give each training row its place in the split."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model import digits
from model.errors import PermanentError
from tasks.support import workspace
from tasks.support.caching import stage
from tasks.support.records import Dataset, Digits, File, TestRows, TrainRows


@stage("numpy")
def preprocess(dataset: Dataset, seed: int) -> Digits:
    """Parse the files into checked uint8 arrays; a PermanentError names file, row and column.

    Pixels stay uint8 here: every network's first layer normalises them to 0..1, and the loss
    one-hot encodes the labels, batch by batch.
    """
    with workspace.current().temporary_folder() as folder:
        wanted = len(digits.read_submission(dataset.sample_submission.location))
        try:
            train, labels = digits.read_train(dataset.train.location)
            count = save_chunks(
                folder / "test.npy", digits.iterate_test(dataset.test.location), wanted
            )
        except PermanentError as error:
            if dataset.source != "directory":
                raise
            remedy = f"{error.remedy} This is a copy: correct the file in --data-dir."
            raise PermanentError(error.cause, remedy) from error
        if count != wanted:
            raise PermanentError(
                f"{dataset.test.location} has {count} rows, but "
                f"{dataset.sample_submission.location} expects {wanted} predictions.",
                "Take both files from the same download of the competition.",
            )
        np.save(folder / "train", train)
        np.save(folder / "labels", labels)
        np.save(folder / "positions", digits.stratified_positions(labels, seed))
        return Digits(
            train=TrainRows(
                images=File.keep(folder / "train.npy"),
                labels=File.keep(folder / "labels.npy"),
                count=len(train),
            ),
            test=TestRows(images=File.keep(folder / "test.npy"), count=count),
            positions=File.keep(folder / "positions.npy"),
        )


def save_chunks(path: Path, chunks: Iterable[NDArray[np.uint8]], wanted: int) -> int:
    """Save images as one array of ``wanted`` rows, in constant memory; how many there are."""
    shape = (wanted, digits.SIDE, digits.SIDE, 1)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    count = 0
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks:
            file.write(chunk.data)
            count += len(chunk)
    return count
