"""What ``flows`` sets for Prefect is there before Prefect is imported; and Prefect's folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flows import temporary_server
from model.errors import PermanentError
from tests.end_to_end.command import own_environment


def test_what_a_training_says_goes_to_the_log_of_its_run() -> None:
    code = """
import logging
import flows
from prefect import get_client
logger = logging.getLogger("model.checkpoints").parent
print([type(handler).__name__ for handler in logger.handlers])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=own_environment(), capture_output=True, check=True
    )
    assert b"APILogHandler" in done.stdout


def test_no_file_gets_the_number_of_a_closed_output() -> None:
    code = "import os, flows; os.fstat(2); print('well')"
    done = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" 2>&-', sys.executable, code], stdout=subprocess.PIPE, check=True
    )
    assert done.stdout == b"well\n"


def test_a_home_that_prefect_cannot_write_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("no folder")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "*")  # which it need not change for the tests after this one
    server = temporary_server.TemporaryServer()
    server.process.kill()  # it would end by itself, but seconds later
    with pytest.raises(PermanentError, match=r"folder .*home cannot be written"):
        server.wait()
