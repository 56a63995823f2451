"""The networks."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from model import networks
from tests.benchmarks import one


def pixels(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28, 1), np.uint8)


def weights(model: keras.Model) -> list[bytes]:
    return [weight.numpy().tobytes() for weight in model.trainable_variables]


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_raw_pixels_give_ten_probabilities(name: str) -> None:
    probabilities = networks.build(name, seed=0)(pixels(3)).numpy()
    assert probabilities.shape == (3, 10)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_the_reference_predicts_and_drops_as_the_usual_notebook_network_does() -> None:
    ours, theirs = networks.build("reference", seed=0), one.plain_network()
    theirs.set_weights([weight.numpy() for weight in ours.trainable_variables])
    images = pixels(20)  # with ink on the border too
    np.testing.assert_allclose(ours(images), theirs(images / 255), rtol=1e-4)
    rates = [
        [layer.rate for layer in network.layers if isinstance(layer, keras.layers.Dropout)]
        for network in (ours, theirs)
    ]
    assert rates[0] == rates[1] != []


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_computes_in_bfloat16_up_to_the_logits_and_only_within_the_context(name: str) -> None:
    model = networks.build(name, seed=0)
    before = weights(model)
    exact = model(pixels(3)).numpy()
    with networks.computing_in("bfloat16", model):
        assert [layer.compute_dtype for layer in model.layers[-3:]] == [
            "bfloat16",
            "float32",
            "float32",
        ]
        rounded = model(pixels(3)).numpy()
    assert 0 < np.abs(rounded - exact).max() < 0.05
    assert weights(model) == before
    np.testing.assert_array_equal(model(pixels(3)).numpy(), exact)


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    def built(seed: int, others: int) -> list[bytes]:
        keras.utils.set_random_seed(others)  # of Python's, NumPy's, TensorFlow's, Keras' generators
        return weights(networks.build(name, seed))

    assert built(seed=1, others=8) == built(seed=1, others=9)
    assert built(seed=2, others=9) != built(seed=1, others=9)


def test_the_first_filters_of_small_are_given() -> None:
    (first, *_) = networks.build("small", seed=1).weights
    assert not first.trainable
    filters = first.numpy().reshape(25, 16)
    np.testing.assert_allclose(np.linalg.norm(filters, axis=0), 1, rtol=1e-6)
    np.testing.assert_allclose(filters.sum(axis=0), 0, atol=1e-6)  # blind to an even surface
    alike = filters.T @ filters
    opposite = np.arange(16) ^ 2  # of four phases the one after next: dark where it is light
    np.testing.assert_allclose(alike[np.arange(16), opposite], -1, rtol=1e-5)
    alike[np.arange(16), np.arange(16)] = alike[np.arange(16), opposite] = 0
    assert np.abs(alike).max() < 0.7  # no two of the others see the same


def test_a_step_and_a_stripe_each_find_their_filter() -> None:
    """Of the filters of one direction, the edge responds most to a step, the bar to a stripe."""
    bar, _, _, edge = networks.edges_and_bars()[:, :, 0, :4].transpose(2, 0, 1)
    step, stripe = np.zeros((5, 5)), np.zeros((5, 5))
    step[:, 3:] = stripe[:, 2] = 1
    assert (step * edge).sum() > 2 * abs((step * bar).sum())
    assert (stripe * bar).sum() > 2 * abs((stripe * edge).sum())
