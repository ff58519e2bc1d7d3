"""Views of clips: what stays the same within one, and patches that are followed through it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from every_objective import CLIPS, LENGTH, seeded, small, some_clips, some_pairs
from torch import Tensor

from learner.networks.encoder import Encoder
from learner.objectives.contract import Batch
from learner.views.augment import STUDENT_AUGMENTATION, Augmentation, augment
from learner.views.clips.steady import ClipViews, EyesConfig, SteadyConfig
from learner.views.clips.tracked import TrackedConfig, TrackedViews, drawn_places, followed
from learner.views.contract import ViewsConfig

pytestmark = pytest.mark.usefixtures("one_thread")
PLAIN = Augmentation(flip=0, jitter=0, grey=0, blur=0)


def views_of(config: ViewsConfig, batch: Batch) -> ClipViews | TrackedViews:
    torch.manual_seed(0)
    views = config.maker(Encoder(small("tct").encoder))(batch, seeded())
    assert isinstance(views, ClipViews | TrackedViews)
    return views


def still() -> Batch:
    """Clips in which nothing moves, with the same picture for both eyes."""
    batch = some_clips()
    left = batch.left[::LENGTH].repeat_interleave(LENGTH, 0)
    return dataclasses.replace(batch, left=left, right=left)


def test_one_crop_and_its_augmentation_serve_a_whole_clip_and_both_eyes_and_each_clip_has_its_own() -> None:
    views = views_of(SteadyConfig(size=32, augmentation=STUDENT_AUGMENTATION), still())
    clips = views.large.view(CLIPS, 2 * LENGTH, *views.large.shape[2:])
    assert clips.equal(clips[:, :1].expand_as(clips))
    alike = views_of(SteadyConfig(size=32), dataclasses.replace(still(), left=still().left[:1].repeat(36, 1, 1, 1)))
    assert len(torch.unique(alike.large[::LENGTH, 0].flatten(1), dim=0)) == CLIPS


def test_without_clips_each_pair_has_its_own_crop() -> None:
    batch = some_pairs()
    same = dataclasses.replace(batch, left=batch.left[:1].repeat(6, 1, 1, 1))
    assert len(torch.unique(views_of(SteadyConfig(size=32), same).large[:, 0].flatten(1), dim=0)) == 6


def test_a_clip_that_is_drawn_twice_is_two_clips() -> None:
    batch = dataclasses.replace(some_pairs(), clips=torch.tensor([0, 0, 1, 1, 1, 7]))
    assert batch.starts().tolist() == [0, 0, 2, 2, 2, 5]


def test_both_eyes_whole_are_their_pixels_and_the_colours_of_each_change_alone() -> None:
    batch = some_clips()
    plain = views_of(EyesConfig(size=32, augmentation=PLAIN), batch)
    assert plain.large.shape == (36, 2, 3, 32, 32)
    means = torch.stack([batch.left, batch.right], 1).float().mean((2, 3)).flip(-1) / 255
    assert plain.large.mean((3, 4)).allclose(means, atol=0.01)
    coloured = views_of(EyesConfig(size=32), still()).large.flatten(0, 1)
    assert len(torch.unique(coloured[: 2 * LENGTH].flatten(1), dim=0)) > LENGTH


def test_an_image_can_take_the_amounts_of_another_one() -> None:
    images = torch.rand(1, 3, 16, 16, generator=seeded()).repeat(4, 1, 1, 1)
    own = augment(images, STUDENT_AUGMENTATION, seeded(1))
    taken = augment(images, STUDENT_AUGMENTATION, seeded(1), as_in=torch.tensor([2, 2, 0, 3]))
    assert taken.equal(own[[2, 2, 0, 3]])


def moving(steps: int, speed: tuple[int, int]) -> Tensor:
    """A textured square of 16 cells that moves over a grey ground, [steps, 64, 64]; it begins at (20, 24)."""
    pictures = torch.full((steps, 64, 64), 0.5)
    texture = torch.rand(16, 16, generator=seeded(5))
    for step, picture in enumerate(pictures):
        row, column = 20 + speed[0] * step, 24 + speed[1] * step
        picture[row : row + 16, column : column + 16] = texture
    return pictures


@pytest.mark.parametrize("speed", [(0, 0), (3, -2), (-3, 4)])
def test_a_patch_is_followed_to_where_it_has_moved(speed: tuple[int, int]) -> None:
    places, score = followed(moving(5, speed), torch.arange(5)[None], torch.tensor([[20, 24]]), 16, 5)
    assert places.tolist() == [[20 + 4 * speed[0], 24 + 4 * speed[1]]]
    assert score.item() == pytest.approx(1, abs=1e-5)


def test_a_patch_that_has_gone_is_lost_and_so_is_one_without_contrast() -> None:
    pictures = moving(3, (1, 1))
    pictures[2] = torch.rand(64, 64, generator=seeded(6))
    tracks, place = torch.arange(3)[None], torch.tensor([[20, 24]])
    assert followed(pictures, tracks, place, 16, 5)[1].item() < 0.5
    assert followed(pictures, tracks, torch.tensor([[0, 0]]), 16, 3)[1].item() < 0.5


def test_patches_are_drawn_where_something_changes() -> None:
    change = torch.zeros(200, 64, 64)
    change[:, 40:48, 8:16] = 1
    places = drawn_places(change, 16, seeded())
    centres = places + 8
    assert ((centres - torch.tensor([44, 12])).abs() < 12).all()
    assert len(torch.unique(places, dim=0)) > 50


def test_both_views_of_a_track_show_the_same_thing() -> None:
    grey = (moving(6, (2, 3)) * 255).to(torch.uint8)[..., None].expand(-1, -1, -1, 3)
    zeros = torch.zeros(6, dtype=torch.int64)
    batch = Batch(grey, grey, torch.ones(6), clips=zeros, epochs=zeros, times_s=torch.arange(6.0).double())
    views = views_of(TrackedConfig(size=32, side=16, augmentation=PLAIN), batch)
    assert isinstance(views, TrackedViews)
    assert views.is_followed.tolist() == [True] + [False] * 5
    assert (views.large[0, 0] - views.large[0, 1]).abs().mean() < 0.02
    assert views.large[1:, 0].equal(views.large[1:, 1])
