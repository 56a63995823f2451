"""Stage 2: parse and check the files, and give each training row its place in the split."""

from __future__ import annotations

import numpy as np

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
    try:
        train, labels = digits.read_train(dataset.train.location)
        test = digits.read_test(dataset.test.location)
    except PermanentError as error:
        if dataset.source != "directory":
            raise
        remedy = f"{error.remedy} This is a copy: correct the file in --data-dir."
        raise PermanentError(error.cause, remedy) from error
    wanted = len(digits.read_submission(dataset.sample_submission.location))
    if len(test) != wanted:
        raise PermanentError(
            f"{dataset.test.location} has {len(test)} rows, but "
            f"{dataset.sample_submission.location} expects {wanted} predictions.",
            "Take both files from the same download of the competition.",
        )
    positions = digits.stratified_positions(labels, seed)
    with workspace.current().temporary_folder() as folder:
        np.save(folder / "train", train)
        np.save(folder / "labels", labels)
        np.save(folder / "test", test)
        np.save(folder / "positions", positions)
        return Digits(
            train=TrainRows(
                images=File.keep(folder / "train.npy"),
                labels=File.keep(folder / "labels.npy"),
                count=len(train),
            ),
            test=TestRows(images=File.keep(folder / "test.npy"), count=len(test)),
            positions=File.keep(folder / "positions.npy"),
        )
