"""Rewards for coming near to a goal picture, against their formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from learner.weights.goals import huber_reward, latent_reward

RANDOM = np.random.default_rng(0)


def test_the_huber_form_is_what_the_paper_writes() -> None:
    embeddings, goal = RANDOM.normal(size=(5, 3)), RANDOM.normal(size=3)
    rewards = huber_reward(embeddings, goal, alpha=0.5, beta=2.0, gamma=0.1)
    for row, reward in zip(embeddings.tolist(), rewards, strict=True):
        squared = sum((one - other) ** 2 for one, other in zip(row, goal.tolist(), strict=True))
        assert reward == pytest.approx(-0.5 * squared - 2.0 * math.sqrt(0.1 + squared))


def test_the_latent_distance_is_euclidean_or_that_of_a_precision() -> None:
    embedding, goal = np.array([3.0, 4.0]), np.zeros(2)
    assert latent_reward(embedding, goal) == -5
    assert latent_reward(embedding, goal, precision=[4.0, 0.25]) == pytest.approx(-math.sqrt(4 * 9 + 0.25 * 16))
    matrix = np.array([[2.0, 0.5], [0.5, 1.0]])
    assert latent_reward(embedding, goal, precision=matrix) == pytest.approx(-math.sqrt(embedding @ matrix @ embedding))


@pytest.mark.parametrize("reward", [huber_reward, latent_reward])
def test_a_reward_is_highest_at_the_goal_and_falls_with_the_distance(reward: object) -> None:
    assert callable(reward)
    goal = RANDOM.normal(size=4)
    rewards = reward(goal + np.arange(5)[:, None], goal)
    assert rewards.dtype == np.float64
    assert (np.diff(rewards) < 0).all()


def test_a_film_to_imitate_has_a_goal_for_each_moment() -> None:
    film = RANDOM.normal(size=(6, 4)).astype(np.float32)
    assert latent_reward(film, film).tolist() == [0] * 6


@pytest.mark.parametrize(("embeddings", "goal"), [(np.zeros((2, 3)), np.zeros(2)), (np.zeros((2, 3)), 0.0), (0.0, 0.0)])
def test_a_goal_of_another_width_is_refused_in_one_line(embeddings: object, goal: object) -> None:
    with pytest.raises(ValueError, match=r"^the goal must be as wide as the embeddings: got .+ and .+$"):
        huber_reward(embeddings, goal)  # type: ignore[arg-type]


def test_numbers_that_give_no_distance_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^gamma must be above 0, .+$"):
        huber_reward([0.0], [0.0], gamma=0.0)
    with pytest.raises(ValueError, match=r"^precision must be \[2\] or twice that, got \[3, 3\]$"):
        latent_reward([0.0, 1.0], [0.0, 0.0], precision=[1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"^gamma must be above 0, .+ all finite, .+$"):
        huber_reward([0.0], [0.0], alpha=math.inf)
    # The middle one gives a distance for this embedding, and none for [1, 0].
    for precision in ([-1.0, -1.0], [-1.0, 1.0], [1.0, math.nan]):
        with pytest.raises(ValueError, match=r"^precision must be positive: .+$"):
            latent_reward([0.0, 1.0], [0.0, 0.0], precision=precision)
    assert latent_reward([1.0, -1.0], [0.0, 0.0], precision=[[1.0, 1.0], [1.0, 1.0]]) == 0
