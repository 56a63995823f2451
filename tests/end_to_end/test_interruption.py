"""A run that is stopped goes on where it was; two runs at once share their work."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.end_to_end.command import SAME_BYTES, SLOW_TRAINING, run, start

EPOCHS = 10  # so many that a signal sent at the fifth arrives before the last
OPTIONS = [*SLOW_TRAINING, "--epochs", str(EPOCHS), "--seed", "3"]


def stopped(
    workspace: Path, environment: dict[str, str], after: str, how: signal.Signals
) -> tuple[int, str]:
    """Start a run, send the signal once ``after`` stands in its log; exit code and stderr."""
    with start(*OPTIONS, "--workspace", workspace, **environment) as process:
        assert process.stderr
        said = ""
        for line in process.stderr:
            said += line
            if after in line:
                process.send_signal(how)
                break
        said += process.stderr.read()
        return process.wait(), said


def test_stopped_three_times(tmp_path: Path, environment: dict[str, str]) -> None:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    done = run(*OPTIONS, "--workspace", undisturbed, **environment)
    assert done.returncode == 0, done.stderr

    code, said = stopped(disturbed, environment, f"epoch 1/{EPOCHS}", signal.SIGTERM)
    assert code == 128 + signal.SIGTERM, said
    assert said.count("stopped by SIGTERM") == 1
    code, said = stopped(disturbed, environment, f"epoch 3/{EPOCHS}", signal.SIGINT)
    assert code == 128 + signal.SIGINT, said
    assert said.count("stopped by Ctrl-C") == 1
    assert "Traceback" not in said
    code, said = stopped(disturbed, environment, f"epoch 5/{EPOCHS}", signal.SIGKILL)
    assert code == -signal.SIGKILL, said

    done = run(*OPTIONS, "--workspace", disturbed, **environment)
    assert done.returncode == 0, done.stderr
    assert f"epoch 1/{EPOCHS}" not in done.stderr
    assert f"epoch {EPOCHS}/{EPOCHS}" in done.stderr
    for name in SAME_BYTES:
        ours = (disturbed / "runs/latest" / name).read_bytes()
        assert ours == (undisturbed / "runs/latest" / name).read_bytes(), name
    assert not any((disturbed / "cache/checkpoints").iterdir())


@pytest.mark.parametrize("seconds", [0, 0.5, 1.5])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
def test_stopped_while_it_starts(
    tmp_path: Path, environment: dict[str, str], how: signal.Signals, seconds: float
) -> None:
    with start("--workspace", tmp_path, **environment) as process:
        status = Path(f"/proc/{process.pid}/status")
        while not caught(status.read_text()) >> (signal.SIGTERM - 1) & 1:  # by our first line
            time.sleep(0.01)
        time.sleep(seconds)
        process.send_signal(how)
        assert process.stderr
        said = process.stderr.read()
        assert process.wait() == 128 + how
    name = "Ctrl-C" if how == signal.SIGINT else how.name
    assert said.splitlines()[-1] == f"stopped by {name}; the same command resumes from here"
    assert "Traceback" not in said


def caught(status: str) -> int:
    """The set of signals that a process has a handler for, from its status in /proc."""
    return int(status.partition("SigCgt:")[2].split()[0], 16)


def test_two_runs_at_once_train_once(tmp_path: Path, environment: dict[str, str]) -> None:
    workspace = tmp_path / "workspace"
    with (
        start(*OPTIONS, "--workspace", workspace, **environment) as first,
        start(*OPTIONS, "--workspace", workspace, **environment) as second,
    ):
        said = [process.communicate()[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    assert "".join(said).count(f"epoch {EPOCHS}/{EPOCHS}") == 1
    runs = [path for path in (workspace / "runs").iterdir() if not path.is_symlink()]
    assert len(runs) == 2
    for name in SAME_BYTES:
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes(), name
