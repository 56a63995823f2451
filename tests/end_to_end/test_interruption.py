"""A run that is stopped again and again goes on where it was, and ends with the same bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.test_command_line import FLOW, environment, own_environment, run

__all__ = ["environment"]

EPOCHS = 5
OPTIONS = ["--source", "sample", "--epochs", str(EPOCHS), "--seed", "3"]


def stopped(
    workspace: Path, environment: dict[str, str], after: str, how: signal.Signals
) -> tuple[int, str]:
    """Start a run, send the signal once ``after`` stands in its log; exit code and stderr."""
    with subprocess.Popen(
        [sys.executable, FLOW, *OPTIONS, "--workspace", workspace],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=own_environment(**environment),
    ) as process:
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
    code, said = stopped(disturbed, environment, f"epoch 2/{EPOCHS}", signal.SIGINT)
    assert code == 128 + signal.SIGINT, said
    assert said.count("stopped by Ctrl-C") == 1
    assert "Traceback" not in said
    code, said = stopped(disturbed, environment, f"epoch 3/{EPOCHS}", signal.SIGKILL)
    assert code == -signal.SIGKILL, said

    done = run(*OPTIONS, "--workspace", disturbed, **environment)
    assert done.returncode == 0, done.stderr
    assert f"epoch 1/{EPOCHS}" not in done.stderr
    assert f"epoch {EPOCHS}/{EPOCHS}" in done.stderr
    for name in ("submission.csv", "history.csv", "eda.json", "evaluation.json"):
        ours = (disturbed / "runs/latest" / name).read_bytes()
        assert ours == (undisturbed / "runs/latest" / name).read_bytes(), name
    assert not any((disturbed / "cache/checkpoints").iterdir())
    assert not [path for path in (disturbed / "runs").iterdir() if path.name.startswith(".")]
