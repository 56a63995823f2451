"""The signals that end a run: an exception in the main thread each, sent again where it is lost."""

from __future__ import annotations

import errno
import os
import signal
import sys
import termios
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, TextIO

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

ONCE_MORE_SECONDS = 0.1  # by then the code that dropped the exception has gone on


class Stopped(SystemExit):
    """A signal ends the run, with the exit code that a shell gives it."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number

    def __str__(self) -> str:
        name = "Ctrl-C" if self.number == signal.SIGINT else signal.Signals(self.number).name
        return f"stopped by {name}; the same command resumes from here"


def raise_stopped() -> None:
    """Have SIGINT, SIGTERM and SIGHUP raise Stopped in the main thread from now on."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)
        elif number == signal.SIGHUP:  # nohup: the run is to outlive its terminal
            os.environ["TTY_COMPATIBLE"] = "0"  # rich draws no live bar, which could not
    sys.unraisablehook = _send_again


def _stop(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    _leave_lost_terminal()
    raise Stopped(number)


def _leave_lost_terminal() -> None:
    """What is still to be written goes nowhere where the terminal is gone; else it would fail."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None where it was closed from the start
        try:
            termios.tcgetattr(stream.fileno())
        except (OSError, termios.error) as error:
            if error.args[0] == errno.EIO:
                into_nowhere(stream)


def into_nowhere(stream: TextIO) -> None:
    """What is still written to the stream is lost, in place of failing."""
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def _send_again(dropped: UnraisableHookArgs) -> None:
    """C code that calls Python, as pydantic's validators do, may drop any exception: not these."""
    if not isinstance(dropped.exc_value, Stopped):
        sys.__unraisablehook__(dropped)
        return
    main = threading.main_thread().ident
    again = threading.Timer(
        ONCE_MORE_SECONDS, signal.pthread_kill, (main, dropped.exc_value.number)
    )
    again.daemon = True
    again.start()
