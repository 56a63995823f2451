"""The runners of an ensemble's members: one process, a pool of them; faults of members and pool."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prefect import flow, get_run_logger
from prefect.settings import PREFECT_API_URL
from pydantic import ValidationError

import flows
from flows.command_line import summary
from flows.mnist_flow import mnist_flow
from flows.runners import EachMember, choose, cores, each_member
from flows.settings import Settings
from model.digits import read_submission, stratified_positions, validation_mask
from model.errors import PermanentError, TransientError
from model.prediction import load, predict
from model.recipes import Recipe, recipe_for
from model.sample import sample_digits, split_like_competition
from tasks.support import workspace
from tasks.support.caching import kept_under, stage
from tasks.support.records import File, Record
from tests.end_to_end.command import LONGEST_SECONDS, SAME_BYTES, own_environment

OPTIONS: dict[str, Any] = {"source": "sample", "epochs": 1, "members": 3}
ADDRESS = "tcp://127.0.0.1:8786"  # where no Dask scheduler is


class Made(Record):
    """What the cheap stage below returns."""

    member: int
    process: int
    file: File


@stage(excludes=("killed",))
def make(member: int, failing: tuple[int, ...], killed: tuple[int, ...], seconds: float) -> Made:
    """A member that trains nothing; some fail, some take their process with them."""
    time.sleep(seconds)
    if member in failing:
        raise PermanentError(f"There is no {member}.", "Count again.")
    if member in killed and spend_a_life(workspace.current().root):
        for _ in range(200):  # so many that it is still sending them, and holds the queue's lock
            get_run_logger().info("x" * 100_000)
        os.kill(os.getpid(), signal.SIGKILL)
    with workspace.current().temporary_folder() as folder:
        (folder / "made").write_text(str(member))
        return Made(member=member, process=os.getpid(), file=File.keep(folder / "made"))


def spend_a_life(root: Path) -> bool:
    """Whether a member that takes its process with it does so once more; it does it twice."""
    lives = root / "lives"
    left = int(lives.read_text()) if lives.exists() else 2
    lives.write_text(str(left - 1))
    return left > 0


@flow
def made(
    settings: Settings,
    members: int,
    failing: tuple[int, ...] = (),
    killed: tuple[int, ...] = (),
    seconds: float = 0.0,
) -> tuple[list[Made], dict[int, str]]:
    with (
        kept_under(settings.workspace, refresh=settings.refresh, started=time.monotonic()),
        each_member(settings, members) as call_for_each,
    ):
        return call_for_each(make, failing=failing, killed=killed, seconds=seconds)


@pytest.mark.usefixtures("prefect_server")
def test_the_bytes_do_not_depend_on_the_runner_and_are_those_of_the_members(
    tmp_path: Path,
) -> None:
    runs = {}
    for runner, workers in (("local", None), ("processes", 2)):
        settings = Settings.model_validate(
            {
                **OPTIONS,
                "recipe": "best",
                "members": 2,
                "workspace": tmp_path / runner,
                "runner": runner,
                "workers": workers,
            }
        )
        run = mnist_flow(settings)
        runs[runner] = tmp_path / runner / run.folder
    for name in SAME_BYTES:
        ours, theirs = ((run / name).read_bytes() for run in runs.values())
        assert ours == theirs, name
    assert run.stage_seconds["train"] > 0  # no process of the flow's own measures it
    (row,) = re.findall("<tr>.*>train</th>.*", (runs["processes"] / "report.html").read_text())
    assert "cached" not in row
    metrics = json.loads((runs["processes"] / "metrics.json").read_text())
    assert metrics["members"] == 2
    expected = by_hand(runs["processes"], recipe_for("best"))
    np.testing.assert_array_equal(
        read_submission(runs["processes"] / "submission.csv"), expected[0]
    )
    assert metrics["validation_accuracy"] == expected[1]
    assert metrics["train_accuracy"] == expected[2]


def by_hand(run: Path, recipe: Recipe) -> tuple[NDArray[np.integer], float, float]:
    """Test predictions, out-of-fold and training accuracy of two members on the sample."""
    images, labels, test, _ = split_like_competition(*sample_digits())
    positions = stratified_positions(labels, seed=0)
    sums = np.zeros((2, len(labels), 10))
    of_test = np.zeros((len(test), 10))
    folds = [validation_mask(positions, recipe.validation_fraction, member) for member in range(2)]
    for member, held_out in enumerate(folds):
        model = load(run / f"model-{member:02d}.keras")
        sees: dict[str, Any] = {"form": recipe.form(member), "views": recipe.views}
        of_test += predict(model, test, **sees)
        probabilities = predict(model, images, **sees)
        sums[0, held_out] += probabilities[held_out]
        first = ~held_out & ~sums[1].any(axis=1)  # of the members that trained on these rows
        sums[1, first] = probabilities[first]
    right = sums.argmax(axis=2) == labels
    return (
        of_test.argmax(axis=1),
        float(right[0, np.any(folds, axis=0)].mean()),
        float(right[1].mean()),
    )


@pytest.mark.usefixtures("prefect_server")
def test_processes_share_the_cache_with_the_flow(tmp_path: Path) -> None:
    results, missing = made(
        Settings(workspace=tmp_path, runner="processes", workers=2, allow_missing_members=1),
        4,
        failing=(2,),
    )
    assert [result.member for result in results] == [0, 1, 3]
    assert missing == {2: "There is no 2. Count again."}
    assert os.getpid() not in {result.process for result in results}
    assert [(tmp_path / result.file.path).read_text() for result in results] == ["0", "1", "3"]

    again, _ = made(Settings(workspace=tmp_path, allow_missing_members=1, runner="local"), 4, (2,))
    assert again == results


@pytest.mark.usefixtures("prefect_server")
def test_a_member_that_fails_fails_the_run_with_its_number(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match=r"^Member 1 failed: There is no 1\. Count again\."):
        made(Settings(workspace=tmp_path, runner="local"), 3, failing=(1,))
    with pytest.raises(PermanentError, match="Member 2 failed"):  # the second; one is allowed
        made(
            Settings(workspace=tmp_path, runner="local", allow_missing_members=1), 3, failing=(1, 2)
        )
    with pytest.raises(PermanentError, match="Member 1 failed"):  # nobody would be left
        made(
            Settings(workspace=tmp_path, runner="local", allow_missing_members=9), 2, failing=(0, 1)
        )


def test_members_come_in_their_order_whichever_ends_first(monkeypatch: pytest.MonkeyPatch) -> None:
    each = EachMember(contextlib.nullcontext, members=3, allow_missing=0)
    ended = [(2, lambda: "c"), (0, lambda: "a"), (1, lambda: "b")]
    monkeypatch.setattr(each, "_outcomes", lambda *_: ended)
    assert each(make) == (["a", "b", "c"], {})  # type: ignore[comparison-overlap]


@pytest.mark.usefixtures("prefect_server")
def test_after_a_killed_process_the_members_go_on_in_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "lives").write_text("1")
    settings = Settings(workspace=tmp_path, runner="processes", workers=1)
    results, missing = made(settings, 3, killed=(1,))
    assert not missing
    assert [result.member for result in results] == [0, 1, 2]
    first, second, third = (result.process for result in results)
    assert first != second == third  # the first member was kept


@pytest.mark.usefixtures("prefect_server")
def test_a_second_killed_process_is_one_error_and_finished_members_are_kept(tmp_path: Path) -> None:
    settings = Settings(workspace=tmp_path, runner="processes", workers=1)
    with pytest.raises(TransientError, match="A worker process was killed"):
        made(settings, 2, killed=(1,))
    results, _ = made(Settings(workspace=tmp_path, runner="local"), 2)
    assert [result.process == os.getpid() for result in results] == [False, True]


@pytest.mark.usefixtures("prefect_server")
def test_a_process_killed_while_it_logs_does_not_keep_the_run_from_ending(tmp_path: Path) -> None:
    (tmp_path / "lives").write_text("1")
    code = f"""
from tests.end_to_end.test_runners import Settings, made
made(Settings(workspace={str(tmp_path)!r}, runner="processes", workers=1), 1, killed=(0,))
"""
    environment = own_environment(
        PREFECT_API_URL=PREFECT_API_URL.value() or "",
        PREFECT_HOME=str(tmp_path / "prefect"),
        # Lines that are shown too are made so slowly that none is still to be sent.
        PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL="WARNING",
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        timeout=LONGEST_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "A worker process was killed" in done.stderr


def test_missing_members_are_said_everywhere(
    tmp_path: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model import training

    trained = training.train

    def fail_at_1(*arguments: Any, member: int, **options: Any) -> Any:
        if member == 1:
            raise PermanentError("The numbers are no numbers.", "Choose others.")
        return trained(*arguments, member=member, **options)

    monkeypatch.setattr(training, "train", fail_at_1)
    settings = Settings.model_validate(
        {**OPTIONS, "workspace": tmp_path, "runner": "local", "allow_missing_members": 1}
    )
    run = mnist_flow(settings)
    assert re.search("^  missing members +1$", summary(run, settings), re.MULTILINE)
    folder = tmp_path / run.folder
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["members"] == 2
    assert metrics["missing_members"] == {"1": "The numbers are no numbers. Choose others."}
    for name in ("report.html", "model_card.md"):
        assert "Of 3 members 1 could not be trained" in (folder / name).read_text()
    assert sorted(path.name for path in folder.glob("*.keras")) == [
        "model-00.keras",
        "model-02.keras",
    ]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda how: how.name)
def test_the_pool_ends_with_the_process_that_started_it(
    tmp_path: Path, how: signal.Signals
) -> None:
    code = """
import time
from flows import signals
from flows.runners import process_pool
signals.raise_stopped()
work = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
with process_pool(1) as runner:
    runner._executor.submit(exec, work)
    time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env=own_environment(PREFECT_HOME=str(tmp_path)),
    ) as process:
        assert process.stdout
        worker = int(process.stdout.readline())
        os.kill(worker, 0)
        process.send_signal(how)
        try:
            process.wait(timeout=60)
        finally:
            process.kill()
    deadline = time.monotonic() + 60
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(worker, 0)
            time.sleep(0.05)
        os.kill(worker, signal.SIGKILL)
        pytest.fail("the worker outlived the run")


def test_the_default_is_a_process_for_each_core() -> None:
    expected = ("processes", min(3, cores())) if cores() > 1 else ("local", 1)
    assert choose(Settings(), 3) == expected
    assert choose(Settings(), 1)[0] == "local"
    assert choose(Settings(workers=1), 3)[0] == "local"
    assert choose(Settings(runner="dask", workers=5), 3) == ("dask", 5)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"data_dir": "data"}, "--data-dir is only for --source directory, not auto"),
        ({"dask_address": ADDRESS}, "--dask-address is only for --runner dask, not auto"),
        ({"runner": "dask", "dask_address": "127.0.0.1"}, r"dask_address\s+String should match"),
        (
            {"runner": "dask", "dask_address": ADDRESS, "workers": 2},
            "--workers has no effect with --dask-address",
        ),
        ({"runner": "local", "workers": 2}, "--workers has no effect with --runner local"),
        ({"runner": "processes", "workers": 0}, r"workers\s+Input should be greater"),
        ({"allow_missing_members": -1}, r"allow_missing_members\s+Input should be greater"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises((ValidationError, PermanentError), match=said):
        Settings.model_validate(wrong).check()


@pytest.mark.usefixtures("prefect_server")
def test_dask_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "flows.dask_runner", raising=False)
    monkeypatch.delattr(flows, "dask_runner", raising=False)  # whoever imported it left it there
    monkeypatch.setitem(sys.modules, "prefect_dask.task_runners", None)
    with pytest.raises(PermanentError, match=r"pip install .*\[dask\]"):
        made(Settings(workspace=tmp_path, runner="dask"), 2)
