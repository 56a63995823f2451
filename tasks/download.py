"""Stage 1: bring the competition's three files into the workspace, from one of four sources."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any, Literal

from model import digits
from model.errors import PermanentError, TransientError
from model.sources import Source
from tasks.support import (
    archive,
    kaggle_client,
    kaggle_credentials,
    tensorflow_import,
    workspace,
)
from tasks.support.caching import stage
from tasks.support.logs import log
from tasks.support.records import Dataset, File

TRAIN, TEST, SAMPLE_SUBMISSION = archive.MEMBERS
TEST_LABELS = "test_labels.csv"


def resolve(source: Source | Literal["auto"], secret_block: str | None = None) -> Source:
    """Resolve ``auto`` to a source, inside a flow, and log why."""
    if source != "auto":
        return source
    form = kaggle_client.credentials_form(secret_block)
    if form:
        log().info("Source: kaggle, since credentials were found (%s).", form)
        return "kaggle"
    log().info(
        "Source: the embedded sample. %s For real data: --source kaggle with credentials, "
        "--source mnist without an account, or --source directory --data-dir DIR.",
        kaggle_credentials.none_found(),
    )
    return "sample"


def contents(inputs: dict[str, Any]) -> str:
    """Digest of the files in ``data_dir``, whatever its path; empty for other sources."""
    if inputs["source"] != "directory":
        return ""
    return digest_of(files_in(inputs["data_dir"]))


def digest_of(files: list[Path]) -> str:
    """Hex sha256 of the files' names and contents."""
    digests = [f"{path.name} {workspace.sha256_of(path)}" for path in files]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def files_in(folder: Path | None) -> list[Path]:
    """The competition's zip, or its three CSV files, in ``folder``."""
    try:
        if folder is None or not folder.is_dir():
            raise PermanentError(
                f"{folder} is not a folder.",
                "Give --data-dir the folder with the competition's files.",
            )
        files = [path for path in folder.iterdir() if path.is_file()]
    except OSError as error:
        raise PermanentError(
            f"{folder} cannot be read: {error.strerror}.", "Fix its permissions."
        ) from error
    csv_files = [folder / name for name in archive.MEMBERS]
    missing = [path.name for path in csv_files if path not in files]
    if not missing:
        return csv_files
    zips = [path for path in files if path.suffix.lower() == ".zip"]
    if len(zips) == 1:
        return zips
    found = f"{len(zips)} zip files" if zips else "no zip file"
    raise PermanentError(
        f"{folder} lacks {', '.join(missing)} and holds {found}.",
        "Put the competition's zip (and no other) or its three CSV files there.",
    )


@stage("scikit-learn", "scipy", "keras", reads=contents, excludes=("data_dir", "secret_block"))
def download(
    source: Source, competition: str, data_dir: Path | None, secret_block: str | None = None
) -> Dataset:
    """Fetch the files and put them, whole, under ``workspace/data``."""
    name: str = source
    with workspace.current().temporary_folder() as folder:
        if source == "kaggle":
            name = competition
            kaggle_client.KaggleClient(secret_block).download(competition, folder)
        elif source == "directory":
            files = files_in(data_dir)
            name = f"directory-{digest_of(files)[:12]}"
            copy_or_extract(files, folder)
        elif source == "mnist":
            write_mnist(folder)
        else:
            write_sample(folder)
        kept = {
            path.name: File.put(path, workspace.current().data / name / path.name)
            for path in sorted(folder.glob("*.csv"))
        }
    return Dataset(
        source=source,
        train=kept[TRAIN],
        test=kept[TEST],
        sample_submission=kept[SAMPLE_SUBMISSION],
        test_labels=kept.get(TEST_LABELS),
    )


def copy_or_extract(files: list[Path], folder: Path) -> None:
    """Extract the zip, or copy the CSV files, into ``folder``."""
    if files[0].suffix.lower() == ".zip":
        archive.extract(files[0], folder)
    else:
        for path in files:
            shutil.copyfile(path, folder / path.name)


def write_mnist(folder: Path) -> None:
    """Keras' copy of MNIST in the competition's format; the first time, it is downloaded."""
    tensorflow_import.load()  # as training does: Keras would import it with other threads
    import keras

    try:
        (train, train_labels), (test, test_labels) = keras.datasets.mnist.load_data()
    except Exception as error:
        if workspace.is_disk_fault(error):
            raise
        raise TransientError(
            f"Keras could not fetch MNIST: {error}.",
            "Check the network connection, or use --source sample, which needs none.",
        ) from error
    write_files(folder, train, train_labels, test, test_labels)


def write_sample(folder: Path) -> None:
    """The embedded sample in the competition's format."""
    from model import sample

    write_files(folder, *sample.split_like_competition(*sample.sample_digits()))


def write_files(folder: Path, train: Any, train_labels: Any, test: Any, test_labels: Any) -> None:
    """Write the competition's three files, and the test labels, which a competition withholds."""
    digits.write_train(folder / TRAIN, train, train_labels)
    digits.write_test(folder / TEST, test)
    digits.write_submission(folder / SAMPLE_SUBMISSION, test_labels * 0)
    digits.write_submission(folder / TEST_LABELS, test_labels)
