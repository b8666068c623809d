"""Claims about augmentation."""

from __future__ import annotations

import numpy as np
import pytest

from core.data.augment import Augment
from core.data.samplers import philox

STILL = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
PIXELS = np.random.default_rng(0).integers(60, 190, (3, 6, 6), np.uint8)


def test_the_same_generator_gives_the_same_picture_and_leaves_the_input() -> None:
    before = PIXELS.copy()
    pictures = [Augment()(PIXELS, philox(1, step)) for step in (4, 4, 5)]
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])
    np.testing.assert_array_equal(PIXELS, before)
    assert pictures[0].dtype == np.uint8


def test_nothing_allowed_changes_nothing() -> None:
    nothing = Augment(flips=False, rotations=False, **STILL)
    np.testing.assert_array_equal(nothing(PIXELS, philox(0)), PIXELS)


def test_flips_and_turns_reach_all_eight_symmetries_and_no_other_picture() -> None:
    views = {Augment(**STILL)(PIXELS, philox(0, step)).tobytes() for step in range(120)}
    expected = {
        np.ascontiguousarray(np.rot90(side, turns, (1, 2))).tobytes()
        for side in (PIXELS, PIXELS[:, :, ::-1])
        for turns in range(4)
    }
    assert views == expected
    upright = {Augment(rotations=False, **STILL)(PIXELS, philox(0, step)).tobytes() for step in range(60)}
    assert upright == {PIXELS.tobytes(), np.ascontiguousarray(PIXELS[:, :, ::-1]).tobytes()}


def test_hue_and_saturation_leave_grey_alone_and_change_colour() -> None:
    jitter = Augment(flips=False, rotations=False, brightness=0, contrast=0, saturation=0.8, hue=0.3)
    grey = np.repeat(PIXELS[:1], 3, axis=0)
    assert np.abs(jitter(grey, philox(2)).astype(int) - grey).max() <= 1
    assert np.abs(jitter(PIXELS, philox(2)).astype(int) - PIXELS).max() > 10


def test_contrast_keeps_the_mean_and_brightness_stays_in_its_range() -> None:
    contrast = Augment(flips=False, rotations=False, brightness=0, contrast=0.3, saturation=0, hue=0)
    brighter = Augment(flips=False, rotations=False, brightness=0.2, contrast=0, saturation=0, hue=0)
    grey = np.repeat(PIXELS[:1], 3, axis=0)
    for step in range(20):
        assert contrast(grey, philox(step)).mean() == pytest.approx(grey.mean(), abs=0.6)
        ratio = brighter(grey, philox(step)).mean() / grey.mean()
        assert 0.79 < ratio < 1.21
