"""What a training shows while it runs."""

from __future__ import annotations

import logging
from unittest.mock import MagicMock

import httpx
import pytest

from tasks import train


def test_an_outage_of_prefects_server_does_not_end_a_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(train, "get_run_logger", lambda: logging.getLogger("run"))
    monkeypatch.setattr(train, "create_progress_artifact", MagicMock())
    failing = MagicMock(side_effect=httpx.ConnectError("refused"))
    monkeypatch.setattr(train, "update_progress_artifact", failing)
    with train.ShownProgress(epochs=2, member=0) as progress:
        progress.batch(1, 1, 10)
    failing.assert_called_once()
    assert "The progress artifact stays as it was: ConnectError('refused')" in caplog.text
