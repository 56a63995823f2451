"""Prediction and the loading of networks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from model import networks, prediction
from model.augmentation import view
from model.errors import PermanentError
from model.forms import in_form

IMAGES = np.random.default_rng(0).integers(0, 256, (70, 28, 28, 1), np.uint8)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return networks.build("reference", seed=0)


def test_predicts_what_keras_predicts(model: keras.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "BATCH_SIZE", 32)
    probabilities = prediction.predict(model, IMAGES)
    assert probabilities.shape == (70, 10)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, model.predict(IMAGES, verbose=0), rtol=1e-5)


@pytest.mark.parametrize("piece", [32, 8000])
def test_a_prediction_is_the_mean_over_views_in_the_networks_form(
    model: keras.Model, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(prediction, "PIECE", piece)
    ours = prediction.predict(model, IMAGES, form="upright", views=(0, 0.3, -1))
    each = [
        model.predict(in_form(view(IMAGES, share), "upright"), verbose=0) for share in (0, 0.3, -1)
    ]
    np.testing.assert_allclose(ours, np.mean(each, axis=0), rtol=1e-5)


def test_a_stream_is_predicted_as_it_comes(model: keras.Model) -> None:
    taken = 0

    def chunks() -> Iterator[NDArray[np.uint8]]:
        nonlocal taken
        for start in range(0, len(IMAGES), 20):
            taken += 1
            yield IMAGES[start : start + 20]

    stream = prediction.predictor(model)(chunks())
    first = next(stream)
    assert taken == 1
    np.testing.assert_allclose(
        np.concatenate([first, *stream]), prediction.predict(model, IMAGES), rtol=1e-5
    )


class CountsTraces(keras.layers.Layer):  # type: ignore[misc]
    traces = 0

    def call(self, inputs: Any) -> Any:
        CountsTraces.traces += 1
        return keras.ops.mean(keras.ops.cast(inputs[:, :10], "float32"), axis=(2, 3))


def test_chunks_of_every_size_are_traced_once() -> None:
    predict = prediction.predictor(keras.Sequential([keras.Input((28, 28, 1)), CountsTraces()]))
    CountsTraces.traces = 0
    means = list(predict([IMAGES, IMAGES[:1], IMAGES[:7]]))
    assert [len(chunk) for chunk in means] == [70, 1, 7]
    assert CountsTraces.traces == 1


def test_changed_weights_show(model: keras.Model) -> None:
    model = keras.models.clone_model(model)
    predict = prediction.predictor(model)
    before = next(predict([IMAGES]))
    model.set_weights([weight * 2 for weight in model.get_weights()])
    assert not np.allclose(next(predict([IMAGES])), before)


def test_a_saved_network_predicts_the_same(model: keras.Model, tmp_path: Path) -> None:
    model.save(tmp_path / "model.keras")
    loaded = prediction.load(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        prediction.predict(loaded, IMAGES), prediction.predict(model, IMAGES)
    )


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match=r"none\.keras is not there"):
        prediction.load(tmp_path / "none.keras")


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_a_cut_file_is_named(model: keras.Model, tmp_path: Path, kept: float) -> None:
    path = tmp_path / "model.keras"
    model.save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(PermanentError, match=r"model\.keras .*not a complete Keras model"):
        prediction.load(path)


def test_altered_weights_are_noticed(model: keras.Model, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    model.save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(PermanentError, match="cannot be read"):
        prediction.load(path)


def test_code_in_a_model_file_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x + 1)]).save(path)
    with pytest.raises(PermanentError, match="cannot be read"):
        prediction.load(path)
