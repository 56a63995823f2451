"""Where messages go: to the log of the run in progress, else to Python's logging."""

import logging
from typing import Any

from prefect import get_run_logger
from prefect.exceptions import MissingContextError


def log() -> "logging.Logger | logging.LoggerAdapter[Any]":
    """The logger of the run in progress, else Python's."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger(__name__)
