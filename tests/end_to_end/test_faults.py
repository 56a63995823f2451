"""What a machine can do to a run: it ends in one clear error or goes on, and loses nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deployments.servers import prefect_server
from tests.end_to_end.command import (
    FLOW,
    SAME_BYTES,
    SLOW_TRAINING,
    error_line,
    own_environment,
    run,
    start,
)
from tests.small_disk import change, small_disk

pytestmark = pytest.mark.faults

EPOCHS = 10
OPTIONS = [*SLOW_TRAINING, "--epochs", str(EPOCHS), "--seed", "4"]
REMEDIES = (
    "Choose another folder with --workspace, or fix its permissions.",
    "Free up or repair the disk, fix the permissions, or choose another --workspace; the same "
    "command then resumes.",
)
OBEYS_PERMISSIONS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, served: dict[str, str]) -> Path:
    """A workspace in which the run was made, undisturbed."""
    workspace = tmp_path_factory.mktemp("made")
    completed(workspace, served)
    return workspace


@pytest.fixture(scope="module")
def undisturbed(made: Path) -> dict[str, bytes]:
    return outputs(made)


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to harm."""
    shutil.copytree(made, tmp_path / "workspace", symlinks=True)
    return tmp_path / "workspace"


def outputs(workspace: Path) -> dict[str, bytes]:
    """What must not depend on what happened before."""
    return {name: (workspace / "runs/latest" / name).read_bytes() for name in SAME_BYTES}


def completed(workspace: Path, served: dict[str, str]) -> dict[str, bytes]:
    """Run to the end."""
    done = run(*OPTIONS, "--workspace", workspace, **served)
    assert done.returncode == 0, done.stderr
    return outputs(workspace)


def failed(workspace: Path, served: dict[str, str]) -> str:
    """Run to an error; the line that says which."""
    done = run(*OPTIONS, "--workspace", workspace, **served)
    assert done.returncode == 1, done.stderr
    return error_line(done)


def test_a_disk_that_is_full_at_one_stage_after_the_other(
    tmp_path: Path, served: dict[str, str], undisturbed: dict[str, bytes]
) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "200k"):
        for size in ("2500k", "5500k", "15m"):
            said = failed(disk, served)
            assert "No space left on device" in said
            assert str(disk) in said
            assert said.endswith(REMEDIES)
            change(disk, f"size={size}")
        change(disk, "size=100m")
        assert completed(disk, served) == undisturbed
        assert not list(disk.rglob(".making-*"))


def test_a_full_disk_of_prefects_own(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with small_disk(home, "300k"):
        its = {"HOME": str(tmp_path), "PREFECT_HOME": str(home)}
        done = run(*OPTIONS, "--workspace", tmp_path / "workspace", **its)
    assert done.returncode == 1
    place = re.escape(str(home))
    assert re.fullmatch(
        f"error: Prefect's folder {place} cannot be written: No space left on device\\. Free up .*",
        done.stderr.strip(),
    )


def test_a_read_only_disk(tmp_path: Path, served: dict[str, str]) -> None:
    with small_disk(tmp_path / "disk", "1m"):
        change(tmp_path / "disk", "ro")
        said = failed(tmp_path / "disk", served)
    assert "Read-only file system" in said
    assert said.endswith(REMEDIES)


def test_a_folder_that_may_not_be_written(workspace: Path, served: dict[str, str]) -> None:
    (workspace / "cache/files").chmod(0o500)
    obeying = OBEYS_PERMISSIONS if os.geteuid() == 0 else ()
    done = subprocess.run(
        [*obeying, sys.executable, FLOW, *OPTIONS, "--workspace", workspace],
        env=own_environment(**served),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    said = error_line(done)
    assert "Permission denied" in said
    assert said.endswith(REMEDIES)


def test_a_file_and_a_folder_in_each_others_place(
    workspace: Path, served: dict[str, str], undisturbed: dict[str, bytes]
) -> None:
    for place in ("cache/results", "cache/locks", "data/sample", "runs/latest"):
        path = workspace / place
        if place == "runs/latest":
            path.unlink()
            path.mkdir()
        else:
            shutil.rmtree(path)
            path.touch()
        said = failed(workspace, served)
        assert place in said
        assert said.endswith(REMEDIES)
        path.rmdir() if path.is_dir() else path.unlink()
    assert completed(workspace, served) == undisturbed


def test_a_damaged_state_is_said_and_the_one_before_it_used(
    tmp_path: Path, served: dict[str, str], undisturbed: dict[str, bytes]
) -> None:
    with start(*OPTIONS, "--workspace", tmp_path, **served) as process:
        assert process.stderr
        next(line for line in process.stderr if f"epoch 3/{EPOCHS}" in line)
        process.kill()
    newest = max(tmp_path.glob("cache/checkpoints/*/*/epoch-*.npz"))
    newest.write_bytes(newest.read_bytes()[:-1])
    done = run(*OPTIONS, "--workspace", tmp_path, **served)
    assert done.returncode == 0, done.stderr
    assert "is damaged and is not used" in done.stderr
    assert f"epoch 1/{EPOCHS}" not in done.stderr
    assert outputs(tmp_path) == undisturbed


def test_the_clock_is_set_back(
    workspace: Path, served: dict[str, str], undisturbed: dict[str, bytes]
) -> None:
    """All files are from the future: what the next run finds where the clock was set back."""
    for path in workspace.rglob("*"):
        os.utime(path, (2**32, 2**32), follow_symlinks=False)
    (workspace / "runs/latest").unlink()  # so that what is compared is the next run's
    done = run(*OPTIONS, "--workspace", workspace, **served)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Cached") == 6
    assert outputs(workspace) == undisturbed


def on_a_terminal(
    workspace: Path, served: dict[str, str], before: Callable[[], object] | None = None
) -> subprocess.Popen[bytes]:
    """Start a run on a terminal of its own, and close that after the second epoch."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        # setsid --ctty: as a terminal window starts a program
        ["setsid", "--ctty", sys.executable, FLOW, *OPTIONS, "--workspace", workspace],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=own_environment(TERM="xterm", **served),
        preexec_fn=before,
    )
    os.close(theirs)
    said = b""
    while f"epoch 2/{EPOCHS}: ".encode() not in said:
        said += os.read(ours, 10_000)
    os.close(ours)
    return process


def test_the_terminal_goes_away(
    tmp_path: Path, served: dict[str, str], undisturbed: dict[str, bytes]
) -> None:
    assert on_a_terminal(tmp_path, served).wait() == 128 + signal.SIGHUP
    done = run(*OPTIONS, "--workspace", tmp_path, **served)
    assert done.returncode == 0, done.stderr
    assert f"epoch 1/{EPOCHS}" not in done.stderr
    assert outputs(tmp_path) == undisturbed


def test_the_terminal_of_a_detached_run_goes_away(
    tmp_path: Path, served: dict[str, str], undisturbed: dict[str, bytes]
) -> None:
    """As under ``nohup``, which keeps the signal away, but not the end of the terminal."""

    def ignore_hang_up() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    assert on_a_terminal(tmp_path, served, ignore_hang_up).wait() == 0
    assert outputs(tmp_path) == undisturbed


def test_three_runs_at_once_one_of_which_is_killed(
    tmp_path: Path, served: dict[str, str], undisturbed: dict[str, bytes]
) -> None:
    command: list[str | Path] = [*OPTIONS, "--workspace", tmp_path]
    with start(*command, **served) as first:
        assert first.stderr
        next(line for line in first.stderr if f"epoch 2/{EPOCHS}" in line)
        first.send_signal(signal.SIGSTOP)  # it keeps its lock, and the others come to wait for it
        with start(*command, **served) as second, start(*command, **served) as third:
            for process in (second, third):
                assert process.stderr
                next(line for line in process.stderr if "'explore" in line)
            first.kill()
            ends = [process.communicate()[1] for process in (first, second, third)]
    codes = [process.returncode for process in (first, second, third)]
    assert codes == [-signal.SIGKILL, 0, 0], ends
    assert "".join(ends[1:]).count(f"epoch {EPOCHS}/{EPOCHS}") == 1
    assert f"epoch 1/{EPOCHS}" not in "".join(ends[1:])
    assert outputs(tmp_path) == undisturbed


def test_the_server_dies_in_training(
    tmp_path: Path, served: dict[str, str], undisturbed: dict[str, bytes]
) -> None:
    (tmp_path / "server").mkdir()
    with prefect_server(tmp_path / "server") as server:
        its = {**served, "PREFECT_API_URL": f"{server.url}/api"}
        its["PREFECT_CLIENT_MAX_RETRIES"] = "0"  # five take over a minute
        with start(*OPTIONS, "--workspace", tmp_path / "workspace", **its) as process:
            assert process.stderr
            next(line for line in process.stderr if f"epoch 2/{EPOCHS}" in line)
            server.kill()
            said = process.stderr.read()
    assert process.returncode == 1
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert "Prefect's server" in line
    assert "does not answer" in line
    done = run(*OPTIONS, "--workspace", tmp_path / "workspace", **served)
    assert done.returncode == 0, done.stderr
    assert f"epoch 2/{EPOCHS}" not in done.stderr
    assert outputs(tmp_path / "workspace") == undisturbed


def test_a_member_begins_and_ends_without_the_server(
    tmp_path: Path, served: dict[str, str]
) -> None:
    members = ["--runner", "processes", "--workers", "1", "--members", "2"]
    options = [*OPTIONS, *members, "--workspace", str(tmp_path / "workspace")]
    (tmp_path / "server").mkdir()
    with prefect_server(tmp_path / "server") as server:
        its = {**served, "PREFECT_API_URL": f"{server.url}/api"}
        its["PREFECT_CLIENT_MAX_RETRIES"] = "0"
        with start(*options, **its) as process:
            assert process.stderr
            next(line for line in process.stderr if f"Member 0, epoch 2/{EPOCHS}" in line)
            server.kill()
            said = process.stderr.read()
    assert process.returncode == 1
    assert "does not answer" in said
    done = run(*options, **served)
    assert done.returncode == 0, done.stderr
    assert "epoch" not in done.stderr
