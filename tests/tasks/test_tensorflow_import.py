"""How TensorFlow is set up, and what of what it says is shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from model import networks, prediction
from tasks.support import tensorflow_import
from tests.end_to_end.command import LONGEST_SECONDS, own_environment


def test_many_networks_one_after_the_other_make_no_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tensorflow_import.load()
    for seed in range(12):
        prediction.predict(networks.build("reference", seed), np.zeros((1, 28, 28, 1), np.uint8))
    assert not caplog.records


def test_tensorflow_gets_one_thread_to_an_operation() -> None:
    """On few cores more threads give the same bytes: no other test would notice them."""
    code = (
        "from tasks.support import tensorflow_import; tensorflow_import.load();"
        "import tensorflow as tf; print(tf.config.threading.get_intra_op_parallelism_threads())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=own_environment(),
        timeout=LONGEST_SECONDS,
        check=True,
    )
    assert done.stdout == "1\n"


def test_keras_computes_with_tensorflow_for_users_of_another_backend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    tensorflow_import.load()
    assert os.environ["KERAS_BACKEND"] == "tensorflow"


def test_an_output_that_takes_nothing_more_is_no_reason_to_fail() -> None:
    code = "from tasks.support import tensorflow_import; tensorflow_import.load(); print('well')"
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=full,
            env=own_environment(TF_CPP_MIN_LOG_LEVEL="0"),  # so that there is something to write
            timeout=LONGEST_SECONDS,
        )
    assert done.stdout == b"well\n"
