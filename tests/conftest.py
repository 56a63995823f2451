"""Fixtures for all floors."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from tasks.support import workspace

# As the stages run it; tests of the model import TensorFlow by themselves.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

# A shell that starts the tests in the background has them ignore Ctrl-C, and so what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

REAL_DATA = Path(__file__).parents[2] / "shared" / "digit-recognizer"


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """One temporary server and database for all tests that run tasks or flows."""
    # Nothing watches the heartbeats here, and each flow would wait a second for the last one.
    without_heartbeats = temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})
    with prefect_test_harness(server_startup_timeout=120), without_heartbeats:
        yield


@pytest.fixture
def opened_workspace(tmp_path: Path) -> Iterator[workspace.Workspace]:
    """An empty workspace that is the current one."""
    with workspace.opened(tmp_path / "workspace") as opened:
        yield opened
