"""The command line around the flow: arguments, one error line, exit codes, summary."""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

from flows import STARTED, signals
from flows.settings import Settings
from model.errors import PermanentError, PipelineError

if TYPE_CHECKING:
    from prefect import Flow

    from flows.temporary_server import TemporaryServer
    from tasks.support.records import Run

FAILED, WRONG_USAGE = 1, 2


def parse(arguments: list[str]) -> Settings:
    """Settings from the arguments and the environment; exits with code 2 on wrong usage."""
    try:
        settings = CliApp.run(Settings, cli_args=arguments)
        settings.check()
    except ValidationError as error:
        _check_environment()
        _wrong_usage(_problems(error, lambda name: f"--{name.replace('_', '-')}"))
    except SettingsError as error:
        _wrong_usage(str(error).removeprefix("error parsing CLI: "))
    except PermanentError as error:
        _wrong_usage(f"{error.cause} {error.remedy}")
    _check_environment()
    if settings.debug:
        os.environ["PREFECT_LOGGING_LEVEL"] = "DEBUG"
    return settings


def _check_environment() -> None:
    """The flow's defaults come from it: a variable must be valid even if an option overrides it."""
    try:
        Settings()
    except ValidationError as error:
        _wrong_usage(_problems(error, lambda name: f"DIGIT_RECOGNIZER_{name.upper()}"))


def _problems(error: ValidationError, named: Callable[[str], str]) -> str:
    """What is wrong, and in which option or variable."""
    return "; ".join(
        "".join(f"{named(str(part))}: " for part in each["loc"])
        + each["msg"].removeprefix("Value error, ")
        for each in error.errors()
    )


def _wrong_usage(message: str) -> NoReturn:
    print(f"error: {message} (see --help)", file=sys.stderr)
    sys.exit(WRONG_USAGE)


def run(
    flow: Flow[[Settings], Run], settings: Settings, server: TemporaryServer | None = None
) -> int:
    """Run the flow; print its summary, or one ``error:`` line; return the exit code."""
    if not settings.debug:
        for handler in logging.getLogger().handlers:  # only the console's; the server gets all
            handler.addFilter(_has_no_traceback)
        logging.getLogger("EventsWorker").setLevel(logging.ERROR)  # it warns of work left at exit
    try:
        signals.raise_stopped()
        from tasks.download import files_in

        if settings.source == "directory":
            files_in(settings.data_dir)  # if they are missing, fail now, before the slow part
        with served(server, settings):
            outcome = flow(settings)
    except signals.Stopped as stopped:
        return _say(str(stopped), 128 + stopped.number)
    except Exception as error:
        if settings.debug:
            traceback.print_exc()
        from flows import prefect_errors, temporary_server

        if failure := prefect_errors.caused(error):
            lost = prefect_errors.explained(failure, server.api_url if server else None)
            cause = temporary_server.home_fault() if server else None
            _say(f"error: {cause or lost}", FAILED)
            os._exit(FAILED)  # Prefect would try for another minute to deliver its logs
        if isinstance(error, PipelineError):
            return _say(f"error: {error}", FAILED)
        hint = "" if settings.debug else " Run it again with --debug for the traceback."
        return _say(f"error: {type(error).__name__}: {error}.{hint}", FAILED)
    _print(summary(outcome, settings), sys.stdout)
    return 0


@contextmanager
def served(server: TemporaryServer | None, settings: Settings) -> Iterator[None]:
    """Enter once the server answers; while it starts, import what the run will need."""
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flows import prefect_errors
    from tasks.support import tensorflow_import
    from tasks.support.workspace import Workspace

    if server is None:
        prefect_errors.check_not_silent()
        yield
        return
    if not any(Workspace(settings.workspace).results.glob("*")):  # a first run: it will train
        tensorflow_import.load()
    import fastapi.encoders  # noqa: F401  # Prefect imports it when the flow starts

    # The link that Prefect logs leads nowhere: this server has no UI, and ends with the run.
    logging.getLogger("prefect.flow_runs").addFilter(lambda r: "View at" not in r.getMessage())
    server.wait()
    os.environ["PREFECT_API_URL"] = server.api_url  # for every thread and process of the run
    refresh_global_settings_context()
    # No heartbeats: nobody watches this server for dead runs, and stopping them takes up to 1 s.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def summary(run: Run, settings: Settings) -> str:
    """A finished run's lines on the terminal: accuracy, files, what was submitted, times."""
    folder = settings.workspace / run.folder
    lines = [
        ("", run.notice),
        ("missing members", ", ".join(map(str, run.metrics.get("missing_members", ())))),
        ("test accuracy", _score(run.metrics, "test")),
        ("validation accuracy", _score(run.metrics, "validation")),
        ("training accuracy", _score(run.metrics, "train")),
        ("submission", f"{folder / 'submission.csv'} ({run.rows:,} rows)"),
        ("", run.submission.reason),
        ("report", str(folder / "report.html")),
        ("artifact store", run.stored),
        ("time", _times(run.stage_seconds)),
    ]
    return "\n".join([run.name, *(f"  {name:20} {text}" for name, text in lines if text)])


def _score(metrics: dict[str, Any], rows: str) -> str | None:
    if f"{rows}_accuracy" not in metrics:
        return None
    low, high = metrics[f"{rows}_accuracy_ci95"]
    return (
        f"{metrics[f'{rows}_accuracy']:.2%} of {metrics[f'{rows}_count']:,} images "
        f"(95% interval {low:.2%} to {high:.2%})"
    )


def _times(stage_seconds: dict[str, float]) -> str:
    from tasks.publish import STAGES

    total = time.monotonic() - STARTED
    parts = {**stage_seconds, "publish and Prefect": total - sum(stage_seconds.values())}
    ran = ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts.items())
    cached = ", ".join(name for name in STAGES if name not in stage_seconds)
    return f"{total:.1f} s: {ran}" + (f"; cached: {cached}" if cached else "")


def _say(line: str, exit_code: int) -> int:
    _print(line, sys.stderr)
    return exit_code


def _print(text: str, stream: TextIO) -> None:
    try:
        print(text, file=stream, flush=True)
    except OSError:  # the terminal is gone: discard this and all further output
        signals.into_nowhere(stream)


def _has_no_traceback(record: logging.LogRecord) -> bool:
    """The ``error:`` line says what is needed; Prefect's tracebacks say the same, at length."""
    return not record.exc_info
