"""A server of Prefect's that fails is told as such, and costs no member."""

from __future__ import annotations

import socket
from contextlib import nullcontext
from unittest.mock import MagicMock

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import prefect_errors
from flows.runners import EachMember
from model.errors import TransientError


def test_an_outage_does_not_make_a_member_missing() -> None:
    task = MagicMock(side_effect=httpx.ReadError("connection reset"))
    with pytest.raises(httpx.ReadError):
        EachMember(nullcontext, members=2, allow_missing=1)(task)


def test_an_error_that_a_failed_request_led_to() -> None:
    error = RuntimeError("no answer")
    error.__cause__ = httpx.ConnectError("refused")
    assert prefect_errors.caused(error) is error.__cause__
    assert prefect_errors.caused(RuntimeError("something else")) is None
    assert prefect_errors.caused(TransientError("Kaggle is down.", "Wait.")) is None


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://me:secret@127.0.0.1:9/api", "at 127.0.0.1:9 does"),
        ("127.0.0.1:9/api", "at 127.0.0.1:9/api does"),
        ("me:secret@server", "at server does"),
    ],
)
def test_the_place_is_shown_without_a_password(address: str, shown: str) -> None:
    with temporary_settings({PREFECT_API_URL: address}):
        said = str(prefect_errors.explained(httpx.ConnectError("refused")))
    assert shown in said
    assert "secret" not in said


def test_a_silent_server_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_errors, "SILENCE_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        with temporary_settings({PREFECT_API_URL: address}), pytest.raises(httpx.TimeoutException):
            prefect_errors.check_not_silent()


def test_scripts_end_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert prefect_errors.exit_code(MagicMock(side_effect=httpx.ConnectError("refused"))) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: Prefect's server at ")
    with pytest.raises(RuntimeError):
        prefect_errors.exit_code(MagicMock(side_effect=RuntimeError))
    assert prefect_errors.exit_code(lambda: 2) == 2
