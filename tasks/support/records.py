"""What stages pass to each other: frozen records of a few numbers and references to files.

A reference names a file of the workspace by its path inside it and its sha256. A record is read
from the cache only if every file that it names is there unaltered, or can be fetched from the
artifact store.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

from model import sources
from model.errors import PipelineError
from model.sources import Source
from tasks.support import artifact_store, workspace


class Record(BaseModel):
    """Base of all records: frozen, and strict about its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class File(Record):
    """A file of the workspace, identified by its contents."""

    path: str  # relative to the workspace, with forward slashes
    sha256: str
    size: int  # bytes

    @staticmethod
    def put(made: Path, target: Path) -> File:
        """Move a complete file to its place inside the workspace."""
        workspace.move_into_place(made, target)
        return File.model_construct(
            path=target.relative_to(workspace.current().root).as_posix(),
            sha256=workspace.sha256_of(target),
            size=target.stat().st_size,
        )

    @staticmethod
    def keep(made: Path) -> File:
        """Move a file that a stage made into the cache, named by the sha256 of its contents."""
        name = workspace.sha256_of(made) + made.suffix
        return File.put(made, workspace.current().files / name)

    @property
    def location(self) -> Path:
        """Where the file is on this machine; fetched if only the artifact store has it."""
        path = artifact_store.inside(workspace.current().root, self.path)
        if not path.exists():
            artifact_store.fetch(self.path, self.sha256, self.size)
        return path

    def array(self) -> NDArray[Any]:
        """A NumPy file's contents, memory-mapped; pickles are refused."""
        array: NDArray[Any] = np.load(self.location, mmap_mode="r", allow_pickle=False)
        return array

    @model_validator(mode="after")
    def _is_there_unaltered(self) -> Self:
        try:
            path = artifact_store.inside(workspace.current().root, self.path)
            if (
                not path.is_file()
                or path.stat().st_size != self.size
                or workspace.sha256_of(path) != self.sha256
            ):
                artifact_store.fetch(self.path, self.sha256, self.size)
        except PipelineError as error:
            raise ValueError(str(error)) from error
        return self


class Dataset(Record):
    """The competition's files, as they came from their source."""

    source: Source
    train: File
    test: File
    sample_submission: File
    test_labels: File | None  # None for the competition's data, whose labels are secret

    @property
    def notice(self) -> str | None:
        """What every output must say about the source; None for the competition's own data."""
        return sources.notice(self.source)


class TrainRows(Record):
    """Checked training images and labels as NumPy files: uint8 (n, 28, 28, 1) and uint8 (n,)."""

    images: File
    labels: File
    count: int


class TestRows(Record):
    """Checked test images as a NumPy file: uint8 (n, 28, 28, 1)."""

    images: File
    count: int


class Digits(Record):
    """The checked data, in parts, so that each later stage depends only on what it reads."""

    train: TrainRows
    test: TestRows
    positions: File  # float64 (n,): each training row's place in the seeded, stratified split


class Exploration(Record):
    """What the data looks like."""

    numbers: File  # eda.json
    figures: dict[str, File]


class Member(Record):
    """One trained network."""

    member: int
    model: File
    history: File  # CSV, one row per epoch
    epochs_run: int
    stopped_early: bool
    train_seconds: float
    parameters: int  # weights


class Evaluation(Record):
    """How good the model is, measured on training and validation rows."""

    train_accuracy: float
    train_count: int
    train_accuracy_ci95: tuple[float, float]
    train_loss: float
    validation_accuracy: float
    validation_count: int
    validation_accuracy_ci95: tuple[float, float]
    validation_loss: float
    history: File  # history.csv, all members
    validation_rows: File  # NumPy int64 (validation_count,): which training rows were held out
    misread: File  # NumPy int64: which of those were classified wrongly
    numbers: File  # evaluation.json: confusion matrix, scores per class
    figures: dict[str, File]


class Predictions(Record):
    """The checked submission.csv, and its accuracy if the source has the answers."""

    submission: File
    rows: int
    test_accuracy: float | None
    test_accuracy_ci95: tuple[float, float] | None


class Submission(Record):
    """What became of the submission, and why."""

    status: Literal["not sent", "complete", "error", "unknown"]
    reason: str
    ref: int | None = None
    public_score: float | None = None


class Run(Record):
    """A finished run, for the summary."""

    name: str
    folder: str  # relative to the workspace
    metrics: dict[str, Any]  # the content of metrics.json
    rows: int  # predictions in submission.csv
    submission: Submission
    notice: str | None  # see Dataset
    stored: str | None  # where the run is in the artifact store, or why it is not there yet
    stage_seconds: dict[str, float]  # of the stages that ran; the others came from the cache
