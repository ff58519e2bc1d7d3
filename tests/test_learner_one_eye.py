"""Views of one eye in NumPy: tiles, noise, Lab, crops that follow parallax; and an objective of one's own on tiles."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from every_objective import ENCODER, seeded, small, some_pairs
from numpy.typing import NDArray
from torch import Generator, Tensor

from learner.errors import SettingsError
from learner.networks.encoder import Encoder
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import Classifier
from learner.parts.network import Network
from learner.trainer import Trainer
from learner.views.augment import Augmentation
from learner.views.contract import Views
from learner.views.crops import to_rgb
from learner.views.lab import LabConfig, to_lab
from learner.views.masks import MasksConfig
from learner.views.noise import NoiseConfig
from learner.views.one_eye import OneEyeConfig
from learner.views.parallax import ParallaxConfig, differences
from learner.views.tiles import TiledViews, TilesConfig

Array = NDArray[np.float64]
pytestmark = pytest.mark.usefixtures("one_thread")
STILL = Augmentation(flip=0, jitter=0, grey=0, blur=0)


def numpy(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def views_of(config: OneEyeConfig, batch: Batch, seed: int = 0) -> Views:
    return config.maker(Encoder(ENCODER))(batch, seeded(seed))


def test_the_crop_of_a_whole_square_image_is_either_eye_of_each_pair() -> None:
    eyes = (torch.rand(2, 12, 16, 16, 3, generator=seeded()) * 255).to(torch.uint8)
    batch = Batch(eyes[0], eyes[1], torch.ones(12))
    found = NoiseConfig(size=16, scale=(1.0, 1.0), augmentation=STILL).crop(batch, seeded(1))
    left, right = (to_rgb(eye.permute(0, 3, 1, 2)) for eye in eyes)
    is_left = [bool(torch.allclose(one, other, atol=1e-5)) for one, other in zip(found, left, strict=True)]
    is_right = [bool(torch.allclose(one, other, atol=1e-5)) for one, other in zip(found, right, strict=True)]
    assert [one != other for one, other in zip(is_left, is_right, strict=True)] == [True] * 12
    assert 0 < sum(is_left) < 12


@pytest.mark.parametrize(("size", "grid", "tile"), [(48, 2, 16), (48, 3, 16), (64, 3, 8)])
def test_tiles_are_pixels_of_their_cells_each_cell_once(size: int, grid: int, tile: int) -> None:
    views = views_of(TilesConfig(size=size, grid=grid, tile_size=tile), some_pairs(4))
    assert isinstance(views, TiledViews)
    whole, cell = numpy(views.large[:, 0]), size // grid
    shifts = set()
    for image, tiles, places in zip(whole, numpy(views.small), views.places.tolist(), strict=True):
        assert sorted(places) == list(range(grid * grid))
        for found, place in zip(tiles, places, strict=True):
            top, left = (place // grid) * cell, (place % grid) * cell
            ranges = range(cell - tile + 1)
            equal = [
                (down, right)
                for down in ranges
                for right in ranges
                if np.array_equal(image[:, top + down :, left + right :][:, :tile, :tile], found)
            ]
            assert len(equal) == 1
            shifts.add(equal[0])
    assert len(shifts) == 1 if cell == tile else len(shifts) > 4


def test_a_view_with_noise_is_the_clean_one_a_gaussian_and_black_pixels() -> None:
    batch = some_pairs(200)
    grey = Batch(torch.full_like(batch.left, 128), torch.full_like(batch.right, 128), batch.aspect)
    config = NoiseConfig(size=32, sigma=0.1, destroyed=0.3, augmentation=STILL)
    clean, noisy = numpy(views_of(config, grey).large).swapaxes(0, 1)
    assert np.allclose(clean, 128 / 255, atol=1e-6)
    is_black = (noisy == 0).all(1)
    assert is_black.mean() == pytest.approx(0.3, abs=0.01)
    kept = ~is_black[:, None].repeat(3, 1)
    deviations = np.array([(one - 128 / 255)[keep].std() for one, keep in zip(noisy, kept, strict=True)])
    assert deviations.max() < 0.105
    assert deviations.mean() == pytest.approx(0.05, abs=0.006)
    assert np.allclose([(one - 128 / 255)[keep].mean() for one, keep in zip(noisy, kept, strict=True)], 0, atol=0.01)


def test_no_noise_is_the_same_view_twice() -> None:
    large = views_of(NoiseConfig(size=32, sigma=0.0, destroyed=0.0), some_pairs()).large
    assert torch.equal(large[:, 0], large[:, 1])


def textured(count: int, width: int, seed: int) -> Tensor:
    """Smooth patterns, float [count, 32, width, 3] in 0 to 255."""
    coarse = torch.rand(count, 3, 12, width // 2, generator=seeded(seed))
    planes = torch.nn.functional.interpolate(coarse, (32, width), mode="bilinear")
    return 255 * planes.permute(0, 2, 3, 1)


def near_things(count: int, shift: int = 3, nearer: int = 4) -> tuple[Batch, Tensor]:
    """Pairs of a far wall, `shift` cells apart in the two eyes, and of a near square; and the square's column and row."""
    wall, thing = textured(count, 32 + shift, 1), textured(count, 8, 2)[:, :8]
    left, right = wall[:, :, :32].clone(), wall[:, :, shift:].clone()
    places = torch.randint(8, 24, (count, 2), generator=seeded(3))
    for one, other, square, (x, y) in zip(left, right, thing, places.tolist(), strict=True):
        one[y : y + 8, x : x + 8] = square
        other[y : y + 8, x - shift - nearer : x - shift - nearer + 8] = square
    left, right = (eye.repeat_interleave(4, 1).repeat_interleave(4, 2).to(torch.uint8) for eye in (left, right))
    return Batch(left, right, torch.ones(count)), places


def test_behind_the_common_shift_the_eyes_differ_where_something_is_near() -> None:
    batch, places = near_things(6)
    left, right = (numpy(eye)[:, ::4, ::4].mean(-1) / 255 for eye in (batch.left, batch.right))
    found = numpy(differences(torch.tensor(left), torch.tensor(right)))
    for i in range(6):
        apart = [np.median(abs(left[i, :, s:] - right[i, :, : 32 - s])) for s in range(9)]
        assert np.argmin(apart) == 3
        expected = np.zeros((32, 32))
        expected[:, 3:] = abs(left[i, :, 3:] - right[i, :, :-3])
        assert np.allclose(found[i], expected)
        x, y = places[i].tolist()
        rows, columns = np.nonzero(found[i] > 0.01)
        assert set(rows) <= set(range(y, y + 8))
        assert set(columns) <= set(range(x - 4, x + 8))  # the square, and what it hides of the wall in the other eye


@pytest.mark.parametrize("is_left", [True, False])
def test_a_crop_that_follows_parallax_looks_at_the_near_thing_more_often(is_left: bool) -> None:
    batch, places = near_things(400)
    eye = torch.full((400, 1, 1, 1), is_left)
    middle = (places + torch.tensor([4 if is_left else 4 - 7, 4])) / 32
    missed = []
    for config in (MasksConfig, ParallaxConfig):
        windows = config(size=32, scale=(0.3, 0.5)).windows(batch, eye, seeded())[:, 0]
        assert (windows[:, :2] >= windows[:, 2:]).all()
        assert (windows[:, :2] + windows[:, 2:] <= 1 + 1e-6).all()
        missed.append(((windows[:, :2] - middle).abs() > windows[:, 2:]).any(1).float().mean())
    assert missed[1] < 0.6 * missed[0]


def test_two_eyes_that_are_alike_and_one_candidate_give_windows_anywhere() -> None:
    batch = some_pairs(300)
    same = Batch(batch.left, batch.left, batch.aspect)
    for config, pairs in ((ParallaxConfig(size=32), same), (ParallaxConfig(size=32, candidates=1), batch)):
        windows = config.windows(pairs, torch.ones(300, 1, 1, 1, dtype=torch.bool), seeded())[:, 0]
        share = (windows[:, :2] - windows[:, 2:]) / (1 - 2 * windows[:, 2:])
        assert torch.allclose(share.mean(0), torch.full((2,), 0.5), atol=0.05)
        assert torch.allclose(share.std(0), torch.full((2,), 12**-0.5), atol=0.03)


def lab(rgb: Array) -> Array:
    """CIE Lab of one sRGB pixel, after CIE 15 and IEC 61966-2-1, in steps."""
    linear = np.array([((c + 0.055) / 1.055) ** 2.4 if c > 0.04045 else c / 12.92 for c in rgb])
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratios = to_xyz @ linear / (to_xyz @ np.ones(3))
    f = [r ** (1 / 3) if r > 216 / 24389 else (24389 / 27 * r + 16) / 116 for r in ratios]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_lab_is_that_of_the_standard_and_of_opencv() -> None:
    rgb = torch.rand(2, 3, 6, 6, generator=seeded())
    rgb[0, :, 0] = torch.linspace(0, 0.05, 6)  # dark ones have another formula
    rgb[1, :, 0, :2] = torch.tensor([[0.0, 1.0]])
    found = numpy(to_lab(rgb))
    for image, values in zip(rgb, found, strict=True):
        assert np.allclose(values, np.apply_along_axis(lab, 0, numpy(image)), atol=0.1)
        by_opencv = cv2.cvtColor(image.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2Lab)
        assert np.allclose(values, by_opencv.transpose(2, 0, 1), atol=0.3)


def test_the_views_of_lab_are_a_grey_image_and_the_colours() -> None:
    config = LabConfig(size=32, augmentation=STILL)
    lightness, colours = numpy(views_of(config, some_pairs(), seed=3).large).swapaxes(0, 1)
    expected = numpy(to_lab(config.crop(some_pairs(), seeded(3))))
    assert np.allclose(lightness, expected[:, :1].repeat(3, 1) / 100, atol=1e-6)
    assert (colours[:, 0] == 0.5).all()
    assert np.allclose((colours[:, 1:] - 0.5) * 256, expected[:, 1:], atol=1e-3)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ((NoiseConfig, {"sigma": -0.1}), "sigma must be at least 0"),
        ((NoiseConfig, {"destroyed": 1.1}), "destroyed must be at least 0 and at most 1"),
        ((TilesConfig, {"grid": 1}), "grid must be at least 2 and at most 16"),
        ((TilesConfig, {"size": 32, "tile_size": 16}), "3 tiles of 16 pixels are longer than the size 32"),
        ((TilesConfig, {"tile_size": 20}), "tile_size 20 must be a multiple of the patch size 8"),
        ((LabConfig, {"size": 20}), "size 20 must be a multiple of the patch size 8"),
        ((LabConfig, {"scale": (0.9, 0.4)}), "scale must be 0 < low <= high <= 1"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(wrong: tuple[Any, dict[str, Any]], said: str) -> None:
    kind, settings = wrong
    with pytest.raises(SettingsError, match=rf"^views: {said}.*$"):
        kind(**settings).maker(Encoder(ENCODER))


@dataclass(frozen=True, kw_only=True)
class PlacesConfig(ObjectiveConfig):
    takes = (TilesConfig,)


class Places(Objective[PlacesConfig]):
    """Which cell is each tile from? As somebody outside would write it."""

    meanings = {"right": Meaning("ratio", "Tiles whose place was guessed.")}  # noqa: RUF012

    def __init__(self, config: PlacesConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student, self.views = Network(encoder, torch.nn.Identity()), kit.views(encoder)
        assert isinstance(kit.views_config, TilesConfig)
        self.classifier = Classifier(encoder.dim, kit.views_config.grid**2)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        views = self.views(batch, generator)
        assert isinstance(views, TiledViews)
        tiles = self.student.encoder(views.small.flatten(0, 1))
        losses, is_right = self.classifier(tiles, views.places.flatten())
        features = tiles.view(*views.places.shape, -1)[:, 0]
        return Outcome(losses.view(len(batch), -1).mean(1), features, gauges={"right": is_right.float().mean()})


def test_an_objective_of_ones_own_learns_the_places_of_tiles() -> None:
    views = dataclasses.replace(TilesConfig.for_preset("cpu"), augmentation=STILL)  # a mirror would hide the place
    config = dataclasses.replace(small("simclr"), objective=PlacesConfig(), views=views)
    made = Trainer(config, torch.device("cpu"))
    light = torch.linspace(0, 255, 24)[:, None] + torch.linspace(0, 255, 32)  # darkest at the top left
    image = torch.stack([light / 2, light.flip(1) / 2, light / 4], -1).to(torch.uint8).expand(8, -1, -1, -1)
    batch = Batch(image, image, torch.full((8,), 4 / 3))
    rights = [made.step(batch).report.gauges["right"] for _ in range(60)]
    assert sum(rights[-10:]) / 10 > 0.6 > 0.4 > rights[0]
    with pytest.raises(SettingsError, match=r"Places cannot take views two: choose --views tiles$"):
        dataclasses.replace(config, views=small("simclr").views)
