"""Claims about augmentation."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from core.data.augment import DRAWS, Augment

STILL = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
PIXELS = np.random.default_rng(0).integers(60, 190, (3, 6, 6), np.uint8)
GREY = np.repeat(PIXELS[:1], 3, axis=0)


def many(augment: Augment, image: np.ndarray, count: int) -> np.ndarray:
    """Views of one image, each by draws of its own, [count, 3, s, s]."""
    return augment(np.repeat(image[None], count, axis=0), np.random.default_rng(1).random((count, DRAWS)))


def test_an_image_depends_on_its_own_draws_alone_and_the_input_stays() -> None:
    images = np.random.default_rng(2).integers(0, 255, (5, 3, 6, 6), np.uint8)
    draws, before = np.random.default_rng(3).random((5, DRAWS)), images.copy()
    together = Augment()(images, draws)
    assert together.dtype == np.uint8
    for number in range(5):
        one = slice(number, number + 1)
        np.testing.assert_array_equal(Augment()(images[one], draws[one])[0], together[number])
    assert not np.array_equal(Augment()(images, draws[::-1]), together)
    np.testing.assert_array_equal(images, before)


def test_nothing_allowed_changes_nothing() -> None:
    nothing = Augment(flips=False, rotations=False, **STILL)
    for view in many(nothing, PIXELS, 4):
        np.testing.assert_array_equal(view, PIXELS)


def test_flips_and_turns_reach_all_eight_symmetries_and_no_other_picture() -> None:
    views = {view.tobytes() for view in many(Augment(**STILL), PIXELS, 120)}
    expected = {
        np.ascontiguousarray(np.rot90(side, turns, (1, 2))).tobytes()
        for side in (PIXELS, PIXELS[:, :, ::-1])
        for turns in range(4)
    }
    assert views == expected
    upright = {view.tobytes() for view in many(Augment(rotations=False, **STILL), PIXELS, 60)}
    assert upright == {PIXELS.tobytes(), np.ascontiguousarray(PIXELS[:, :, ::-1]).tobytes()}


def test_hue_and_saturation_leave_grey_alone_and_change_colour() -> None:
    jitter = Augment(flips=False, rotations=False, brightness=0, contrast=0, saturation=0.8, hue=0.3)
    assert np.abs(many(jitter, GREY, 9).astype(int) - GREY).max() <= 1
    assert np.abs(many(jitter, PIXELS, 9).astype(int) - PIXELS).max() > 10


def test_a_third_of_a_turn_of_hue_makes_red_green_or_blue() -> None:
    turn = Augment(flips=False, rotations=False, brightness=0, contrast=0, saturation=0, hue=1 / 3)
    red = np.full((1, 3, 2, 2), 80, np.uint8)
    red[:, 0] = 140
    for draw in (0.0, 1 - 1e-9):  # both ends of the range: a third of a circle either way
        r, g, b = (float(channel.mean()) for channel in turn(red, np.array([[0, 0, 0, 0, 0, draw]]))[0])
        hue = colorsys.rgb_to_hsv(r, g, b)[0]
        assert min(abs(hue - 1 / 3), abs(hue - 2 / 3)) < 0.06  # YIQ's circle is not quite HSV's


def test_contrast_keeps_the_mean_and_brightness_stays_in_its_range() -> None:
    contrast = Augment(flips=False, rotations=False, brightness=0, contrast=0.3, saturation=0, hue=0)
    brighter = Augment(flips=False, rotations=False, brightness=0.2, contrast=0, saturation=0, hue=0)
    assert many(contrast, GREY, 20).mean(axis=(1, 2, 3)) == pytest.approx(np.full(20, GREY.mean()), abs=0.6)
    ratio = many(brighter, GREY, 200).mean(axis=(1, 2, 3)) / GREY.mean()
    assert 0.79 < ratio.min() < 0.85
    assert 1.15 < ratio.max() < 1.21
