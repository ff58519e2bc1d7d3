"""Pictures for the simulated world: procedural kinds, pyramids, photographs from a folder."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.sim.textures import (
    KINDS,
    PHOTO_SIDE,
    Gallery,
    Paint,
    Photographs,
    cropped,
    framed,
    picture,
    pyramid,
    repeatable,
)
from stream.image import Image


def grey(height: int, width: int, level: int = 128) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((height, width, 3), level, np.uint8)


@pytest.mark.parametrize("kind", range(len(KINDS)))
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32))
def test_every_kind_of_picture_has_contrast_and_stays_in_range(kind: int, seed: int) -> None:
    field = KINDS[kind](np.random.default_rng(seed), 64)
    assert field.shape == (64, 64)
    assert field.dtype == np.float32
    assert np.isfinite(field).all()
    assert field.std() > 0.02
    assert -0.2 <= field.min() <= field.max() <= 1.2


def test_pictures_are_different_and_follow_from_the_seed() -> None:
    one, two = (np.random.default_rng(0) for _ in range(2))
    first = [picture(one) for _ in range(40)]
    assert all(np.array_equal(image, picture(two)) for image in first)
    assert len({image.tobytes() for image in first}) == 40


@given(height=st.integers(1, 300), width=st.integers(1, 300))
def test_each_level_of_a_pyramid_is_half_the_one_before(height: int, width: int) -> None:
    levels = pyramid(grey(height, width))
    for one, next_one in pairwise(levels):
        assert next_one.shape[:2] == (one.shape[0] // 2, one.shape[1] // 2)
    assert all((level == 128).all() for level in levels)
    assert min(levels[-1].shape[:2]) < 8


@given(height=st.integers(8, 200), width=st.integers(8, 200), aspect=st.floats(0.3, 3.0))
def test_cropping_keeps_the_middle_and_gives_the_aspect(height: int, width: int, aspect: float) -> None:
    cut = cropped(grey(height, width), aspect)
    got_height, got_width = cut.shape[:2]
    assert got_height == height or got_width == width
    assert abs(got_width - aspect * got_height) <= 1 + aspect


def test_a_frame_lies_inside_the_size_of_the_image() -> None:
    image = framed(grey(64, 96), 25)
    assert image.shape == (64, 96, 3)
    assert (image[0] == 25).all()
    assert (image[32, 48] == 128).all()


def test_photographs_come_in_an_order_that_only_the_seed_decides_and_start_again(tmp_path: Path) -> None:
    for level in range(6):
        cv2.imwrite(str(tmp_path / f"{level}.png"), grey(20, 20, 40 * level))
    seen = [
        [int(photographs()[0, 0, 0]) for _ in range(12)]
        for photographs in (Photographs(tmp_path, np.random.default_rng(seed)) for seed in (0, 0, 1))
    ]
    assert seen[0] == seen[1] != seen[2]
    assert seen[0][:6] == seen[0][6:]
    assert sorted(seen[0][:6]) == [0, 40, 80, 120, 160, 200]


def test_names_that_are_no_text_and_pipes_among_photographs_stop_nothing(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), grey(50, 70))
    (tmp_path / "a.png").rename(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xfc.png")))
    os.mkfifo(tmp_path / "pipe.png")
    photographs = Photographs(tmp_path, np.random.default_rng(0))
    assert [photographs().shape for _ in range(2)] == [(50, 70, 3)] * 2
    assert photographs.unreadable > 0


def test_large_photographs_are_reduced_and_tiny_ones_count_as_unreadable(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "large.png"), grey(700, 1000))
    cv2.imwrite(str(tmp_path / "tiny.png"), grey(2, 2))
    (tmp_path / "cut.png").write_bytes((tmp_path / "large.png").read_bytes()[:40])
    (tmp_path / "folder.png").mkdir()
    photographs = Photographs(tmp_path, np.random.default_rng(0))
    images = [photographs() for _ in range(5)]
    assert {image.shape for image in images} == {(round(PHOTO_SIDE * 0.7), PHOTO_SIDE, 3)}
    assert photographs.unreadable == 3


def test_a_gallery_gives_the_same_textures_within_its_bytes_however_often_they_were_painted() -> None:
    generator = np.random.default_rng(5)
    paints = [repeatable(generator, picture) for _ in range(12)]
    whole = [pyramid(paint()) for paint in paints]
    size_bytes = sum(level.nbytes for level in whole[0])
    painted = 0

    def counted(paint: Paint) -> Paint:
        def again() -> Image:
            nonlocal painted
            painted += 1
            return paint()

        return again

    gallery = Gallery(5 * size_bytes)
    counting = [counted(paint) for paint in paints]
    for k in np.random.default_rng(6).integers(0, 12, 300):
        texture = gallery.texture(counting[k])
        assert all(np.array_equal(one, other) for one, other in zip(texture, whole[k], strict=True))
        assert gallery.bytes <= 5 * size_bytes
    assert 12 < painted < 300
    before = painted
    for _ in range(20):
        for k in (0, 3, 7):
            gallery.texture(counting[k])
    assert painted <= before + 3, "what was seen last is kept"


def test_what_can_be_painted_again_leaves_the_generator_where_painting_once_does() -> None:
    one, other = np.random.default_rng(8), np.random.default_rng(8)
    paint = repeatable(one, picture)
    image = picture(other)
    assert one.bit_generator.state == other.bit_generator.state
    one.random(3)
    assert np.array_equal(paint(), image)
    assert np.array_equal(paint(), image)
