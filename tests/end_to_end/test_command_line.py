"""The command line as its user runs it: a process of its own, its output, its exit code."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import subprocess
import threading
import time
import zipfile
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flows.settings import Settings
from model.digits import read_submission
from tests.conftest import REAL_DATA
from tests.end_to_end.command import error_line, run


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sample") / "workspace"


@pytest.fixture(scope="module")
def first(workspace: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A first run on the embedded sample, which several tests look at."""
    elsewhere = {
        "http_proxy": "http://127.0.0.1:9",  # which cannot reach the run's own server
        "NO_PROXY": "example.org",
        "TZ": "Pacific/Kiritimati",
    }
    done = run("--workspace", workspace, "--epochs", "3", **environment, **elsewhere)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.usefixtures("first")
def test_the_run_folder_holds_the_contract(
    workspace: Path,
) -> None:
    latest = workspace / "runs" / "latest"
    manifest = json.loads((latest / "manifest.json").read_text())
    listed = {entry["path"]: entry for entry in manifest["files"]}
    on_disk = {p.relative_to(latest).as_posix() for p in latest.rglob("*") if p.is_file()}
    assert on_disk == {*listed, "manifest.json"}
    assert on_disk >= {
        "submission.csv",
        "model.keras",
        "metrics.json",
        "history.csv",
        "report.html",
        "model_card.md",
        "config.json",
        "figures/confusion_matrix.png",
        "figures/label_counts.png",
        "figures/pixel_intensities.png",
        "figures/learning_curves.png",
    }
    for path, entry in listed.items():
        content = (latest / path).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["size"] == len(content)


@pytest.mark.usefixtures("first")
def test_the_metrics_hold_the_contract(workspace: Path) -> None:
    metrics = json.loads((workspace / "runs/latest/metrics.json").read_text())
    assert metrics["source"] == "sample"
    assert metrics["recipe"] == "classic"
    assert (metrics["seed"], metrics["members"], metrics["epochs_run"]) == (0, 1, 3)
    named = datetime.strptime(metrics["run"][:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - named) < timedelta(hours=1)
    low, high = metrics["validation_accuracy_ci95"]
    assert 0.7 < low < metrics["validation_accuracy"] < high <= 1
    assert metrics["validation_count"] + metrics["train_count"] == 1074
    assert metrics["test_count"] == 723
    assert metrics["test_accuracy_ci95"][0] > 0.8
    submitted = read_submission(workspace / "runs/latest/submission.csv")
    right = submitted == read_submission(workspace / "data/sample/test_labels.csv")
    assert metrics["test_accuracy"] == right.mean()
    assert metrics["stopped_early"] is False
    assert metrics["parameters"] > 200_000
    history = list(csv.DictReader((workspace / "runs/latest/history.csv").read_text().split()))
    assert [row["epoch"] for row in history] == ["1", "2", "3"]
    assert float(history[-1]["validation_accuracy"]) == pytest.approx(
        metrics["validation_accuracy"], abs=1e-6
    )


def test_it_says_that_this_is_a_sample(
    first: subprocess.CompletedProcess[str], workspace: Path
) -> None:
    latest = workspace / "runs" / "latest"
    for text in (
        first.stdout,
        (latest / "report.html").read_text(),
        (latest / "model_card.md").read_text(),
    ):
        assert "not MNIST" in text
    assert "No Kaggle credentials were found." in first.stderr
    assert "submission.csv" in first.stdout


def test_the_summary_says_on_which_rows_each_accuracy_was_measured(
    first: subprocess.CompletedProcess[str], workspace: Path
) -> None:
    metrics = json.loads((workspace / "runs/latest/metrics.json").read_text())
    for name, rows in (("test", "test"), ("validation", "validation"), ("training", "train")):
        low, high = metrics[f"{rows}_accuracy_ci95"]
        assert re.search(
            f"^  {name} accuracy +{metrics[f'{rows}_accuracy']:.2%} of "
            f"{metrics[f'{rows}_count']} images .95% interval {low:.2%} to {high:.2%}.$",
            first.stdout,
            re.MULTILINE,
        )


@pytest.mark.usefixtures("first")
def test_the_second_run_is_cached_and_knows_no_tensorflow(
    workspace: Path, environment: dict[str, str]
) -> None:
    before = (workspace / "runs/latest/submission.csv").read_bytes()
    (workspace / "sitecustomize").mkdir(exist_ok=True)
    # A tensorflow that cannot be imported, found before the real one.
    (workspace / "sitecustomize" / "tensorflow.py").write_text("raise SystemExit('imported')")
    done = run(
        "--workspace",
        workspace,
        "--epochs",
        "3",
        PYTHONPATH=str(workspace / "sitecustomize"),
        **environment,
    )
    assert done.returncode == 0, done.stderr
    for stage in ("download", "preprocess", "explore", "train", "evaluate", "predict"):
        assert any(
            f"Task run '{stage}" in line and "Cached" in line for line in done.stderr.splitlines()
        ), stage
    assert (workspace / "runs/latest/submission.csv").read_bytes() == before
    assert len([p for p in (workspace / "runs").iterdir() if not p.is_symlink()]) == 2


@pytest.mark.usefixtures("first")
def test_the_same_seed_gives_the_same_bytes(
    workspace: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    done = run("--workspace", tmp_path / "other", "--epochs", "3", **environment)
    assert done.returncode == 0, done.stderr
    for name in ("submission.csv", "history.csv", "eda.json", "evaluation.json"):
        ours = (tmp_path / "other/runs/latest" / name).read_bytes()
        assert ours == (workspace / "runs/latest" / name).read_bytes(), name


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="../shared/digit-recognizer is not here")
def test_a_slice_of_the_competition(tmp_path: Path, environment: dict[str, str]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = {"train.csv": 3000, "test.csv": 500, "sample_submission.csv": 500}
    with zipfile.ZipFile(next(REAL_DATA.glob("*.zip"))) as archive:
        for name, count in rows.items():
            lines = archive.read(name).splitlines(keepends=True)[: count + 1]
            (data / name).write_bytes(b"".join(lines))
    done = run(
        *("--source", "directory", "--data-dir", data),
        *("--workspace", tmp_path / "workspace", "--epochs", "3"),
        **environment,
    )
    assert done.returncode == 0, done.stderr
    latest = tmp_path / "workspace/runs/latest"
    metrics = json.loads((latest / "metrics.json").read_text())
    low, high = metrics["validation_accuracy_ci95"]
    assert low > 0.85
    assert high > 0.9
    assert "test_accuracy" not in metrics
    submission = (latest / "submission.csv").read_text().splitlines()
    assert submission[0] == "ImageId,Label"
    assert len(submission) == 501
    assert "not MNIST" not in (latest / "report.html").read_text()


def test_help_is_quick_and_names_every_option() -> None:
    started = time.monotonic()
    done = run("--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    assert time.monotonic() - started < 60  # a hang, not a benchmark
    assert not {"prefect", "tensorflow", "numpy"} & {
        line.split("|")[-1].strip() for line in done.stderr.splitlines() if "|" in line
    }
    described = set(re.findall(r"^  (--[a-z-]+)", done.stdout, re.MULTILINE))
    assert described == {"--" + name.replace("_", "-") for name in Settings.model_fields}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nonsense"], "--nonsense"),
        (["--epochs", "0"], "--epochs"),
        (["--recipe", "magic"], "--recipe"),
        (["--source", "directory"], "--data-dir"),
        (["--source", "mnist", "--submit", "always"], "it contains the competition's test images"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert said in error_line(done)


def test_bad_data_is_one_line_and_exit_code_1(tmp_path: Path, environment: dict[str, str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    options: list[str | Path] = ["--source", "directory", "--workspace", tmp_path / "workspace"]
    # Of no use without the option.
    environment = {**environment, "DIGIT_RECOGNIZER_DATA_DIR": str(empty)}
    done = run(*options, **environment)
    assert done.returncode == 1
    assert "train.csv" in error_line(done)
    debugged = run(*options, "--debug", **environment)
    assert debugged.returncode == 1
    assert "Traceback" in debugged.stderr
    assert error_line(done) in debugged.stderr.splitlines()
    assert not (tmp_path / "workspace").exists()  # told before anything was begun


def test_a_server_that_is_down_is_one_line_and_exit_code_1(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    done = run(
        *("--source", "sample", "--workspace", tmp_path / "workspace"),
        PREFECT_API_URL="http://me:secret@127.0.0.1:9/api",
        **environment,
    )
    assert done.returncode == 1
    said = error_line(done)
    assert "Prefect's server at 127.0.0.1:9 does not answer" in said
    assert "PREFECT_API_URL" in said
    assert "secret" not in done.stderr
    assert not (tmp_path / "workspace").exists()


class Refusing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(401)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_refuses_is_not_taken_for_one_that_is_down(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = run(
            *("--source", "sample", "--workspace", tmp_path / "workspace"),
            PREFECT_API_URL=f"http://127.0.0.1:{server.server_port}/api",
            **environment,
        )
        server.shutdown()
    assert done.returncode == 1
    assert "answered 401" in error_line(done)
    assert "PREFECT_API_AUTH_STRING" in error_line(done)
