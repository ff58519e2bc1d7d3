"""Collapse: provoked in three ways, found within 500 steps and undone; a healthy run is left alone; a replay does the same."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learner_state import digest, gone_on, leaves, trained, weights
from sklearn.datasets import load_sample_images
from tiny_learner import CANVAS, EPOCH, TINY, make_pairs, tiny_learner
from torch import Tensor

from learner.config import LearnerConfig
from learner.errors import Collapsed, SettingsError
from learner.guard import CollapseGuard, GuardConfig, sign_of_collapse
from learner.loop import Learner, StepReport
from learner.objectives.babyagent import BabyAgent, BabyAgentConfig
from learner.pacing import PacingConfig
from learner.schedule import learning_rate
from stream.codec import encode_pair
from stream.pair import EncodedPair

BAD = {"teacher_information": 0.0, "student_information": 0.0, "crop_cosine": 1.0}
GOOD = {"teacher_information": 0.3, "student_information": 0.1, "crop_cosine": 0.8}
WITHIN_STEPS = 500


def fast(**changed: object) -> LearnerConfig:
    """TINY without repulsion, at a rate and teacher at which a collapse takes tens of steps."""
    assert isinstance(TINY.objective, BabyAgentConfig)
    objective = replace(TINY.objective, repulsion=0.0, teacher_momentum=0.9, teacher_temperature=0.03)
    schedule = replace(TINY.schedule, learning_rate=2e-3, warmup_steps=20)
    pacing = PacingConfig(replay_ratio=16.0, batch_size=8)
    return replace(TINY, objective=replace(objective, **changed), schedule=schedule, pacing=pacing)  # type: ignore[arg-type]


def photographs(count: int) -> list[EncodedPair]:
    """Pairs cut out of two photographs, the right eye a little to the side."""
    draw, images = np.random.default_rng(0), load_sample_images().images
    pairs = []
    for seq in range(count):
        image = images[draw.integers(len(images))]
        height = int(draw.integers(40, 200))
        width = height * CANVAS[1] // CANVAS[0]
        top, left = draw.integers(image.shape[0] - height), draw.integers(image.shape[1] - width - height // 20)
        eyes = [image[top : top + height, left + shift :][:, :width] for shift in (0, height // 20)]
        small = [np.asarray(cv2.resize(eye, CANVAS[::-1], interpolation=cv2.INTER_AREA), np.uint8) for eye in eyes]
        pairs.append(encode_pair(*small, device="baby", epoch=EPOCH, seq=seq, left_ns=0, right_ns=0, codec="lz4"))
    return pairs


def uncentred(temperature: float) -> Callable[[Tensor], Tensor]:
    return lambda logits: torch.softmax(logits / temperature, -1)


def agent(learner: Learner) -> BabyAgent:
    assert isinstance(learner.objective, BabyAgent)
    return learner.objective


def without_centring() -> Learner:
    learner = tiny_learner(fast())
    agent(learner).centre.targets = uncentred(0.03)  # type: ignore[method-assign, assignment]
    return learner


PROVOKED: dict[str, tuple[Callable[[], Learner], str]] = {
    "no centring": (without_centring, "one-hot"),
    "a teacher too sharp": (lambda: tiny_learner(fast(teacher_temperature=1e-3)), "one-hot"),
    "a teacher too soft": (lambda: tiny_learner(fast(teacher_temperature=1.0)), "uniform"),
}


@pytest.mark.parametrize("provoked", PROVOKED)
def test_a_provoked_collapse_is_found_within_500_steps_and_undone(provoked: str) -> None:
    make, end = PROVOKED[provoked]
    learner = make()
    start = dict(leaves(learner.objective.state_dict()))
    found = next(report for report in endless(learner) if report.rolled_back or report.step == WITHIN_STEPS)
    assert found.rolled_back == "the teacher's target is the same for every pair"
    share = found.gauges["teacher_entropy"] / math.log(16)
    assert share < 0.05 if end == "one-hot" else share > 0.98
    assert dict(leaves(learner.objective.state_dict())) == start  # it collapsed before a snapshot was due


def endless(learner: Learner) -> Iterator[StepReport]:
    """Steps over new pairs for as long as it is asked."""
    for pair in make_pairs(10_000):
        learner.add(pair)
        while not learner.wanted():
            yield learner.step()


def test_a_healthy_run_is_left_alone_from_its_first_step() -> None:
    base = fast(centring="sinkhorn", smallest_window=0.6, student_scale=(0.7, 1.0), teacher_temperature=0.02)
    pacing, memory = PacingConfig(replay_ratio=16.0, batch_size=16), replace(base.memory, capacity=96)
    learner = tiny_learner(replace(base, pacing=pacing, memory=memory))
    doubts = []
    for pair in photographs(250):
        learner.add(pair)
        if not learner.wanted():
            learner.step()
            doubts.append(learner.trainer.guard.doubt)
    assert len(doubts) > 220
    assert max(doubts) < learner.trainer.guard.config.patience_steps / 4
    assert sum(doubts[50:]) <= 2  # how sums are rounded depends on the processor: with AVX-512 one step looks odd


@given(st.lists(st.booleans(), max_size=300), st.integers(0, 3))
def test_whatever_was_before_a_collapse_with_a_sign_in_three_of_four_steps_is_found_within_500(
    before: list[bool], phase: int
) -> None:
    guard, step = CollapseGuard(GuardConfig()), 0
    for bad in before:
        step += 1
        if guard.observe(step, BAD if bad else GOOD):
            guard.rolled_back(step)
    verdicts = [guard.observe(step + n, GOOD if n % 4 == phase else BAD) for n in range(1, WITHIN_STEPS + 1)]
    assert any(verdicts)


@given(st.lists(st.booleans(), min_size=1, max_size=120))
def test_the_doubt_is_what_signs_leave_over_and_a_collapse_is_doubt_that_reached_the_patience(
    signs: list[bool],
) -> None:
    guard, doubt = CollapseGuard(GuardConfig(patience_steps=7)), 0
    for step, bad in enumerate(signs, 1):
        doubt = max(0, doubt + (1 if bad else -1))
        assert bool(guard.observe(step, BAD if bad else GOOD)) is (bad and doubt >= 7)
        assert guard.doubt == doubt
        assert guard.wants_snapshot(250 * step) is (doubt == 0)
        assert not guard.wants_snapshot(250 * step + 1)


@pytest.mark.parametrize(
    ("gauges", "is_sign"),
    [
        ({"teacher_information": 0.001, "student_information": -0.2, "crop_cosine": 0.1}, True),  # with repulsion
        (
            {"teacher_information": 0.8, "student_information": 0.0, "crop_cosine": 0.999},
            True,
        ),  # a sharp teacher of noise
        ({"teacher_information": 0.8, "student_information": -0.1, "crop_cosine": 0.7}, False),  # a random start
        ({"teacher_information": 0.85, "student_information": 0.5, "crop_cosine": 0.999}, False),  # one-hot and healthy
        ({"teacher_information": 0.2, "student_information": 0.005, "crop_cosine": 0.98}, False),
        ({"student_information": 0.0}, False),  # an objective that says nothing of its crops is judged by its features
        ({"feature_cosine": 0.9995}, True),
        ({"feature_cosine": 0.99}, False),
        ({"feature_cosine": math.nan}, False),
        ({"kl": 0.0}, False),  # one that says nothing of it
        ({"teacher_information": math.nan, "student_information": math.nan, "crop_cosine": math.nan}, False),
    ],
)
def test_a_sign_is_a_target_or_an_answer_that_is_the_same_for_every_pair(
    gauges: dict[str, float], is_sign: bool
) -> None:
    assert bool(sign_of_collapse(GuardConfig(), gauges)) is is_sign


def test_each_rollback_in_a_row_lowers_the_rate_until_it_is_forgiven() -> None:
    guard = CollapseGuard(GuardConfig(forgiven_after_steps=10, max_rollbacks=2, rate_after_rollback=0.5))
    factors = []
    for step in (1, 2):
        guard.rolled_back(step)
        factors.append(guard.rate_factor)
    assert factors == [0.5, 0.25]
    assert not guard.gives_up
    for step in range(3, 12):
        guard.observe(step, GOOD)
    assert guard.rate_factor == 0.25
    guard.observe(12, GOOD)
    assert (guard.rate_factor, guard.setbacks, guard.rollbacks) == (1.0, 0, 2)
    for step in (13, 14, 15):
        guard.rolled_back(step)
    assert guard.gives_up


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_teacher_information": -0.1},
        {"max_crop_cosine": math.nan},
        {"min_student_information": 1.1},
        {"patience_steps": 0},
        {"snapshot_every_steps": 0},
        {"forgiven_after_steps": 0},
        {"rate_after_rollback": 0.0},
        {"max_rollbacks": -1},
    ],
)
def test_settings_that_cannot_guard_are_refused_in_one_line(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=r"^guard: .*, got .*$"):
        GuardConfig(**wrong)  # type: ignore[arg-type]


QUICK = replace(fast(), guard=GuardConfig(patience_steps=6, snapshot_every_steps=5, max_rollbacks=9))


def blind(learner: Learner, after: int) -> None:
    """From so many steps on the teacher's target is uniform, whatever it sees."""
    whole = agent(learner).centre.targets

    def target(logits: Tensor) -> Tensor:
        return whole(logits) if learner.steps < after else torch.full_like(logits, 1 / 16)

    agent(learner).centre.targets = target  # type: ignore[method-assign]


def test_only_the_networks_go_back_to_the_last_but_one_snapshot(caplog: pytest.LogCaptureFixture) -> None:
    """Snapshots after steps 5, 10, ...; the first sign in step 12 or later, so that the one of step 5 is the last but one."""
    learner, calm = tiny_learner(QUICK), replace(QUICK.guard, min_teacher_information=0.0, max_crop_cosine=1.0)
    learner.trainer.guard.config = calm
    blind(learner, 11)
    seen: dict[int, dict[str, bytes]] = {}
    with caplog.at_level(logging.ERROR):
        for report in endless(learner):
            seen[report.step] = weights(learner)
            if report.step == 11:
                learner.trainer.guard.config = QUICK.guard
            if report.rolled_back:
                break
    assert report.step == 17
    assert {path: seen[5][path] for path in seen[5] if path.startswith("/objective")} == {
        path: value for path, value in seen[17].items() if path.startswith("/objective")
    }
    assert not learner.trainer.optimizer.state
    assert learner.samples == 17 * 8
    assert "rolled back step=17 to=5 rollbacks=1: the teacher's target is the same for every pair" in caplog.text
    after = learner.step()
    assert after.learning_rate == learning_rate(QUICK.schedule, 0) / 2


def test_a_snapshot_is_never_taken_while_there_is_a_doubt() -> None:
    learner = tiny_learner(replace(QUICK, guard=replace(QUICK.guard, patience_steps=60)))
    blind(learner, 0)
    for report in endless(learner):
        assert [snapshot["step"] for snapshot in learner.state_dict()["snapshots"]] == [0]
        if report.step == 20:
            break


def test_a_collapse_after_every_rollback_stops_the_learner_with_the_last_good_networks() -> None:
    learner = tiny_learner(replace(QUICK, guard=replace(QUICK.guard, max_rollbacks=2)))
    blind(learner, 0)
    start = dict(leaves(learner.objective.state_dict()))
    with pytest.raises(Collapsed, match=r"^the networks collapsed 3 times in a row, .* step 0 again; .*$"):
        trained(learner, make_pairs(100))
    assert learner.steps == 3 * 6
    assert dict(leaves(learner.objective.state_dict())) == start


COLLAPSING = replace(fast(teacher_temperature=1.0), guard=QUICK.guard)


def test_a_replay_rolls_back_alike() -> None:
    one, other = tiny_learner(COLLAPSING), tiny_learner(COLLAPSING)
    reports = [trained(learner, make_pairs(28)) for learner in (one, other)]
    assert [report.step for report in reports[0] if report.rolled_back] == [6, 12, 18, 24, 30, 36, 42, 48, 54]
    assert digest(one) == digest(other)


@pytest.mark.parametrize("cut", [3, 6, 11])
def test_a_learner_saved_and_loaded_around_a_rollback_goes_on_as_if_never_stopped(cut: int, tmp_path: Path) -> None:
    """Before the first one, at the pair after which it comes, and between two."""
    after = gone_on(partial(tiny_learner, COLLAPSING), make_pairs(28), cut, tmp_path / "state")
    assert after.trainer.guard.rollbacks > 5
