"""Each mishap leaves of a pair what its name says, in both eyes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from benchmarks.shared.pairs import Eyes
from benchmarks.shared.spoiled import MISHAPS, Mishap, spoiled


def eyes(shape: tuple[int, ...] = (48, 64, 3), seed: int = 0) -> Eyes:
    random = np.random.default_rng(seed)
    small = random.integers(30, 200, (6, 8, *shape[2:]), np.uint8)
    left = np.asarray(cv2.resize(small, shape[1::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
    return left, np.roll(left, -3, axis=1)


def made(mishap: Mishap, seed: int = 0) -> Eyes:
    return spoiled(eyes(), mishap, np.random.default_rng(seed), before=eyes(seed=1))


@pytest.mark.parametrize("shape", [(48, 64, 3), (48, 64), (32, 32, 3)])
@pytest.mark.parametrize("mishap", MISHAPS)
def test_keeps_shape_and_type_leaves_the_original_alone_and_repeats_under_a_seed(
    mishap: Mishap, shape: tuple[int, ...]
) -> None:
    whole, before = eyes(shape), eyes(shape, seed=1)
    again = [spoiled(whole, mishap, np.random.default_rng(7), before=before) for _ in range(2)]
    for left, right in again:
        assert left.shape == right.shape == shape
        assert left.dtype == right.dtype == np.uint8
    assert all(np.array_equal(one, other) for one, other in zip(*again, strict=True))
    assert all(np.array_equal(one, other) for one, other in zip(whole, eyes(shape), strict=True))


def test_noise_is_uniform_and_differs_between_the_eyes() -> None:
    left, right = made("noise")
    assert abs(float(left.mean()) - 127.5) < 5
    assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < 0.05


def test_flat_is_one_tone_in_both_eyes_and_another_one_under_another_seed() -> None:
    left, right = made("flat")
    assert left.std() < 3
    assert right.std() < 3
    assert abs(float(left.mean()) - float(right.mean())) < 1
    assert abs(float(made("flat", seed=5)[0].mean()) - float(left.mean())) > 5


def test_motion_blur_removes_detail_and_keeps_the_light() -> None:
    (sharp, _), (left, _) = eyes(), made("motion_blur")
    assert cv2.Laplacian(left, cv2.CV_64F).var() < 0.3 * cv2.Laplacian(sharp, cv2.CV_64F).var()
    assert abs(float(left.mean()) - float(sharp.mean())) < 5


def test_motion_blur_goes_the_same_way_in_both_eyes() -> None:
    left, right = made("motion_blur")
    inner = slice(20, -20)
    apart = left.astype(int) - np.roll(right, 3, axis=1)
    assert np.abs(apart[inner, inner]).max() <= 1  # rounding


def test_a_lens_cap_is_nearly_black_and_over_exposure_nearly_white() -> None:
    assert max(eye.max() for eye in made("lens_cap")) < 20
    assert np.mean(made("over_exposed")[0] == 255) > 0.7


def test_frozen_is_the_pair_before_once_more() -> None:
    assert all(np.array_equal(one, other) for one, other in zip(made("frozen"), eyes(seed=1), strict=True))
