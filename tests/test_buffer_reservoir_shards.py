"""Shards of a reservoir: merged or split, they are one reservoir over the whole stream."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reservoirs import POLICIES, arange, kept_set, largest, phis, reloaded, same_state, within

from buffer import sharding
from buffer.reservoir import Reservoir
from buffer.scoring import uniforms

# --- shards

splits = st.lists(st.integers(1, 6), max_size=40)


def sharded(
    capacity: int, shards: int, seed: int, phi: list[NDArray[np.float64]], batches: list[int], **policy: Any
) -> list[Reservoir]:
    """Shard r was offered the keys r, r + shards and so on, with phi[r], in batches of these sizes, then of 1."""
    parts = [Reservoir(capacity, seed=seed, shard=r, shards=shards, **policy) for r in range(shards)]
    for r, part in enumerate(parts):
        edges = np.minimum(np.cumsum([0, *batches]), phi[r].size)
        for values, keys in zip(
            np.split(phi[r], edges), np.split(r + shards * arange(phi[r].size), edges), strict=True
        ):
            part.offer(keys, values)
    return parts


@pytest.mark.usefixtures("any_depth")
@given(
    st.sampled_from(sorted(POLICIES)),
    st.integers(1, 9),
    st.integers(1, 4),
    st.lists(phis, max_size=40),
    splits,
    st.data(),
)
@settings(max_examples=150)
def test_merged_shards_are_one_reservoir_over_the_whole_stream(
    policy: str, capacity: int, shards: int, flat: list[float], batches: list[int], data: st.DataObject
) -> None:
    phi = np.array(flat, np.float64)
    one = Reservoir(capacity, seed=4, **POLICIES[policy])
    one.offer(arange(phi.size), phi)
    parts = sharded(capacity, shards, 4, [phi[r::shards] for r in range(shards)], batches, **POLICIES[policy])
    before = [part.state_dict() for part in parts]
    merged = sharding.merged(data.draw(st.permutations(parts)))
    assert all(same_state(part.state_dict(), state) for part, state in zip(parts, before, strict=True))
    for more in ([], data.draw(st.lists(phis, max_size=9))):  # and so it goes on
        keys = arange(len(more), one.arrivals)
        offers = [r.offer(keys, np.array(more, np.float64)) for r in (one, merged)]
        assert np.array_equal(offers[0].kept, offers[1].kept)
        assert set(offers[0].evicted.tolist()) == set(offers[1].evicted.tolist())
        assert kept_set(merged) == kept_set(one)
        assert merged.arrivals == one.arrivals
        for ask in (Reservoir.scores, Reservoir.phi, Reservoir.inclusion):
            assert np.array_equal(ask(merged, one.keys()), ask(one, one.keys()))
        merged = reloaded(merged)


@given(
    st.sampled_from(sorted(POLICIES)), st.integers(1, 9), st.lists(st.lists(phis, max_size=20), min_size=1, max_size=4)
)
@settings(max_examples=100)
def test_merged_shards_of_unequal_length_keep_the_largest_scores_of_all_even_after_updates(
    policy: str, capacity: int, phi: list[list[float]]
) -> None:
    values = [np.array(some, np.float64) for some in phi]
    parts = sharded(capacity, len(phi), 4, values, [], **POLICIES[policy])
    everything = sharded(100, len(phi), 4, values, [], **POLICIES[policy])
    assert kept_set(sharding.merged(parts)) == largest(everything, capacity)
    for part in parts[1:]:
        part.update(part.keys(), -part.phi(part.keys()))
    merged = sharding.merged(parts)
    assert kept_set(merged) == largest(parts, capacity)
    for part in parts:
        stayed = part.keys()[np.isin(part.keys(), merged.keys())]
        assert np.array_equal(merged.ages(stayed), part.ages(stayed))
        assert np.array_equal(merged.phi(stayed), part.phi(stayed))


def test_merged_shards_of_unequal_length_keep_every_arrival_with_probability_n_over_t() -> None:
    trials, n, lengths = 1200, 6, [25, 4, 11]
    t, counts = sum(lengths), np.zeros((3, 25), np.int64)
    for seed in range(trials):
        merged = sharding.merged(
            sharded(n, 3, seed, [np.zeros(length) for length in lengths], [5], **POLICIES["uniform"])
        )
        counts[merged.keys() % 3, merged.keys() // 3] += 1
    p = n / t
    found = np.concatenate([counts[r, :length] for r, length in enumerate(lengths)])
    assert found.sum() == counts.sum() == trials * n
    chi2 = np.sum((found - trials * p) ** 2) / (trials * p * (1 - p)) * (t - 1) / t
    assert abs(chi2 - (t - 1)) < 4 * math.sqrt(2 * (t - 1))


@pytest.mark.parametrize("half_life", [math.inf, 60.0])
def test_horvitz_thompson_stays_unbiased_over_updates_merges_and_what_comes_after(half_life: float) -> None:
    phi = np.clip(np.random.default_rng(9).uniform(-2, 2, (6, 120)) - np.linspace(-1, 1, 6)[:, None], -2, 2)
    counts = []
    for seed in range(500):
        parts = [Reservoir(15, half_life=half_life, seed=seed, shard=r, shards=2) for r in range(2)]
        for step in range(4):
            for r, part in enumerate(parts):
                now = 2 * arange(10, 10 * step) + r
                part.offer(now, phi[step, now])
                again = part.keys()[part.keys() % 3 != step % 3]
                part.update(again, phi[step, again])
        merged = sharding.merged(parts)
        for step in (4, 5):
            now = arange(20, 20 * step)
            merged.offer(now, phi[step, now])
            merged.update(merged.keys(), phi[step, merged.keys()])
        counts.append(float(np.sum(1 / merged.inclusion(merged.keys()))))
    assert within(counts, 120, precision=3)


def test_shards_draw_apart_and_a_merged_reservoir_draws_again() -> None:
    parts = sharded(50, 2, 1, [np.zeros(50), np.zeros(50)], [])
    draws = [part.sample(10).keys // 2 for part in parts]
    assert draws[0].tolist() != draws[1].tolist()
    assert parts[0].scores(parts[0].keys()).tolist() != parts[1].scores(parts[1].keys()).tolist()
    points = [uniforms(1, 1, start, 10, step) for start, step in ((0, 2), (1, 2), (20, 1))]
    assert np.unique(points).size == 30
    one = Reservoir(50, seed=1)
    one.load_state_dict({**sharding.merged(parts).state_dict(), "draws": 20})
    assert np.array_equal(sharding.merged(parts).sample(10).keys, one.sample(10).keys)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([], "at least one, got 0"),
        ([0], "all those of one stream, with the same settings, got 0 of 2"),
        ([0, 0], "got 0 of 2, 0 of 2"),
        ([0, 1, 1], "got 0 of 2, 1 of 2, 1 of 2"),
        ([0, 2], "the same settings"),
        ([0, 3], "the same settings"),
        ([0, 4], "different, got some in two of them"),
    ],
)
def test_shards_that_are_not_those_of_one_stream_are_not_merged(chosen: list[int], message: str) -> None:
    parts = [Reservoir(4, seed=0, shard=r, shards=2) for r in range(2)]
    parts += [Reservoir(5, seed=0, shard=1, shards=2), Reservoir(4, seed=1, shard=1, shards=2), parts[1]]
    parts[0].offer([7], [0])
    if chosen == [0, 4]:
        parts[4].offer([7], [0])
    before = [part.state_dict() for part in parts]
    with pytest.raises(ValueError, match=message):
        sharding.merged([parts[index] for index in chosen])
    assert all(same_state(part.state_dict(), state) for part, state in zip(parts, before, strict=True))


@given(
    st.sampled_from(sorted(POLICIES)),
    st.sampled_from([1, 2, 3]),
    st.lists(phis, max_size=40),
    st.lists(phis, max_size=9),
)
@settings(max_examples=100)
def test_shards_that_were_split_off_are_merged_to_what_they_were(
    policy: str, shards: int, before: list[float], more: list[float]
) -> None:
    one = Reservoir(12, seed=4, **POLICIES[policy])
    one.offer(arange(len(before))[::-1], before)
    for phi in (1.0, -0.5):
        one.update(one.keys()[::2], np.full(len(one.keys()[::2]), phi))
    state = one.state_dict()
    parts = sharding.split(one, shards)
    assert same_state(one.state_dict(), state)
    assert {key: r for r, part in enumerate(parts) for key in part.keys().tolist()} == {
        key: index % shards for index, key in enumerate(sorted(kept_set(one)))
    }
    merged = sharding.merged([reloaded(part) for part in parts], 12)
    assert merged.arrivals == one.arrivals
    for ask in (Reservoir.scores, Reservoir.phi, Reservoir.inclusion, Reservoir.ages):
        assert np.array_equal(ask(merged, one.keys()), ask(one, one.keys()))
    assert merged.state_dict()["draws"] == state["draws"]
    offers = [r.offer(arange(len(more), len(before)), more) for r in (one, merged)]
    assert np.array_equal(offers[0].kept, offers[1].kept)
    assert kept_set(merged) == kept_set(one)
    assert np.array_equal(merged.inclusion(one.keys()), one.inclusion(one.keys()))


def test_shards_of_another_number_draw_other_numbers_and_lose_nobody() -> None:
    parts = [Reservoir(6, seed=1, shard=r, shards=2) for r in range(2)]
    for r, part in enumerate(parts):
        part.offer(2 * arange(20) + r, np.zeros(20))
    whole = sharding.merged(parts, 12)
    assert kept_set(whole) == kept_set(parts[0]) | kept_set(parts[1])
    thirds = sharding.split(whole, 3)
    drawn = [uniforms(1, 0, part.state_dict()["number"], 5, 3) for part in thirds]
    assert np.unique(drawn).size == 15
    assert all(len(part) == 4 and part.arrivals >= 4 for part in thirds)
    assert sum(part.arrivals for part in thirds) == 40


def test_a_shard_or_an_indivisible_capacity_is_not_split() -> None:
    with pytest.raises(ValueError, match="no shard itself"):
        sharding.split(Reservoir(6, seed=1, shard=1, shards=2), 2)
    with pytest.raises(ValueError, match="a divisor of the capacity 6, got 4"):
        sharding.split(Reservoir(6, seed=1), 4)
