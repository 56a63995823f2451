"""Where messages go: into the log of the run under way, else to Python's logging."""

import logging
from typing import Any

from prefect import get_run_logger
from prefect.exceptions import MissingContextError


def log() -> "logging.Logger | logging.LoggerAdapter[Any]":
    """The logger for now."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger(__name__)
