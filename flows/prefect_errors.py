"""What an error of Prefect's client means: it alone uses httpx here."""

from __future__ import annotations

import sys
from collections.abc import Callable

import httpx
from prefect.settings import PREFECT_API_URL

from model.errors import PipelineError, TransientError

ClientError = httpx.TransportError | httpx.HTTPStatusError

SILENCE_SECONDS = 30  # a busy server may take some; Prefect's client would wait for minutes


def caused(error: BaseException) -> ClientError | None:
    """The failed request to Prefect's server that led to the error, if one did."""
    root: BaseException | None = None if isinstance(error, PipelineError) else error
    while root:
        if isinstance(root, ClientError):
            return root
        root = root.__cause__ or root.__context__
    return None


def explained(failure: ClientError, own_server: str | None = None) -> TransientError:
    """The error to show; ``own_server`` is the address of the run's temporary server, if any."""
    address = own_server or PREFECT_API_URL.value() or ""
    place = httpx.URL(address).netloc.decode() or address.rpartition("@")[2]  # without a password
    if isinstance(failure, httpx.HTTPStatusError):
        return TransientError(
            f"Prefect's server at {place} answered {failure.response.status_code}.",
            "Check PREFECT_API_URL and PREFECT_API_AUTH_STRING, and that the server has the same "
            "version of Prefect as the run; the same command then resumes from here.",
        )
    return TransientError(
        f"Prefect's server at {place} does not answer ({type(failure).__name__}).",
        "Run the same command again: it resumes from here."
        if own_server
        else "Check that it is running and that PREFECT_API_URL is right, or unset that to give "
        "the run a server of its own; the same command then resumes from here.",
    )


def check_not_silent() -> None:
    """Raise httpx.TimeoutException if the configured server accepts a request but is silent.

    What else may be wrong with it, Prefect's client says soon enough.
    """
    try:
        httpx.get(f"{PREFECT_API_URL.value()}/health", timeout=SILENCE_SECONDS)
    except httpx.TimeoutException:
        raise
    except httpx.TransportError:
        return


def exit_code(script: Callable[[], int]) -> int:
    """What the script returns; 1, after one ``error:`` line, if Prefect's server fails it."""
    try:
        return script()
    except Exception as error:
        failure = caused(error)
        if failure is None:
            raise
        print(f"error: {explained(failure)}", file=sys.stderr)
        return 1
