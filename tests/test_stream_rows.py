"""The vertical offset of two images is found from matches, where there are enough, and a plain one is cut off."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from painted_cameras import speckles

from stream.calibration.rows import matched_rows, row_offset, shifted
from stream.image import Image

SIZE = (288, 400)


def two_depths(rows: float, seed: int = 0, noise: float = 3.0) -> tuple[Image, Image]:
    """A wall and a nearer board before it, `rows` px lower in the right image, with the noise of two sensors."""
    height, width = SIZE
    wall, board = speckles(seed, (400, 500)), speckles(seed + 1, (120, 160))
    random, eyes = np.random.default_rng(seed), []
    for lower, wall_x, board_x in ((0.0, 40, 130), (rows, 50, 105)):
        image = cv2.warpAffine(wall, np.array([[1, 0, -wall_x], [0, 1, lower - 20]], np.float32), (width, height))
        near = np.array([[1, 0, board_x], [0, 1, lower + 80]], np.float32)
        mask = cv2.warpAffine(np.ones_like(board), near, (width, height), flags=cv2.INTER_NEAREST)
        image = np.where(mask, cv2.warpAffine(board, near, (width, height)), image)
        eyes.append(np.clip(image + random.normal(0, noise, SIZE), 0, 255).astype(np.uint8))
    return eyes[0], eyes[1]


@pytest.mark.parametrize("rows", [0, 3, 11, -6, 2.5])
def test_the_offset_is_found_whatever_the_depth(rows: float) -> None:
    left, right = two_depths(rows)
    offset = row_offset([matched_rows(left, right)], SIZE[0])
    assert offset is not None
    assert offset.px == pytest.approx(rows, abs=0.5)
    assert offset.spread_px < 1
    assert offset.matches >= 100


def test_the_matches_of_several_pairs_are_one_measurement_and_colour_is_as_grey() -> None:
    pairs = [two_depths(3, seed) for seed in range(3)]
    found = [matched_rows(*(np.repeat(eye[..., None], 3, axis=2) for eye in pair)) for pair in pairs]
    offset = row_offset(found, SIZE[0])
    assert offset is not None
    assert offset.px == pytest.approx(3, abs=0.3)
    assert offset.matches == pytest.approx(sum(map(len, found)), rel=0.2)
    assert "3.0 px lower in the right image" in offset.describe()


def test_a_wide_image_is_reduced_and_its_offset_is_in_its_own_pixels() -> None:
    left, right = (cv2.resize(eye, None, fx=4, fy=4) for eye in two_depths(3))
    offset = row_offset([matched_rows(np.asarray(left, np.uint8), np.asarray(right, np.uint8))], left.shape[0])
    assert offset is not None
    assert offset.px == pytest.approx(12, abs=1)


def test_nothing_is_said_of_images_that_show_nothing_or_have_nothing_in_common() -> None:
    flat = np.full(SIZE, 90, np.uint8)
    for left, right in ((flat, flat), (flat, speckles(0, SIZE)), (speckles(1, SIZE), speckles(2, SIZE))):
        assert row_offset([matched_rows(left, right)], SIZE[0]) is None
    assert row_offset([], SIZE[0]) is None


@pytest.mark.parametrize("size", [(1, 1), (1, 320), (320, 1), (2, 8192), (4, 8192), (396, 8192), (62, 400), (400, 62)])
def test_low_and_narrow_images_have_no_match(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assert len(matched_rows(noise, noise)) == 0
    assert row_offset([matched_rows(noise, noise)], size[0]) is None


def test_a_turned_camera_shows_in_the_spread() -> None:
    left, right = two_depths(0)
    turn = cv2.getRotationMatrix2D((200, 144), 2.5, 1.0)
    right = np.asarray(cv2.warpAffine(right, turn, SIZE[::-1]), np.uint8)
    offset = row_offset([matched_rows(left, right)], SIZE[0])
    assert offset is not None
    assert offset.spread_px > 2


@pytest.mark.parametrize("rows", [3, -6, 0])
def test_after_a_shift_equal_rows_show_the_same_things(rows: int) -> None:
    left, right = shifted(*two_depths(rows, noise=0), rows)
    assert left.shape == right.shape == (SIZE[0] - abs(rows), SIZE[1])
    np.testing.assert_array_equal(left[60:200, 300:330], right[60:200, 290:320])
    with pytest.raises(ValueError, match="leaves nothing"):
        shifted(left, right, 288)
