"""The flow in this process: what each stage depends on, and what goes to Kaggle."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prefect.blocks.system import Secret

from flows.mnist_flow import mnist_flow
from flows.settings import Settings
from model import digits, figures, networks, processor, sample, training
from model.errors import PermanentError
from model.history import Epoch
from model.recipes import Recipe, recipe_for
from tasks.support import caching
from tasks.support.versions import version_of
from tests.kaggle_server import ALWAYS, KEY, USER, Fault, Kaggle, kaggle, zipped
from tests.tasks.test_submit import RULES

__all__ = ["kaggle"]  # the fixture

pytestmark = pytest.mark.usefixtures("prefect_server")

CACHED = {"download", "preprocess", "explore", "train", "evaluate", "predict"}

trained: list[tuple[int, int]] = []  # seed and member of each training
validated: list[NDArray[np.bool_]] = []  # the rows that each held out


@pytest.fixture(scope="module", autouse=True)
def untrained() -> Iterator[None]:
    """Networks stay as they are built, and figures empty: nothing here depends on either."""

    def train(
        recipe: Recipe, images: Any, labels: Any, held_out: Any, seed: int, *, member: int, **_: Any
    ) -> training.Trained:
        trained.append((seed, member))
        validated.append(held_out)
        epoch = Epoch(
            epoch=1,
            train_accuracy=0.1,
            train_loss=2.3,
            validation_accuracy=0.1,
            validation_loss=2.3,
            learning_rate=0.001,
            seconds=0,
        )
        model = networks.build(recipe.network, seed)
        return training.Trained(model, [epoch], stopped_early=False, train_seconds=0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", train)
        patch.setattr(figures, "save", lambda figure, path: path.touch())
        yield


def write_competition(folder: Path, test_rows: int = 40) -> Path:
    """The competition's three files, with a hundred digits of the sample to train on."""
    train, labels, test, test_labels = sample.split_like_competition(*sample.sample_digits())
    folder.mkdir()
    digits.write_train(folder / "train.csv", train[:100], labels[:100])
    digits.write_test(folder / "test.csv", test[:test_rows])
    digits.write_submission(folder / "sample_submission.csv", test_labels[:test_rows] * 0)
    return folder


# What each stage depends on.


@pytest.fixture(scope="module")
def made(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the competition's files, and the workspace of a run on them."""
    folder = tmp_path_factory.mktemp("made")
    write_competition(folder / "files")
    assert again(folder) == CACHED
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """A copy of it, and no training yet."""
    trained.clear()
    validated.clear()
    return shutil.copytree(made, tmp_path / "copied", symlinks=True)


def again(folder: Path, files: str = "files", **options: Any) -> set[str]:
    """Run in its workspace; the stages whose result was not in the cache."""
    place = {"data_dir": folder / files, "workspace": folder / "workspace"}
    given = {"source": "directory", "runner": "local", **place, **options}
    run = mnist_flow(Settings.model_validate(given))
    return CACHED & run.stage_seconds.keys()


def test_another_seed_explores_nothing_anew(copied: Path) -> None:
    assert again(copied, seed=1) == {"preprocess", "train", "evaluate", "predict"}
    assert trained == [(1, 0)]


def test_other_test_images_train_nothing_anew(copied: Path) -> None:
    write_competition(copied / "other files", test_rows=30)
    assert again(copied, "other files") == {"download", "preprocess", "explore", "predict"}


def test_more_members_train_the_new_ones_alone(copied: Path) -> None:
    assert again(copied, members=3) == {"train", "evaluate", "predict"}
    assert trained == [(0, 1), (0, 2)]


def test_each_member_holds_out_rows_of_its_own(copied: Path) -> None:
    again(copied, members=2, validation_fraction=0.5)
    np.testing.assert_array_equal(np.sum(validated, axis=0), 1)


def test_another_processor_trains_anew(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "identity", lambda: {"processor": "another"})
    assert "train" in again(copied)


@pytest.mark.parametrize(
    ("library", "stages"),
    [
        ("tensorflow", {"train", "evaluate", "predict"}),
        ("numpy", {"preprocess", "explore", "train", "evaluate", "predict"}),
        ("matplotlib", {"explore", "evaluate"}),
        ("scikit-learn", {"download"}),
    ],
)
def test_another_version_makes_anew_what_it_may_change(
    copied: Path, monkeypatch: pytest.MonkeyPatch, library: str, stages: set[str]
) -> None:
    other = {library: "another"}
    monkeypatch.setattr(caching, "version_of", lambda name: other.get(name) or version_of(name))
    assert again(copied) >= stages


def test_the_same_files_in_another_folder_are_the_same(copied: Path) -> None:
    (copied / "files").rename(copied / "moved")
    assert again(copied, "moved") == set()


def test_refresh_makes_all_anew(copied: Path) -> None:
    assert again(copied, refresh=True) == CACHED
    assert trained == [(0, 0)]


def test_the_configuration_is_kept(made: Path) -> None:
    config = json.loads((made / "workspace/runs/latest/config.json").read_text())
    settings = Settings.model_validate(config["settings"])
    assert (settings.source, settings.data_dir) == ("directory", made / "files")
    assert config["command"] == settings.command()
    assert Recipe.model_validate(config["recipe"]) == recipe_for("classic")


# Kaggle.


def test_from_kaggle_and_back(
    kaggle: Kaggle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    Secret(value={"username": USER, "key": KEY}).save("of-the-flow", overwrite=True)
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name)  # so that every call to Kaggle needs the block
    files = write_competition(tmp_path / "files")
    kaggle.archive = zipped(**{path.stem: path.read_text() for path in files.iterdir()})
    kaggle.polls = 0
    workspace = tmp_path / "workspace"
    with caplog.at_level(logging.INFO), caplog.at_level(logging.DEBUG, "urllib3"):
        run = mnist_flow(
            Settings(
                source="auto",
                kaggle_secret_block="of-the-flow",
                submit="always",
                minimum_accuracy=0,
                message="hello",
                workspace=workspace,
            )
        )
    folder = workspace / run.folder
    digest = hashlib.sha256((folder / "submission.csv").read_bytes()).hexdigest()
    (sent,) = kaggle.submissions
    assert (sent["digest"], sent["description"]) == (digest, f"sha256:{digest} hello")

    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["source"], metrics["submission_status"]) == ("kaggle", "complete")
    assert (metrics["public_score"], metrics["submission_ref"]) == (0.98925, sent["ref"])
    (row,) = csv.DictReader((workspace / "leaderboard.csv").read_text().splitlines())
    assert (row["public_score"], row["ref"]) == ("0.98925", str(sent["ref"]))
    *_, last = (workspace / "submissions.jsonl").read_text().splitlines()
    assert json.loads(last)["status"] == "complete"

    assert "the rules of digit-recognizer are accepted" in caplog.text
    written = [path.read_bytes() for path in workspace.rglob("*") if path.is_file()]
    for secret in (KEY, "?key=signed"):
        assert secret not in caplog.text
        assert not any(secret.encode() in content for content in written)


def test_what_kaggle_would_refuse_is_told_before_any_work(kaggle: Kaggle, tmp_path: Path) -> None:
    kaggle.faults = [Fault("DownloadDataFiles", ALWAYS, status=403, message=RULES)]
    settings = Settings(
        source="directory",
        data_dir=write_competition(tmp_path / "files"),
        submit="always",
        workspace=tmp_path / "workspace",
    )
    with pytest.raises(PermanentError, match="rules"):
        mnist_flow(settings)
    for folder in ("data", "cache/files", "runs"):
        assert not list((tmp_path / "workspace" / folder).iterdir())
