"""Forms of digits: upright, of one width, centred; and what has no digit stays as it is."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from model.augmentation import PIECE, Images
from model.forms import CENTRE, INK, WIDTH, in_form
from model.recipes import Form
from model.sample import sample_digits

IMAGES = sample_digits()[0][:64]
FORMS: list[Form] = [form for form in get_args(Form) if form != "drawn"]


def stroke(slant: float = 0.0, *, x: int = 13, width: int = 3) -> Images:
    """A straight stroke, ``slant`` pixels further left a row."""
    image = np.zeros((1, 28, 28, 1), np.uint8)
    for y in range(5, 24):
        left = round(x - slant * (y - 14)) - width // 2
        image[0, y, left : left + width] = 255
    return image


def box(image: Images) -> tuple[int, int, int, int]:
    """The first and last row and column with ink."""
    rows, columns = np.nonzero(image[..., 0] > INK)
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


def test_as_drawn_nothing_is_copied() -> None:
    assert in_form(IMAGES, "drawn") is IMAGES


@pytest.mark.parametrize("slant", [-0.5, 0.0, 0.3])
def test_an_upright_stroke_is_where_a_slanted_one_was(slant: float) -> None:
    top, bottom, left, right = box(in_form(stroke(slant, x=11), "upright")[0])
    assert bottom - top in (18, 19)  # moved by half a pixel it touches one row more
    assert right - left <= 5  # of 12 where it slants by half a pixel a row
    assert (top + bottom) / 2 == pytest.approx(CENTRE, abs=1)
    assert (left + right) / 2 == pytest.approx(CENTRE, abs=1)


def test_digits_have_one_width() -> None:
    stretched = 0
    for before, after in zip(IMAGES, in_form(IMAGES, "wide"), strict=True):
        _, _, left, right = box(before)
        if 1 / 1.5 < (right - left + 1) / WIDTH < 1.5:  # else it is stretched to the limit
            top, bottom, left, right = box(after)
            assert right - left + 1 == pytest.approx(WIDTH, abs=2)
            assert (left + right) / 2 == pytest.approx(CENTRE, abs=1)
            assert (top + bottom) / 2 == pytest.approx(CENTRE, abs=1)
            stretched += 1
    assert stretched >= 10


def test_a_thin_stroke_stays_one() -> None:
    *_, left, right = box(in_form(stroke(), "wide")[0])
    assert right - left + 1 <= 6


@pytest.mark.parametrize("form", FORMS)
def test_each_image_is_changed_independently_of_the_others(form: Form) -> None:
    many = np.concatenate([np.repeat(IMAGES, PIECE // 64, axis=0), IMAGES])
    np.testing.assert_array_equal(in_form(many, form)[-64:], in_form(IMAGES, form))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("grey", [0, 255])
def test_an_image_without_a_digit_is_no_error(form: Form, grey: int) -> None:
    image = np.full((2, 28, 28, 1), grey, np.uint8)
    changed = in_form(image, form)
    assert changed.shape == image.shape
    assert changed.dtype == np.uint8
    if not grey:
        assert not changed.any()


@pytest.mark.parametrize("form", FORMS)
def test_a_single_dark_pixel_is_no_error(form: Form) -> None:
    image = np.zeros((1, 28, 28, 1), np.uint8)
    image[0, 3, 4] = 255
    assert in_form(image, form).any()
