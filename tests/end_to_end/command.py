"""The pipeline's command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FLOW = Path(__file__).parents[2] / "flows" / "mnist_flow.py"

# Options of a training that can be caught in the middle: a quarter of a second an epoch, and so
# many held-out rows that it does not stop early for having all of them right.
SLOW_TRAINING = ["--source", "sample", "--batch-size", "2", "--validation-fraction", "0.5"]

# Of a run's folder, whatever happened on the way to it.
SAME_BYTES = ("submission.csv", "history.csv", "eda.json", "evaluation.json")

LONGEST_SECONDS = 500  # of one command: past pytest's limit of 600 all other tests would end too


@contextmanager
def start(*arguments: str | Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command and wait for its end; kill it where the test fails, or where it hangs."""
    process = subprocess.Popen(
        [sys.executable, FLOW, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=own_environment(**environment),
    )
    limit = threading.Timer(LONGEST_SECONDS, process.kill)
    limit.start()
    try:
        with process:
            try:
                yield process
            except BaseException:
                process.kill()
                raise
    finally:
        limit.cancel()


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; where it hangs, its exit code is that of SIGKILL."""
    with start(*arguments, **environment) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def own_environment(**environment: str) -> dict[str, str]:
    """This process' environment but for credentials and servers, which are not the test's.

    Nor has it what was set for the TensorFlow and the Dask of this process: the command must do so
    itself.
    """
    others = ("KAGGLE", "PREFECT", "AWS", "DIGIT_RECOGNIZER", "TF_", "DASK_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return {**kept, **environment}


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that says what went wrong."""
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "Traceback" not in done.stderr
    return line
