"""What a training shows while it runs."""

from __future__ import annotations

import logging
from unittest.mock import MagicMock

import httpx
import pytest

from model import history
from tasks import train


@pytest.mark.parametrize("failing", ["create_progress_artifact", "update_progress_artifact"])
def test_an_outage_of_prefects_server_does_not_end_a_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failing: str
) -> None:
    monkeypatch.setattr(train, "get_run_logger", lambda: logging.getLogger("run"))
    monkeypatch.setattr(train, "create_progress_artifact", MagicMock())
    monkeypatch.setattr(train, "update_progress_artifact", MagicMock())
    failed = MagicMock(side_effect=httpx.ConnectError("refused"))
    monkeypatch.setattr(train, failing, failed)
    with train.ShownProgress(epochs=2, member=0) as progress:
        progress.batch(1, 1, 10)
        progress.epoch(history.Epoch(1, 0.5, 1.0, 0.5, 1.0, 0.001, 0.1))
    failed.assert_called_once()  # each attempt may wait for minutes
    assert "goes on without its progress artifact: ConnectError('refused')" in caplog.text
