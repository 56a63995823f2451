"""Augmentation: digits stay digits, nothing comes from outside, the seed decides everything."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from model import augmentation
from model.augmentation import warp
from model.sample import sample_digits

IMAGES = sample_digits()[0][:64]
SEED = tf.constant([3, 5])


def test_the_seed_decides_everything() -> None:
    once, again = (warp(IMAGES, SEED).numpy() for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert (warp(IMAGES, SEED + 1).numpy() != once).any()


def test_each_image_is_warped_differently() -> None:
    warped = warp(np.repeat(IMAGES[:1], 8, axis=0), SEED).numpy()
    assert len(np.unique(warped.reshape(8, -1), axis=0)) == 8


def test_what_comes_from_outside_is_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "SHIFT", 1000.0)
    assert warp(np.full((16, 28, 28, 1), 255, np.uint8), SEED).numpy().max() == 0


def test_without_any_warp_it_is_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ROTATION", "ZOOM", "SHEAR", "SHIFT"):
        monkeypatch.setattr(augmentation, name, 0.0)
    np.testing.assert_allclose(warp(IMAGES, SEED).numpy(), IMAGES, atol=0.01)


@pytest.mark.parametrize(
    ("only", "amount", "unmoved"),
    [("ROTATION", 3.1, (13.5, 13.5)), ("ZOOM", 0.5, (13.5, 13.5)), ("SHEAR", 1.0, (13.5, 13.5))],
)
def test_all_but_a_shift_keep_the_centre(
    only: str, amount: float, unmoved: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ROTATION", "ZOOM", "SHEAR", "SHIFT"):
        monkeypatch.setattr(augmentation, name, amount if name == only else 0.0)
    a, b, c, d, e, f, *_ = augmentation._inverse_maps(50, SEED).numpy().T
    x, y = unmoved
    np.testing.assert_allclose(a * x + b * y + c, x, atol=1e-4)
    np.testing.assert_allclose(d * x + e * y + f, y, atol=1e-4)
    if only == "ROTATION":  # lengths and areas stay
        np.testing.assert_allclose(a * e - b * d, 1, atol=1e-4)


def test_every_kind_of_warp_is_used_up_to_its_limit() -> None:
    a, b, c, d, e, f, *_ = augmentation._inverse_maps(10_000, SEED).numpy().T
    angles = np.arctan2(d, a)
    moved_x, moved_y = (a + b - 1) * 13.5 + c, (d + e - 1) * 13.5 + f
    for values, limit in (
        (angles, augmentation.ROTATION),
        (np.log(np.hypot(a, d)), augmentation.ZOOM),
        (moved_x, augmentation.SHIFT),
        (moved_y, augmentation.SHIFT),
    ):
        assert 0.99 * limit < values.max() <= limit * 1.001
        assert -0.99 * limit > values.min() >= -limit * 1.001


def test_a_digit_keeps_about_its_ink() -> None:
    ink, before = (
        images.astype(float).mean(axis=(1, 2, 3)) for images in (warp(IMAGES, SEED).numpy(), IMAGES)
    )
    ratio = ink / before
    assert 0.9 < np.median(ratio) < 1.1
    assert 0.5 < ratio.min() <= ratio.max() < 2
