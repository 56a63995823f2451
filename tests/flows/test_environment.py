"""What ``flows`` sets for Prefect is there before Prefect is imported."""

from __future__ import annotations

import subprocess
import sys

from tests.end_to_end.command import own_environment


def test_what_a_training_says_goes_to_the_log_of_its_run() -> None:
    code = """
import logging
import flows
from prefect import get_client
print([type(handler).__name__ for handler in logging.getLogger("model.training").parent.handlers])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=own_environment(), capture_output=True, check=True
    )
    assert b"APILogHandler" in done.stdout
