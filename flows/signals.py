"""Signals that end a run: each raises an exception in the main thread, again if that is lost."""

from __future__ import annotations

import contextlib
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

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RESEND_SECONDS = 0.1  # by then the code that dropped the exception has moved on


class Stopped(SystemExit):
    """A signal ends the run, with the exit code that a shell gives it."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number

    def __str__(self) -> str:
        name = "Ctrl-C" if self.number == signal.SIGINT else signal.Signals(self.number).name
        return f"stopped by {name}; the same command resumes from here"


def exit_at_once() -> None:
    """Until ``raise_stopped``: have the signals end the process with the one line.

    During imports, which leave nothing to clean up, and where some code swallows exceptions.
    """
    for number in NUMBERS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _exit)


def raise_stopped() -> None:
    """Have SIGINT, SIGTERM and SIGHUP raise Stopped in the main thread from now on."""
    for number in NUMBERS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)
        elif number == signal.SIGHUP:  # nohup: the run is to outlive its terminal
            os.environ["TTY_COMPATIBLE"] = "0"  # no live bar, which could not outlive it
    sys.unraisablehook = _send_again


def _exit(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    with contextlib.suppress(OSError):  # the terminal is gone
        os.write(2, f"{Stopped(number)}\n".encode())
    os._exit(128 + number)


def _stop(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    _leave_lost_terminal()
    raise Stopped(number)


def _leave_lost_terminal() -> None:
    """If the terminal is gone, discard further output: writing it would fail."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None if it was closed from the start
        try:
            termios.tcgetattr(stream.fileno())
        except (OSError, termios.error) as error:
            if error.args[0] == errno.EIO:
                into_nowhere(stream)


def into_nowhere(stream: TextIO) -> None:
    """Discard what is still written to the stream, instead of failing."""
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def _send_again(dropped: UnraisableHookArgs) -> None:
    """Send the signal again if C code, such as pydantic's validators, dropped its exception."""
    if not isinstance(dropped.exc_value, Stopped):
        sys.__unraisablehook__(dropped)
        return
    main = threading.main_thread().ident
    again = threading.Timer(RESEND_SECONDS, signal.pthread_kill, (main, dropped.exc_value.number))
    again.daemon = True
    again.start()
