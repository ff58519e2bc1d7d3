"""From pairs to crops, each step against a rendering in NumPy; augmentation parameters are read off probe images.

An augmentation draws its parameters before it looks at a pixel. So a probe batch whose response betrays them (a constant, a
delta, a colour) and a batch of noise, both under one seed, are changed by the same amounts.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from seed_formulas import cut
from torch import Tensor

from learner.errors import SettingsError
from learner.views.augment import STUDENT_AUGMENTATION, TEACHER_AUGMENTATION, Augmentation, augment, blur, hue_matrix
from learner.views.crops import crop, fit_gaussian, focus_window, shrink, to_rgb, windows_inside

Array = NDArray[np.float64]

NOTHING = dict.fromkeys(Augmentation.__dataclass_fields__, 0.0)
LUMA = np.array([0.299, 0.587, 0.114])
KITTI = 1242 / 376


pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=seeded(seed))


def lying(images: Tensor) -> Tensor:
    """[B, 3, H, W] as images lie in memory: [B, H, W, 3]."""
    return images.permute(0, 2, 3, 1)


def only(**changes: float) -> Augmentation:
    return Augmentation(**(NOTHING | changes))


def augmented(rgb: Tensor, seed: int = 3, **changes: float) -> Array:
    return np.asarray(augment(rgb, only(**changes), seeded(seed)), dtype=np.float64)


def grey_of(rgb: Array) -> Array:
    """[B, 3, S, S] to [B, 1, S, S]."""
    return np.asarray(np.einsum("bchw,c->bhw", rgb, LUMA)[:, None])


# Colours


def test_colours_are_flipped_once_and_scaled_to_one() -> None:
    bgr = torch.tensor([255, 102, 0], dtype=torch.uint8).expand(1, 2, 4, 3).clone()
    bgr[0, 1, 3] = torch.tensor([0, 0, 51])
    rgb = to_rgb(bgr.permute(0, 3, 1, 2))
    assert rgb.shape == (1, 3, 2, 4)
    assert rgb.dtype == torch.float32
    assert rgb[0, :, 0, 0].tolist() == pytest.approx([0, 0.4, 1])
    assert rgb[0, :, 1, 3].tolist() == pytest.approx([0.2, 0, 0])


@pytest.mark.parametrize(("height", "width", "size"), [(120, 160, 48), (24, 32, 24), (10, 14, 28)])
def test_a_shrunk_image_is_the_antialiased_one_in_whole_numbers(height: int, width: int, size: int) -> None:
    images = (255 * noise(2, height, width, 3)).to(torch.uint8)
    planes = images.permute(0, 3, 1, 2).float()
    exact = torch.nn.functional.interpolate(planes, (size, size), mode="bilinear", antialias=True)
    shrunk = shrink(images, size)
    assert shrunk.shape == (2, 3, size, size)
    assert (shrunk.float() - exact).abs().max() <= 1.01  # each of its two passes rounds
    assert abs(float((shrunk.float() - exact).mean())) < 0.3


# The Gaussian


@pytest.mark.parametrize(("centre", "spread"), [((0.5, 0.5), (0.1, 0.1)), ((0.4, 0.6), (0.08, 0.05))])
def test_a_planted_gaussian_is_found_again(centre: tuple[float, float], spread: tuple[float, float]) -> None:
    xs, ys = (np.arange(60) + 0.5) / 60, (np.arange(40) + 0.5) / 40
    density = np.exp(
        -((xs - centre[0]) ** 2) / (2 * spread[0] ** 2) - ((ys[:, None] - centre[1]) ** 2) / (2 * spread[1] ** 2)
    )
    mean, std = fit_gaussian(torch.tensor(density / density.sum(), dtype=torch.float32)[None])
    assert mean[0].tolist() == pytest.approx(centre, abs=1e-3)
    assert std[0].tolist() == pytest.approx(spread, rel=1e-2)


def test_all_attention_on_one_patch_gives_its_centre_and_no_spread() -> None:
    maps = torch.zeros(1, 4, 8)
    maps[0, 1, 6] = 1
    mean, std = fit_gaussian(maps)
    assert mean[0].tolist() == pytest.approx([6.5 / 8, 1.5 / 4])
    assert std[0].tolist() == pytest.approx([0, 0], abs=1e-3)


def test_even_attention_gives_the_middle_and_the_spread_of_a_grid() -> None:
    mean, std = fit_gaussian(torch.full((1, 4, 8), 1 / 32))
    assert mean[0].tolist() == pytest.approx([0.5, 0.5])
    assert std[0].tolist() == pytest.approx([math.sqrt((1 - 1 / 64) / 12), math.sqrt((1 - 1 / 16) / 12)])


def test_maps_are_fitted_one_by_one_as_weighted_moments() -> None:
    maps = noise(5, 3, 7)
    maps /= maps.sum((1, 2), keepdim=True)
    mean, std = fit_gaussian(maps)
    for index, weights in enumerate(np.asarray(maps, dtype=np.float64)):
        for axis, (marginal, count) in enumerate([(weights.sum(0), 7), (weights.sum(1), 3)]):
            at = (np.arange(count) + 0.5) / count
            middle = np.average(at, weights=marginal)
            assert float(mean[index, axis]) == pytest.approx(middle, abs=1e-6)
            assert float(std[index, axis]) == pytest.approx(
                math.sqrt(np.average((at - middle) ** 2, weights=marginal)), abs=1e-5
            )


# Windows

fraction = st.floats(0, 1)
spread = st.floats(0, 0.5)
aspects = st.floats(0.2, 5)


def focus(
    mean: tuple[float, float], std: tuple[float, float], aspect: float, sigmas: float, smallest: float
) -> list[float]:
    window = focus_window(
        torch.tensor([mean]), torch.tensor([std]), torch.tensor([aspect]), sigmas=sigmas, smallest=smallest
    )
    return [float(value) for value in window[0]]


@given(st.tuples(fraction, fraction), st.tuples(spread, spread), aspects, st.floats(0.1, 4), st.floats(0.05, 1))
def test_a_window_is_square_on_the_scene_inside_the_image_and_of_bounded_size(
    mean: tuple[float, float], std: tuple[float, float], aspect: float, sigmas: float, smallest: float
) -> None:
    x, y, half_x, half_y = focus(mean, std, aspect, sigmas, smallest)
    assert half_x * aspect == pytest.approx(half_y, rel=1e-5)
    assert min(x - half_x, y - half_y) >= -1e-6
    assert max(x + half_x, y + half_y) <= 1 + 1e-6
    shorter = min(1, aspect)
    assert smallest * shorter * (1 - 1e-5) <= 2 * half_y <= shorter * (1 + 1e-5)


@given(st.tuples(fraction, fraction), st.tuples(spread, spread), aspects, st.floats(0.1, 4))
def test_a_window_keeps_its_centre_on_the_attention_unless_the_border_forbids(
    mean: tuple[float, float], std: tuple[float, float], aspect: float, sigmas: float
) -> None:
    x, y, half_x, half_y = focus(mean, std, aspect, sigmas, 0.2)
    assert x == pytest.approx(np.clip(mean[0], half_x, 1 - half_x), abs=1e-6)
    assert y == pytest.approx(np.clip(mean[1], half_y, 1 - half_y), abs=1e-6)


@given(st.tuples(spread, spread), aspects, st.floats(0.1, 4), st.floats(0.05, 1))
def test_a_windows_half_side_is_a_number_of_deviations_within_shares_of_the_shorter_side(
    std: tuple[float, float], aspect: float, sigmas: float, smallest: float
) -> None:
    half = focus((0.5, 0.5), std, aspect, sigmas, smallest)[3]
    deviations, shorter = sigmas * math.sqrt(((std[0] * aspect) ** 2 + std[1] ** 2) / 2), min(1, aspect)
    assert half == pytest.approx(np.clip(deviations, smallest * shorter / 2, shorter / 2), rel=1e-4)


def test_deviations_are_measured_on_the_scene_not_on_the_squeezed_image() -> None:
    x, y, half_x, half_y = focus((0.5, 0.4), (0.04, 0.1), KITTI, sigmas=1.5, smallest=0.1)
    expected = 1.5 * math.sqrt(((0.04 * KITTI) ** 2 + 0.1**2) / 2)
    assert [x, y, half_x, half_y] == pytest.approx([0.5, 0.4, expected / KITTI, expected], rel=1e-5)


def test_a_windows_pixels_are_square_on_a_kitti_image() -> None:
    _, _, half_x, half_y = focus((0.5, 0.5), (0.05, 0.1), KITTI, sigmas=1.5, smallest=0.3)
    assert half_x * 1242 == pytest.approx(half_y * 376, rel=1e-5)


@given(st.integers(0, 2**31), st.floats(0.1, 0.5), st.floats(0.5, 1), aspects)
def test_windows_lie_inside_the_outer_one_with_sides_in_the_scale_range(
    seed: int, low: float, high: float, aspect: float
) -> None:
    outer = focus_window(noise(3, 2), noise(3, 2) / 2, torch.full((3,), aspect), sigmas=1.5, smallest=0.3)
    inner = windows_inside(outer, 6, scale=(low, high), generator=seeded(seed))
    assert inner.shape == (3, 6, 4)
    share = inner[..., 2:] / outer[:, None, 2:]
    assert share.min() >= low - 1e-5
    assert share.max() <= high + 1e-5
    assert torch.allclose(share[..., 0], share[..., 1], atol=1e-5), "square on the scene as the outer one"
    assert ((inner[..., :2] - outer[:, None, :2]).abs() + inner[..., 2:] <= outer[:, None, 2:] + 1e-6).all()


def test_windows_are_uniform_in_side_and_in_every_place_where_they_fit() -> None:
    outer = torch.tensor([[0.5, 0.6, 0.2, 0.3]])
    inner = windows_inside(outer, 20_000, scale=(0.4, 0.8), generator=seeded(0))[0]
    share = inner[:, 2:] / outer[:, 2:]
    place = (inner[:, :2] - outer[:, :2]) / (outer[:, 2:] - inner[:, 2:])
    for sample, low, high in [(share[:, 0], 0.4, 0.8), (place[:, 0], -1, 1), (place[:, 1], -1, 1)]:
        gap = (sample.sort().values - low) / (high - low) - torch.linspace(0, 1, len(sample))
        assert gap.abs().max() < 1.95 / math.sqrt(len(sample)), "Kolmogorov-Smirnov at 0.1 %"


def test_windows_are_those_of_their_generator() -> None:
    outer = torch.tensor([[0.5, 0.6, 0.2, 0.3]])
    first, again, other = (windows_inside(outer, 4, scale=(0.4, 0.8), generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# Crops


def test_a_window_of_the_whole_image_is_the_image() -> None:
    images = noise(2, 3, 16, 16)
    whole = torch.tensor([0.5, 0.5, 0.5, 0.5]).expand(2, 1, 4)
    assert torch.allclose(crop(lying(images), whole, 16), images, atol=1e-5)


def test_a_crop_of_a_ramp_is_the_ramp_at_its_place() -> None:
    """Pixel (row, column) of the ramp holds 0.01 column + 0.02 row, so a bilinear crop is exact wherever it lies."""
    ramp = (0.01 * torch.arange(24) + 0.02 * torch.arange(12)[:, None]).expand(1, 3, 12, 24)
    crops = crop(lying(ramp), torch.tensor([[[0.5, 0.5, 0.25, 0.3], [0.3, 0.4, 0.1, 0.2]]]), 5)
    for found, (x, y, half_x, half_y) in zip(crops, [(0.5, 0.5, 0.25, 0.3), (0.3, 0.4, 0.1, 0.2)], strict=True):
        steps = np.array([-0.8, -0.4, 0, 0.4, 0.8])
        columns, rows = (x + half_x * steps) * 24 - 0.5, (y + half_y * steps) * 12 - 0.5
        assert np.allclose(found, 0.01 * columns + 0.02 * rows[:, None], atol=1e-5)


@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 5), st.integers(3, 9))
@settings(max_examples=40)
def test_crops_are_bilinear_and_those_of_pair_i_come_from_image_i(seed: int, pairs: int, count: int, size: int) -> None:
    images = noise(pairs, 3, 10, 14, seed=seed)
    half = 0.05 + 0.4 * noise(pairs, count, 2, seed=seed + 1)
    centre = half + (1 - 2 * half) * noise(pairs, count, 2, seed=seed + 2)
    windows = torch.cat([centre, half], -1)
    crops = crop(lying(images), windows, size).view(pairs, count, 3, size, size)
    for pair in range(pairs):
        for index in range(count):
            expected = cut(images[pair].double().numpy(), windows[pair, index].double().numpy(), size)
            assert np.allclose(crops[pair, index], expected, atol=1e-4)


# Augmentation: one operation at a time


def test_settings_of_zero_change_nothing() -> None:
    images = noise(4, 3, 8, 8)
    assert np.array_equal(augmented(images), images)
    assert np.allclose(augmented(images, jitter=1.0), images, atol=1e-6), "a jitter without strength"


def test_a_flip_mirrors_left_and_right_only() -> None:
    images = noise(4, 3, 8, 8)
    assert np.array_equal(augmented(images, flip=1.0), images.numpy()[..., ::-1])


def test_brightness_multiplies_each_image_by_its_own_factor() -> None:
    images = noise(64, 3, 8, 8)
    factors = augmented(torch.full_like(images, 0.5), jitter=1, brightness=0.4)[:, :1, :1, :1] / 0.5
    assert np.allclose(augmented(images, jitter=1, brightness=0.4), (images.numpy() * factors).clip(0, 1), atol=1e-5)
    assert factors.min() >= 0.6 - 1e-6
    assert factors.max() <= 1.4 + 1e-6
    assert len(np.unique(factors)) == 64


def test_contrast_scales_the_distance_to_the_images_mean_luma() -> None:
    images = noise(64, 3, 8, 8)
    probe = torch.full_like(images, 0.4)
    probe[..., 4:] = 0.6
    answer = augmented(probe, jitter=1, contrast=0.4)
    factors = ((answer[:, 0, 0, 7] - answer[:, 0, 0, 0]) / 0.2)[:, None, None, None]
    pixels = images.double().numpy()
    mean = grey_of(pixels).mean((1, 2, 3), keepdims=True)
    expected = ((pixels - mean) * factors + mean).clip(0, 1)
    assert np.allclose(augmented(images, jitter=1, contrast=0.4), expected, atol=1e-5)
    assert 0.6 - 1e-5 <= factors.min() < 0.7
    assert 1.3 < factors.max() <= 1.4 + 1e-5


def test_saturation_scales_the_distance_to_the_pixels_own_grey() -> None:
    images = noise(64, 3, 8, 8)
    probe = torch.tensor([0.6, 0.4, 0.5]).view(1, 3, 1, 1).expand_as(images)
    answer = augmented(probe, jitter=1, saturation=0.2)
    factors = ((answer[:, 0] - answer[:, 1]) / 0.2)[:, None, :1, :1]
    pixels = images.double().numpy()
    expected = (grey_of(pixels) + (pixels - grey_of(pixels)) * factors).clip(0, 1)
    assert np.allclose(augmented(images, jitter=1, saturation=0.2), expected, atol=1e-4)
    assert 0.8 - 1e-5 <= factors.min() < 0.85
    assert 1.15 < factors.max() <= 1.2 + 1e-5


def rotated(pixels: Array, turns: Array) -> Array:
    """Colours [B, 3, S, S] turned about the grey axis, by Rodrigues' formula."""
    axis = np.ones(3) / math.sqrt(3)
    angle = (2 * np.pi * turns)[:, None, None, None]
    across = np.cross(axis, pixels, axisb=1, axisc=1)
    along = np.einsum("bchw,c->bhw", pixels, axis)[:, None] * axis[:, None, None]
    return np.asarray(pixels * np.cos(angle) + across * np.sin(angle) + along * (1 - np.cos(angle)))


def test_hue_turns_the_colours_about_the_grey_axis() -> None:
    images = 0.3 + 0.4 * noise(64, 3, 8, 8)  # so pale that no turn leaves the cube
    probe = torch.tensor([0.6, 0.4, 0.4]).view(1, 3, 1, 1).expand_as(images)
    red, green, blue = augmented(probe, jitter=1, hue=0.1)[:, :, 0, 0].T
    turns = np.arctan2(math.sqrt(3) * (green - blue), 2 * red - green - blue) / (2 * np.pi)
    assert np.allclose(augmented(images, jitter=1, hue=0.1), rotated(images.double().numpy(), turns), atol=1e-5)
    assert -0.1 - 1e-6 <= turns.min() < -0.08
    assert 0.08 < turns.max() <= 0.1 + 1e-6


def test_a_whole_turn_of_the_hue_is_none_and_a_third_permutes_the_colours() -> None:
    images = noise(3, 3, 4, 4)
    turned = torch.einsum("bij,bjhw->bihw", hue_matrix(torch.tensor([0.0, 1.0, 1 / 3])), images)
    assert torch.allclose(turned[:2], images[:2], atol=1e-5)
    assert torch.allclose(turned[2], images[2].roll(1, 0), atol=1e-5), "red becomes green, green blue, blue red"


@given(st.floats(-2, 2))
def test_grey_has_no_hue_to_turn(turns: float) -> None:
    assert torch.allclose(hue_matrix(torch.tensor([turns]))[0] @ torch.ones(3), torch.ones(3), atol=1e-5)


def test_grey_is_the_luma_in_every_colour() -> None:
    images = noise(4, 3, 8, 8)
    expected = np.broadcast_to(grey_of(images.double().numpy()), images.shape)
    assert np.allclose(augmented(images, grey=1.0), expected, atol=1e-6)


def test_solarise_inverts_what_is_bright() -> None:
    images = noise(4, 3, 8, 8)
    expected = np.where(images.numpy() < 0.5, images.numpy(), 1 - images.numpy())
    assert np.allclose(augmented(images, solarise=1.0), expected)


# Blur


def delta(count: int, size: int) -> Tensor:
    images = torch.zeros(count, 3, size, size)
    images[..., size // 2, size // 2] = 1
    return images


def rows_of(answer: Array) -> Array:
    """The kernel [B, S] of each image from its answer to a delta: the sum of a separable blur over the other axis."""
    return np.asarray(answer[:, 0].sum(1))


@pytest.mark.parametrize("size", [8, 32, 96])
def test_a_blur_is_a_separable_gaussian_reflected_at_the_border(size: int) -> None:
    sigma = np.array([0.1, 0.5, 1.0, 2.0]) * size / 224
    radius = max(1, size // 20)
    offsets = np.arange(-radius, radius + 1)
    images = noise(4, 3, size, size)
    found = blur(images, torch.tensor(sigma, dtype=torch.float32))
    for index, width in enumerate(sigma):
        kernel = np.exp(-(offsets**2) / (2 * width**2))
        kernel /= kernel.sum()
        expected = np.pad(images[index].double().numpy(), ((0, 0), (radius, radius), (radius, radius)), mode="reflect")
        for axis in (1, 2):
            expected = np.apply_along_axis(np.convolve, axis, expected, kernel, mode="valid")
        assert np.allclose(found[index], expected, atol=1e-5)


def test_a_blur_keeps_a_constant_and_the_mass_of_a_point() -> None:
    answer = augmented(delta(16, 64), blur=1.0)
    assert np.allclose(answer.sum((2, 3)), 1, atol=1e-5)
    assert np.allclose(augmented(torch.full((16, 3, 64, 64), 0.7), blur=1.0), 0.7, atol=1e-6)


def test_a_blur_of_nothing_changes_nothing() -> None:
    images = noise(2, 3, 32, 32)
    assert torch.equal(blur(images, torch.zeros(2)), images)


def test_the_variance_of_a_blurred_point_is_the_square_of_its_sigma() -> None:
    sigma = torch.tensor([0.8, 1.2, 1.6, 2.0])
    kernels = rows_of(blur(delta(4, 224), sigma).double().numpy())
    offsets = np.arange(224) - 112
    assert np.allclose((kernels * offsets**2).sum(1), sigma.double().numpy() ** 2, rtol=1e-3)


def test_each_image_is_blurred_by_its_own_sigma_in_proportion_to_its_size() -> None:
    kernels = rows_of(augmented(delta(200, 112), blur=1.0))
    variance = (kernels * (np.arange(112) - 56) ** 2).sum(1)
    # A sampled Gaussian narrower than half a pixel has less variance than its sigma says; above, the two agree.
    widest = np.sqrt(variance.max())
    assert 0.95 < widest <= 1.0 + 1e-3, "at most 2 pixels at 224"
    assert 0.45 < np.median(np.sqrt(variance)) < 0.6, "around 1.05 pixels at 224"
    assert len(np.unique(variance.round(9))) > 150


# Augmentation: chances


def assert_rate(changed: NDArray[np.bool_], probability: float) -> None:
    """Within four standard errors of a binomial."""
    assert abs(changed.mean() - probability) < 4 * math.sqrt(probability * (1 - probability) / len(changed))


@pytest.mark.parametrize("strength", [{}, {"brightness": 0.4}, {"hue": 0.1}])
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.8])
def test_an_operation_happens_at_its_rate(strength: dict[str, float], probability: float) -> None:
    images = 0.05 + 0.9 * noise(4000, 3, 6, 6)
    for name in ["jitter"] if strength else ["flip", "grey", "solarise"]:
        chosen = only(**strength, **{name: probability})
        answer = augment(images, chosen, seeded(3))
        assert_rate(((answer - images).abs().amax((1, 2, 3)) > 1e-6).numpy(), probability)


@pytest.mark.parametrize("probability", [0.1, 0.5, 1.0])
def test_a_blur_happens_at_its_rate(probability: float) -> None:
    answer = augmented(delta(4000, 20), blur=probability)
    # exp(-1 / (2 sigma^2)) underflows in float32 below 0.07 pixels; at 20 pixels a side sigma is even in (0.1, 2) * 20 / 224.
    visible = (2 - 0.0697 * 224 / 20) / 1.9
    assert_rate(answer[:, 0, 10, 11] > 0, probability * visible)


def test_operations_and_images_are_drawn_independently() -> None:
    images = 0.05 + 0.9 * noise(4000, 3, 6, 6)
    mirrored = images.flip(-1)
    found = augment(images, only(flip=0.5, solarise=0.2), seeded(0))
    flipped = (found - mirrored).abs().amax((1, 2, 3)) < (found - images).abs().amax((1, 2, 3))
    plain = torch.where(flipped[:, None, None, None], mirrored, images)
    solarised = (found - plain).abs().amax((1, 2, 3)) > 1e-3
    assert abs(float((flipped & solarised).float().mean()) - 0.1) < 4 * math.sqrt(0.1 * 0.9 / 4000)
    neighbours = np.corrcoef(flipped[:-1].numpy(), flipped[1:].numpy())[0, 1]
    assert abs(neighbours) < 4 / math.sqrt(4000)


@given(st.integers(0, 2**31), st.sampled_from([TEACHER_AUGMENTATION, STUDENT_AUGMENTATION]), st.booleans())
@settings(max_examples=30)
def test_augmented_images_stay_images(seed: int, augmentation: Augmentation, extreme: bool) -> None:
    images = noise(8, 3, 24, 24, seed=seed)
    images = images.round() if extreme else images
    found = augment(images, augmentation, seeded(seed))
    assert found.shape == images.shape
    assert found.dtype == torch.float32
    assert found.min() >= 0
    assert found.max() <= 1


def test_augmentations_are_those_of_their_generator() -> None:
    images = noise(4, 3, 24, 24)
    first, again, other = (augment(images, STUDENT_AUGMENTATION, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_views_are_augmented_as_byol_does() -> None:
    """Grill et al. 2020, appendix B, table 6: the two views differ in blur and solarisation only."""
    common = {
        "flip": 0.5,
        "jitter": 0.8,
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.2,
        "hue": 0.1,
        "grey": 0.2,
    }
    assert Augmentation(**common, blur=1.0, solarise=0.0) == TEACHER_AUGMENTATION
    assert Augmentation(**common, blur=0.1, solarise=0.2) == STUDENT_AUGMENTATION


@pytest.mark.parametrize(
    "wrong", [{"flip": 1.5}, {"blur": -0.1}, {"brightness": 1.2}, {"hue": -0.2}, {"grey": math.nan}]
)
def test_a_chance_or_strength_outside_zero_to_one_is_refused_in_one_line(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=rf"^augmentation: {next(iter(wrong))} must be in \[0, 1\], got \S+$"):
        Augmentation(**wrong)
