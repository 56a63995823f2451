"""What TensorFlow says, and what of it is shown."""

from __future__ import annotations

import numpy as np
import pytest

from model import networks, prediction
from tasks.support import tensorflow_import


def test_many_networks_one_after_the_other_make_no_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tensorflow_import.load()
    for seed in range(12):
        prediction.predict(networks.build("reference", seed), np.zeros((1, 28, 28, 1), np.uint8))
    assert not caplog.records
