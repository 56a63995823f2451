"""Four sources behind one interface; what is missing or wrong is one error with its remedy."""

from __future__ import annotations

import zipfile
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest

from model import digits
from model.errors import PermanentError, TransientError
from tasks import download as stage
from tasks.support.workspace import Workspace, sha256_of

pytestmark = pytest.mark.usefixtures("opened_workspace")

NAMES = ("train.csv", "test.csv", "sample_submission.csv")


@pytest.fixture
def csv_folder(tmp_path: Path) -> Path:
    """Twenty training rows and five test rows in the competition's format."""
    folder = tmp_path / "competition"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (25, 28, 28, 1), dtype=np.uint8)
    digits.write_train(folder / "train.csv", images[:20], np.arange(20, dtype=np.uint8) % 10)
    digits.write_test(folder / "test.csv", images[20:])
    digits.write_submission(folder / "sample_submission.csv", np.zeros(5, np.uint8))
    return folder


@pytest.fixture
def zip_folder(csv_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "zipped"
    folder.mkdir()
    with zipfile.ZipFile(folder / "digit-recognizer.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in NAMES:
            archive.write(csv_folder / name, name)
    return folder


@pytest.mark.parametrize("form", ["csv_folder", "zip_folder"])
def test_directory(
    form: str,
    csv_folder: Path,
    opened_workspace: Workspace,
    request: pytest.FixtureRequest,
) -> None:
    dataset = stage.download.fn("directory", "digit-recognizer", request.getfixturevalue(form))
    for file, name in zip(
        (dataset.train, dataset.test, dataset.sample_submission), NAMES, strict=True
    ):
        assert file.location.name == name
        assert file.location.is_relative_to(opened_workspace.data)
        assert file.sha256 == sha256_of(csv_folder / name)
    assert dataset.notice is None
    assert dataset.test_labels is None


def test_two_directories_do_not_overwrite_each_other(csv_folder: Path) -> None:
    first = stage.download.fn("directory", "digit-recognizer", csv_folder)
    (csv_folder / "test.csv").write_bytes((csv_folder / "test.csv").read_bytes() + b"\n")
    second = stage.download.fn("directory", "digit-recognizer", csv_folder)
    assert first.test.location != second.test.location
    assert first.test.location.exists()


def test_the_fingerprint_follows_the_contents_only(csv_folder: Path, tmp_path: Path) -> None:
    before = stage.contents({"source": "directory", "data_dir": csv_folder})
    moved = csv_folder.rename(tmp_path / "elsewhere")
    assert stage.contents({"source": "directory", "data_dir": moved}) == before
    (moved / "train.csv").write_text("other")
    assert stage.contents({"source": "directory", "data_dir": moved}) != before


def test_what_is_missing_is_named(csv_folder: Path) -> None:
    (csv_folder / "test.csv").unlink()
    with pytest.raises(PermanentError, match=r"lacks test\.csv and holds no zip file"):
        stage.files_in(csv_folder)


def test_a_zip_may_be_called_so_in_capitals(zip_folder: Path) -> None:
    (zip_folder / "digit-recognizer.zip").rename(zip_folder / "DIGITS.ZIP")
    assert stage.files_in(zip_folder) == [zip_folder / "DIGITS.ZIP"]


def test_two_zips_are_ambiguous(zip_folder: Path) -> None:
    (zip_folder / "other.zip").write_bytes(b"")
    with pytest.raises(PermanentError, match="2 zip files"):
        stage.files_in(zip_folder)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="is not a folder"):
        stage.files_in(tmp_path / "nowhere")


def test_a_folder_that_may_not_be_read(csv_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "iterdir", MagicMock(side_effect=PermissionError(13, "Denied")))
    with pytest.raises(PermanentError, match="cannot be read: Denied"):
        stage.files_in(csv_folder)


def test_a_damaged_zip_leaves_nothing(zip_folder: Path, opened_workspace: Workspace) -> None:
    path = zip_folder / "digit-recognizer.zip"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(PermanentError, match=r"digit-recognizer\.zip"):
        stage.download.fn("directory", "digit-recognizer", zip_folder)
    assert not list(opened_workspace.data.iterdir())
    assert not list(opened_workspace.files.iterdir())


def test_sample_knows_its_answers_and_says_what_it_is() -> None:
    dataset = stage.download.fn("sample", "digit-recognizer", None)
    assert dataset.notice is not None
    assert "not MNIST" in dataset.notice
    assert dataset.test_labels is not None
    images, labels = digits.read_train(dataset.train.location)
    tested = sum(len(chunk) for chunk in digits.iterate_test(dataset.test.location))
    assert len(images) + tested == 1797
    assert set(labels.tolist()) == set(range(10))
    answers = digits.read_submission(dataset.test_labels.location)
    digits.check_submission(dataset.test_labels.location, dataset.sample_submission.location)
    assert len(answers) == 723


def test_mnist_in_the_competitions_format(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    images = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)
    labels = np.arange(30, dtype=np.uint8) % 10
    parts = ((images[:20], labels[:20]), (images[20:], labels[20:]))
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: parts)
    dataset = stage.download.fn("mnist", "digit-recognizer", None)
    assert (digits.read_train(dataset.train.location)[0][..., 0] == images[:20]).all()
    (test,) = digits.iterate_test(dataset.test.location)
    assert (test[..., 0] == images[20:]).all()
    assert dataset.test_labels is not None
    assert (digits.read_submission(dataset.test_labels.location) == labels[20:]).all()
    assert "nothing from it can be submitted" in (dataset.notice or "")


def test_mnist_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    def fail() -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", fail)
    with pytest.raises(TransientError, match=r"no route to host.*--source sample"):
        stage.download.fn("mnist", "digit-recognizer", None)
