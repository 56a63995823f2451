"""A signal ends the process, also where code between drops the exception."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# An exception in __del__ is dropped, as one in a validator of pydantic's is.
SCRIPT = """
import signal, sys, time
from flows import signals

class Drops:
    def __del__(self):
        {what}

{before}
try:
    signals.raise_stopped()
    Drops()
    print("goes on", flush=True)
    time.sleep({seconds})
except signals.Stopped as stopped:
    print(stopped, file=sys.stderr)
    raise
"""


def ended(what: str, *, seconds: float, before: str = "") -> tuple[int, str]:
    """Exit code and stderr of a process that drops what ``what`` raises, then waits."""
    script = SCRIPT.format(what=what, before=before, seconds=seconds)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "goes on\n"
    return done.returncode, done.stderr


def test_without_an_output() -> None:
    script = "from flows import signals; signals.raise_stopped(); signals.signal.raise_signal(15)"
    done = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" >&-', sys.executable, script], stderr=subprocess.PIPE, text=True
    )
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "")


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_dropped_stop_is_sent_again(number: signal.Signals) -> None:
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    # Under nohup the tests themselves, and what they start, ignore SIGHUP.
    before = f"signal.signal(signal.{number.name}, signal.SIG_DFL)"
    assert ended(f"signal.raise_signal(signal.{number.name})", seconds=60, before=before) == (
        128 + number,
        f"stopped by {name}; the same command resumes from here\n",
    )


def test_other_dropped_exceptions_are_shown() -> None:
    code, said = ended("1 / 0", seconds=0)
    assert code == 0
    assert "ZeroDivisionError" in said


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    sent = "signal.raise_signal(signal.SIGHUP)"
    assert ended(sent, seconds=0.5, before=before) == (0, "")
