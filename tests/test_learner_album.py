"""The pictures of a run: what came, where the teacher looked, what the reservoir holds; taken without a trace."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from learner_state import digest, trained
from tiny_learner import CANVAS, TINY, make_pair, make_pairs, tiny_learner

from learner.config import preset
from learner.distributed import collectives
from learner.loop import Learner
from learner.memory import pictures
from learner.networks.encoder import EncoderConfig
from learner.objectives.foreign import objective_named
from learner.report.album import make_album
from learner.report.pictures import WIDEST
from stream.codec import decode


@pytest.fixture(scope="module")
def learner() -> Learner:
    learner = tiny_learner()
    trained(learner, make_pairs(22))
    return learner


def test_the_received_pairs_are_spread_over_memory_newest_first_with_their_eyes_and_colours(learner: Learner) -> None:
    album = make_album(learner, received=3)
    seqs = [int(learner.memory.slots.names[slot].rpartition("/")[2]) for slot in pictures.over_time(learner.memory, 3)]
    assert seqs == sorted(seqs, reverse=True)
    for row, seq in enumerate(seqs):
        pair = decode(make_pair(seq))
        assert np.array_equal(album["received_left"][row], pair.left)
        assert np.array_equal(album["received_right"][row], pair.right)
    assert len(album["received_left"]) == 3


def test_the_views_have_the_shapes_that_the_report_draws(learner: Learner) -> None:
    album = make_album(learner, viewed=4)
    crops, heads, small = 2, 2, 16
    shapes = {
        "viewed_left": (4, *CANVAS, 3),
        "viewed_right": (4, *CANVAS, 3),
        "attention": (4, heads, 3, 3),
        "head": (4,),
        "gauss": (4, 4),
        "window": (4, 4),
        "crops": (4, crops, 4),
        "teacher_view": (4, 16, 16, 3),
        "student_views": (4, crops, small, small, 3),
    }
    assert {name: album[name].shape for name in shapes} == shapes
    assert {album[name].dtype for name in ("viewed_left", "teacher_view", "student_views")} == {np.dtype(np.uint8)}
    assert np.allclose(album["attention"].sum((-2, -1)), 1, atol=1e-5)


def test_highest_and_lowest_priorities_come_in_their_order(learner: Learner) -> None:
    album = make_album(learner, extremes=5)
    high, low = album["high_priority"], album["low_priority"]
    assert list(high) == sorted(high, reverse=True)
    assert list(low) == sorted(low)
    assert low[-1] <= high[-1]
    assert len(album["high_left"]) == len(high) == 5


def test_taking_pictures_changes_nothing_of_the_learner_and_gives_the_same_ones_again(learner: Learner) -> None:
    before = digest(learner)
    first, second = make_album(learner), make_album(learner)
    assert digest(learner) == before
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_learner_that_received_nothing_has_an_empty_album() -> None:
    assert make_album(tiny_learner()) == {}


def test_pairs_that_wait_for_their_first_step_are_shown_without_a_priority() -> None:
    fresh = tiny_learner()
    trained(fresh, make_pairs(3))
    album = make_album(fresh)
    assert len(album["received_left"]) == len(album["viewed_left"]) == 3
    assert len(album["high_left"]) == len(album["high_priority"]) == 0


@pytest.mark.parametrize(("size", "width"), [((12, 48), 96), ((1, 4000), round(24 * WIDEST)), ((4000, 1), 1)])
def test_pictures_have_the_aspect_of_the_scene_but_bounded(size: tuple[int, int], width: int) -> None:
    learner = tiny_learner()
    trained(learner, [make_pair(0, size)])
    assert make_album(learner)["received_left"].shape == (1, 24, width, 3)


def test_pictures_of_a_backbone_with_batch_norms_wait_for_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.Tensor] = []
    plain = preset("cpu", objective_named("autoencoder"))
    config = dataclasses.replace(
        plain, memory=TINY.memory, pacing=TINY.pacing, encoder=EncoderConfig(backbone="resnet10t")
    )
    learner = tiny_learner(config)
    trained(learner, make_pairs(12))
    before = digest(learner)
    monkeypatch.setattr(collectives, "shared_mean", asked.append)
    assert "viewed_left" in make_album(learner, viewed=2)
    assert asked == []
    assert digest(learner) == before
    assert all(module.training for module in learner.objective.encoders()["student"].modules())
