"""Augmentation: digits stay digits, nothing comes from outside, the seed decides everything."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from model import augmentation
from model.augmentation import PIECE, augment, dilate_or_erode, view, warp
from model.sample import sample_digits

IMAGES = sample_digits()[0][:64]
SEED = tf.constant([3, 5])
KINDS = ("ROTATION", "ZOOM", "SHEAR", "SHIFT", "BEND", "STROKES")


def maps(count: int) -> NDArray[np.float32]:
    """Random maps, float32 (6, count), as ``warp`` makes them."""
    amounts = tf.random.stateless_uniform((6, count), SEED, -1, 1)
    made: NDArray[np.float32] = augmentation._inverse_maps(amounts).numpy().T
    return made


def test_the_seed_decides_everything() -> None:
    once, again = (augment(IMAGES, SEED).numpy() for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert (augment(IMAGES, SEED + 1).numpy() != once).any()


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_changes_each_image_differently(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in KINDS:
        if other != kind:
            monkeypatch.setattr(augmentation, other, 0.0)
    changed = augment(np.repeat(IMAGES[:1], 8, axis=0), SEED).numpy()
    assert len(np.unique(changed.reshape(8, -1), axis=0)) == 8


def test_what_comes_from_outside_is_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "SHIFT", 1000.0)
    assert warp(np.full((16, 28, 28, 1), 255, np.uint8), SEED).numpy().max() == 0


def test_without_any_change_it_is_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KINDS:
        monkeypatch.setattr(augmentation, name, 0.0)
    np.testing.assert_allclose(augment(IMAGES, SEED).numpy(), IMAGES, atol=0.01)


@pytest.mark.parametrize(
    ("only", "amount", "unmoved"),
    [("ROTATION", 3.1, (13.5, 13.5)), ("ZOOM", 0.5, (13.5, 13.5)), ("SHEAR", 1.0, (13.5, 13.5))],
)
def test_all_but_a_shift_keep_the_centre(
    only: str, amount: float, unmoved: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in KINDS:
        monkeypatch.setattr(augmentation, name, amount if name == only else 0.0)
    a, b, c, d, e, f = maps(50)
    x, y = unmoved
    np.testing.assert_allclose(a * x + b * y + c, x, atol=1e-4)
    np.testing.assert_allclose(d * x + e * y + f, y, atol=1e-4)
    if only == "ROTATION":  # lengths and areas stay
        np.testing.assert_allclose(a * e - b * d, 1, atol=1e-4)


def test_every_kind_of_warp_is_used_up_to_its_limit() -> None:
    a, b, c, d, e, f = maps(10_000)
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


def test_width_and_height_are_zoomed_independently() -> None:
    a, b, _, d, e, _ = maps(1_000)
    width, area = np.hypot(a, d), a * e - b * d
    assert abs(np.corrcoef(np.log(width), np.log(area / width))[0, 1]) < 0.2


def test_pixels_are_bent_smoothly_and_by_the_stated_amount() -> None:
    bends = np.stack(augmentation._bends(2_000, SEED))
    at_a_knot = (1 / 6) ** 2 * 2 + (2 / 3) ** 2  # the sum of its weights' squares, each way
    assert bends[:, :, 0, 0].std() == pytest.approx(augmentation.BEND * at_a_knot, rel=0.05)
    assert abs(bends.mean()) < 0.02
    neighbours = np.abs(np.diff(bends, axis=-1)).max()
    assert 0.1 < neighbours < 1  # never so far that strokes would fold over


def test_weights_of_knots_add_up_everywhere() -> None:
    np.testing.assert_allclose(augmentation._spline().sum(axis=1), 1, rtol=1e-6)


def test_what_lies_between_pixels_is_their_weighted_mean() -> None:
    image = np.zeros((1, 28, 28, 1), np.uint8)
    image[0, 10, 20], image[0, 10, 21], image[0, 11, 20], image[0, 11, 21] = 10, 20, 40, 80
    moved = np.array([[1, 0, 0.25, 0, 1, 0.5]], np.float32)
    mean = 0.5 * (0.75 * 10 + 0.25 * 20) + 0.5 * (0.75 * 40 + 0.25 * 80)
    sampled = augmentation._sampled(image, *augmentation._mapped(moved)).numpy()
    assert sampled[0, 10, 20, 0] == pytest.approx(mean)
    rounded = augmentation.transform(image, lambda _: moved)
    assert rounded.dtype == np.uint8
    assert rounded[0, 10, 20, 0] == round(mean)


def test_strokes_become_thicker_and_thinner_by_up_to_half_a_pixel() -> None:
    stroke = np.zeros((1, 28, 28, 1), np.float32)
    stroke[:, 5:24, 12:16] = 255
    widths = dilate_or_erode(np.repeat(stroke, 500, axis=0), SEED).numpy()[:, 14].sum(axis=(1, 2))
    np.testing.assert_allclose([widths.min(), widths.max()], [255 * 3, 255 * 5], rtol=0.01)
    assert widths.mean() == pytest.approx(255 * 4, rel=0.02)


def test_a_digit_keeps_about_its_ink() -> None:
    ink, before = (
        images.astype(float).mean(axis=(1, 2, 3))
        for images in (augment(IMAGES, SEED).numpy(), IMAGES)
    )
    ratio = ink / before
    assert 0.9 < np.median(ratio) < 1.1
    assert 0.5 < ratio.min() <= ratio.max() < 2


@pytest.mark.parametrize("share", [0.5, -0.5])
def test_a_view_warps_all_images_alike_and_less_than_training_does(share: float) -> None:
    seen = view(IMAGES, share)
    assert seen.shape == IMAGES.shape
    assert seen.dtype == np.uint8
    change = np.abs(seen.astype(int) - IMAGES).mean()
    assert 0 < change < np.abs(view(IMAGES, 2 * share).astype(int) - IMAGES).mean()
    a, b, c, d, *_ = augmentation._inverse_maps(np.full((6, 1), share, np.float32)).numpy()[0]
    assert np.arctan2(d, a) == pytest.approx(share * augmentation.ROTATION)
    assert (a + b - 1) * 13.5 + c == pytest.approx(share * augmentation.SHIFT, abs=1e-4)
    many = np.concatenate([np.repeat(IMAGES, PIECE // 64, axis=0), IMAGES])
    np.testing.assert_array_equal(view(many, share)[-64:], seen)


def test_the_view_that_is_not_warped_is_the_very_same_array() -> None:
    assert view(IMAGES, 0) is IMAGES
