"""The reservoir as a distribution: closed forms under fixed seeds, literal policies, and a sorted list as the oracle."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from buffer import sharding, trees
from buffer.reservoir import Reservoir
from buffer.scoring import uniforms

POLICIES: dict[str, dict[str, Any]] = {
    "uniform": {"noise": 1, "loss_weight": 0},
    "fifo": {"noise": 0, "loss_weight": 0, "half_life": 7.0},
    "greedy": {"noise": 0, "loss_weight": 1},
    "weighted": {"noise": 1, "loss_weight": 1},
    "easy first": {"noise": 1, "loss_weight": -1},
    "decayed": {"noise": 1, "loss_weight": 0.5, "half_life": 20.0},
}
phis = st.one_of(st.floats(-2, 2), st.sampled_from([-2.0, 0.0, 1.0, 2.0]))  # the second makes ties


@pytest.fixture(scope="class", params=[trees.TOP_NODES, 2], ids=["flat trees", "deep trees"])
def _depth(request: pytest.FixtureRequest) -> Iterator[None]:
    """A few keys fit into one level of a tree; with so small a top they make many. (A scope that hypothesis allows.)"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees, "TOP_NODES", request.param)
        yield


def arange(count: int, start: int = 0) -> NDArray[np.int64]:
    return np.arange(start, start + count)


def kept_set(reservoir: Reservoir) -> set[int]:
    return set(reservoir.keys().tolist())


def same_state(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def reloaded(reservoir: Reservoir) -> Reservoir:
    """Another one with the same settings and its state."""
    other = Reservoir(**reservoir.state_dict()["settings"])
    other.load_state_dict(reservoir.state_dict())
    return other


def largest(reservoirs: list[Reservoir], count: int) -> set[int]:
    """The oracle: sort every kept key (they are their arrival numbers) by score, of equal ones the earlier first."""
    keys = np.concatenate([reservoir.keys() for reservoir in reservoirs])
    found = np.concatenate([reservoir.scores(reservoir.keys()) for reservoir in reservoirs])
    pairs = sorted(zip(-found, keys.tolist(), strict=True))
    return {key for _, key in pairs[:count]}


def inclusion_counts(trials: int, capacity: int, phi: NDArray[np.float64], **policy: Any) -> NDArray[np.int64]:
    """How often each of the arrivals is there at the end, over reservoirs of different seeds."""
    counts = np.zeros(phi.size, np.int64)
    for seed in range(trials):
        reservoir = Reservoir(capacity, seed=seed, **policy)
        reservoir.offer(arange(phi.size), phi)
        counts[reservoir.keys()] += 1
    return counts


def within(estimates: list[float], truth: float, *, precision: float) -> bool:
    """Return whether the mean is within four standard errors of the truth and its standard error at most `precision`."""
    error = float(np.std(estimates, ddof=1)) / math.sqrt(len(estimates))
    return error <= precision and abs(float(np.mean(estimates)) - truth) <= 4 * error


# --- distributions


def test_the_uniform_reservoir_keeps_every_arrival_with_probability_n_over_t() -> None:
    trials, n, t = 3000, 8, 40
    counts = inclusion_counts(trials, n, np.zeros(t), **POLICIES["uniform"])
    p = n / t
    chi2 = np.sum((counts - trials * p) ** 2) / (trials * p * (1 - p)) * (t - 1) / t
    assert abs(chi2 - (t - 1)) < 4 * math.sqrt(2 * (t - 1))


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 0, 3, 1]])
def test_the_weighted_reservoir_includes_as_successive_sampling_does_in_any_order(order: list[int]) -> None:
    phi = np.array([-2.0, -0.5, 0.0, 1.0, 2.0])[order]
    weight, expected = np.exp(phi), np.zeros(phi.size)
    for first, second in itertools.permutations(range(phi.size), 2):
        probability = weight[first] / weight.sum() * weight[second] / (weight.sum() - weight[first])
        expected[[first, second]] += probability
    trials = 4000
    counts = inclusion_counts(trials, 2, phi, **POLICIES["weighted"])
    z = (counts - trials * expected) / np.sqrt(trials * expected * (1 - expected))
    assert np.abs(z).max() < 4


def test_the_decayed_reservoir_has_the_mean_age_that_its_half_life_gives_it() -> None:
    n, half_life, total = 300, 400.0, 8000
    ages = np.arange(total) + 0.0
    low, high = 0.0, 100.0  # the threshold at which the expected number of kept items is n
    for _ in range(60):
        middle = (low + high) / 2
        share = -np.expm1(-middle * np.exp2(-ages / half_life))
        low, high = (middle, high) if share.sum() < n else (low, middle)
    means = []
    for seed in range(12):
        reservoir = Reservoir(n, loss_weight=0, half_life=half_life, seed=seed)
        for start in range(0, total, 1000):
            reservoir.offer(arange(1000, start), np.zeros(1000))
        means.append(float(np.mean(total - 1 - reservoir.keys())))
    assert within(means, float(np.sum(share * ages) / n), precision=15)


def test_horvitz_thompson_totals_and_means_are_unbiased_where_the_plain_mean_is_not() -> None:
    phi = np.random.default_rng(5).uniform(-2, 2, 300)
    counts, means, plain = [], [], []
    for seed in range(1000):
        reservoir = Reservoir(40, seed=seed)
        for start in range(0, 300, 60):
            reservoir.offer(arange(60, start), phi[start : start + 60])
        keys = reservoir.keys()
        inclusion = reservoir.inclusion(keys)
        counts.append(float(np.sum(1 / inclusion)))
        means.append(float(np.sum(phi[keys] / inclusion) / 300))
        plain.append(float(phi[keys].mean()))
    assert within(counts, 300, precision=4)
    assert within(means, float(phi.mean()), precision=0.02)
    assert abs(np.mean(plain) - phi.mean()) > 30 * np.std(plain) / math.sqrt(1000)


@given(
    st.floats(-2, 2),
    st.sampled_from([math.inf, 30.0]),
    st.floats(0.2, 3),
    st.integers(1, 12),
    st.lists(phis, min_size=13, max_size=40),
)
@settings(max_examples=50)
def test_inclusion_is_the_chance_that_a_gumbel_clears_the_largest_score_turned_away(
    loss_weight: float, half_life: float, noise: float, capacity: int, phi: list[float]
) -> None:
    """P(loss_weight * phi + t * ln 2 / half_life + noise * G > cut) = 1 - exp(-exp(-(cut - the rest) / noise))."""
    policy: dict[str, Any] = {"loss_weight": loss_weight, "half_life": half_life, "noise": noise, "seed": 3}
    reservoir, everything = Reservoir(capacity, **policy), Reservoir(40, **policy)
    for kept in (reservoir, everything):
        kept.offer(arange(len(phi)), phi)
    cut = np.sort(everything.scores(arange(len(phi))))[-capacity - 1]
    for key, found in zip(reservoir.keys().tolist(), reservoir.inclusion(reservoir.keys()), strict=True):
        rest = loss_weight * phi[key] + key * math.log(2) / half_life
        assert found == pytest.approx(1 - math.exp(-math.exp(-(cut - rest) / noise)), rel=1e-9)


@pytest.mark.parametrize("half_life", [math.inf, 100.0])
def test_horvitz_thompson_stays_unbiased_while_updates_move_the_scores(half_life: float) -> None:
    """Phi falls after the first steps, so later arrivals enter below the highest score ever turned away."""
    phi = np.random.default_rng(6).uniform(-2, 2, (8, 160)) - np.linspace(-1, 1, 8)[:, None]
    phi = np.clip(phi, -2, 2)
    counts = []
    for seed in range(600):
        reservoir = Reservoir(25, half_life=half_life, seed=seed)
        for step in range(8):
            now = arange(20, 20 * step)
            reservoir.offer(now[:10], phi[step, now[:10]])
            reservoir.offer(now[10:], phi[step, now[10:]])
            again = reservoir.keys()[reservoir.keys() % 3 != step % 3]
            reservoir.update(again, phi[step, again])
        counts.append(float(np.sum(1 / reservoir.inclusion(reservoir.keys()))))
    assert within(counts, 160, precision=3)


@pytest.mark.parametrize("loss_weight", [1.0, -0.5])
def test_sampling_draws_each_key_as_often_as_its_probability_says_and_weights_lead_back_to_uniform(
    loss_weight: float,
) -> None:
    reservoir = Reservoir(13, loss_weight=loss_weight, uniform_floor=0.25, seed=3)
    reservoir.offer(arange(11, 100), np.linspace(-2, 2, 11))
    weight = np.exp(loss_weight * np.linspace(-2, 2, 11))
    p = 0.75 * weight / weight.sum() + 0.25 / 11
    for n in (1, 4, 50):
        draws = [reservoir.sample(n) for _ in range(12_000 // n)]
        keys = np.concatenate([draw.keys for draw in draws]) - 100
        assert np.concatenate([draw.weights for draw in draws]) == pytest.approx(1 / (11 * p[keys]))
        counts = np.bincount(keys, minlength=11)
        assert np.abs((counts - keys.size * p) / np.sqrt(keys.size * p * (1 - p))).max() < 4
        per_sample = np.array([np.bincount(draw.keys - 100, minlength=11) for draw in draws])
        assert np.all(np.abs(per_sample - n * p) < 2)  # stratified: never far from the expectation


def test_a_sample_as_large_as_the_reservoir_at_equal_weights_draws_every_key_once() -> None:
    reservoir = Reservoir(100, loss_weight=0, seed=0)
    reservoir.offer(arange(77), np.zeros(77))
    assert sorted(reservoir.sample(77).keys.tolist()) == list(range(77))


def test_a_uniform_floor_of_one_ignores_the_loss_and_of_zero_leaves_it_alone() -> None:
    phi = np.array([-2.0, 2.0])
    even, steep = Reservoir(2, uniform_floor=1, seed=0), Reservoir(2, uniform_floor=0, seed=0)
    even.offer([0, 1], phi)
    steep.offer([0, 1], phi)
    assert np.bincount(even.sample(1000).keys).tolist() == [500, 500]
    assert np.mean(steep.sample(1000).keys) == pytest.approx(1 / (1 + math.exp(-4)), abs=2e-3)


# --- exact policies


@given(
    st.floats(-3, 3),
    st.one_of(st.just(math.inf), st.floats(0.5, 1000)),
    st.floats(0, 3),
    st.lists(phis, min_size=1, max_size=30),
    st.integers(0, 2**64 - 1),
)
@settings(max_examples=50)
def test_the_score_is_the_one_formula_to_the_letter(
    loss_weight: float, half_life: float, noise: float, phi: list[float], seed: int
) -> None:
    """s = loss_weight * phi + t * ln 2 / half_life + noise * G: half as likely to stay for each half-life it came earlier."""
    reservoir = Reservoir(len(phi), loss_weight=loss_weight, half_life=half_life, noise=noise, seed=seed)
    reservoir.offer(arange(len(phi)), phi)
    expected = [
        loss_weight * value + t * math.log(2) / half_life + noise * -math.log(-math.log(u))
        for t, (value, u) in enumerate(zip(phi, uniforms(seed, 0, 0, len(phi)).tolist(), strict=True))
    ]
    assert reservoir.scores(arange(len(phi))) == pytest.approx(expected, rel=1e-12, abs=1e-12)


Floats = NDArray[np.float64]
LITERAL: dict[str, Callable[[Floats, Floats, NDArray[np.int64]], Floats]] = {
    "uniform": lambda u, _weight, _t: u,  # a random number each, the largest stay
    "weighted": lambda u, weight, _t: u ** (1 / weight),  # Efraimidis and Spirakis, A-ES
    "easy first": lambda u, weight, _t: u**weight,
    "decayed": lambda u, weight, t: np.log(u) / (weight**0.5 * 2 ** (t / 20.0)),  # A-ES of weights that grow by arrival
}


@pytest.mark.parametrize("policy", sorted(LITERAL))
def test_a_row_of_the_policy_table_is_its_policy_to_the_letter(policy: str) -> None:
    phi = np.random.default_rng(7).uniform(-2, 2, 600)
    reservoir = Reservoir(25, seed=5, **POLICIES[policy])
    for start in range(0, 600, 17):
        keys = arange(min(17, 600 - start), start)
        reservoir.offer(keys, phi[keys])
    order = LITERAL[policy](uniforms(5, 0, 0, 600), np.exp(phi), arange(600))
    assert kept_set(reservoir) == set(np.argsort(order)[-25:].tolist())


def test_first_in_first_out_keeps_exactly_the_last_n() -> None:
    reservoir = Reservoir(10, seed=0, **POLICIES["fifo"])
    reservoir.offer(arange(10), np.zeros(10))
    for start in range(10, 400, 3):
        offer = reservoir.offer(arange(3, start), np.random.default_rng(start).uniform(-2, 2, 3))
        assert offer.kept.all()
        assert set(offer.evicted.tolist()) == {start - 10, start - 9, start - 8}


def blog_rule(losses: NDArray[np.float64], size: int, *, worst_is_highest: bool) -> list[set[int]]:
    """The set of frames after each one, by the rule of the live-video blog (seed 001), to the letter.

    "If the new frame has a higher loss than the worst image in the dataset, replace the best image in the dataset."
    The best is the one with the lowest loss: learned already; of equal ones the latest.
    """
    kept: list[tuple[float, int]] = []  # loss, and minus the arrival
    sets = []
    for arrival, loss in enumerate(losses.tolist()):
        if len(kept) < size:
            kept.append((loss, -arrival))
        elif loss > (max(kept) if worst_is_highest else min(kept))[0]:
            kept[kept.index(min(kept))] = (loss, -arrival)
        sets.append({-minus for _, minus in kept})
    return sets


@pytest.mark.parametrize("batch", [1, 7, 50])
def test_the_greedy_policy_is_the_literal_rule_of_the_live_video_blog(batch: int) -> None:
    """Our reading: the worst image is the one worth least, of the lowest loss; so the set becomes that of the highest losses."""
    losses = np.random.default_rng(2).integers(-20, 21, 500) / 10  # many equal ones
    expected = blog_rule(losses, 30, worst_is_highest=False)
    reservoir = Reservoir(30, seed=0, **POLICIES["greedy"])
    for start in range(0, 500, batch):
        keys = arange(min(batch, 500 - start), start)
        reservoir.offer(keys, losses[keys])
        assert kept_set(reservoir) == expected[keys[-1]]


def test_the_other_reading_of_the_live_video_blog_keeps_the_first_images_for_ever() -> None:
    """Why it is not ours: where the worst image is that of the highest loss, only a record enters, and records end."""
    losses = np.random.default_rng(3).uniform(-2, 2, 5000)
    after = {worst: blog_rule(losses, 30, worst_is_highest=worst)[-1] for worst in (True, False)}
    assert len(after[True] & set(range(30))) > 20  # ln(5000 / 30) = 5 records are to be expected
    assert after[False] == set(np.argsort(losses)[-30:].tolist())


@pytest.mark.usefixtures("_depth")
@given(
    st.sampled_from(sorted(POLICIES)),
    st.integers(1, 12),
    st.lists(st.lists(phis, max_size=15), max_size=8),
    st.integers(0, 2**64 - 1),
)
@settings(max_examples=150)
def test_batches_of_any_size_keep_what_one_by_one_keeps_and_a_sort_finds(
    policy: str, capacity: int, batches: list[list[float]], seed: int
) -> None:
    flat = [phi for batch in batches for phi in batch]
    batched, single = (Reservoir(capacity, seed=seed, **POLICIES[policy]) for _ in range(2))
    everything = Reservoir(1000, seed=seed, **POLICIES[policy])
    everything.offer(arange(len(flat)), np.array(flat))
    for batch in batches:
        before = kept_set(batched)
        keys = arange(len(batch), batched.arrivals)
        offer = batched.offer(keys, np.array(batch))
        assert kept_set(batched) == before - set(offer.evicted.tolist()) | set(keys[offer.kept].tolist())
        assert set(offer.evicted.tolist()) <= before
    for key, phi in enumerate(flat):
        single.offer([key], [phi])
    assert kept_set(batched) == kept_set(single) == largest([everything], capacity)
    assert len(batched) == min(capacity, len(flat))
    keys = batched.keys()
    assert np.array_equal(batched.inclusion(keys), single.inclusion(keys))


def test_the_order_of_offers_does_not_matter_where_the_score_does_not_hold_it() -> None:
    generator = np.random.default_rng(1)
    phi = generator.uniform(-2, 2, 200)
    sets = []
    for _ in range(5):
        reservoir = Reservoir(20, seed=0, **POLICIES["greedy"])
        for part in np.split(generator.permutation(200), 8):
            reservoir.offer(part, phi[part])
        sets.append(kept_set(reservoir))
    assert all(kept == sets[0] for kept in sets)


@pytest.mark.usefixtures("_depth")
@given(st.data(), st.sampled_from(sorted(POLICIES)), st.integers(1, 9))
@settings(max_examples=100)
def test_offers_updates_and_reloads_in_any_order_agree_with_a_sorted_list(
    data: st.DataObject, policy: str, capacity: int
) -> None:
    reservoir = Reservoir(capacity, seed=4, **POLICIES[policy])
    model = Reservoir(500, seed=4, **POLICIES[policy])  # keeps all: knows the score of each key
    alive: set[int] = set()
    for _ in range(data.draw(st.integers(1, 10))):
        action = data.draw(st.sampled_from(["offer", "update", "reload"]))
        if action == "offer":
            phi = np.array(data.draw(st.lists(phis, max_size=8)))
            keys = arange(phi.size, reservoir.arrivals)
            reservoir.offer(keys, phi)
            model.offer(keys, phi)
            alive |= set(keys.tolist())
            if alive:
                ranked = sorted(alive, key=lambda key: (-model.scores([key])[0], key))
                alive = set(ranked[:capacity])
        elif action == "update" and alive:
            chosen = data.draw(st.lists(st.sampled_from(sorted(alive)), unique=True))
            phi = np.array(data.draw(st.lists(phis, min_size=len(chosen), max_size=len(chosen))))
            reservoir.update(chosen, phi)
            model.update(chosen, phi)
        else:
            reservoir = reloaded(reservoir)
        assert kept_set(reservoir) == alive
        keys = reservoir.keys()
        assert np.array_equal(reservoir.scores(keys), model.scores(keys))
        assert np.array_equal(reservoir.phi(keys), model.phi(keys))


# --- staleness


def test_forcing_the_stalest_into_every_batch_bounds_the_age_of_every_measurement() -> None:
    reservoir, bound = Reservoir(50, half_life=60, seed=2), 9
    generator = np.random.default_rng(0)
    for step in range(60):
        reservoir.offer(arange(4, 4 * step), generator.uniform(-2, 2, 4))
        forced = reservoir.stalest(math.ceil(len(reservoir) / bound))
        oldest_first = reservoir.ages(forced)
        assert np.all(np.diff(oldest_first) <= 0)
        assert oldest_first[0] == reservoir.ages(reservoir.keys()).max()
        batch = np.union1d(forced, reservoir.sample(3).keys)
        reservoir.update(batch, generator.uniform(-2, 2, batch.size))
        assert reservoir.ages(reservoir.keys()).max() <= bound
        assert np.all(reservoir.ages(batch) == 0)


def test_an_update_moves_the_score_by_its_phi_alone_and_the_last_of_a_repeated_key_counts() -> None:
    reservoir = Reservoir(4, loss_weight=0.5, seed=0)
    reservoir.offer([7, 8], [0.0, 1.0])
    before = reservoir.scores([7, 8])
    reservoir.update([7, 7], [1.0, -2.0])
    assert reservoir.scores([7, 8]) - before == pytest.approx([-1.0, 0.0])
    assert reservoir.phi([8, 7]).tolist() == [1.0, -2.0]
    assert 7 in reservoir
    assert 9 not in reservoir


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


@pytest.mark.usefixtures("_depth")
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


def test_shards_draw_apart_and_a_merged_reservoir_draws_anew() -> None:
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


# --- state and bad input


def busy(**policy: Any) -> Reservoir:
    reservoir = Reservoir(20, seed=11, **policy)
    for start in range(0, 90, 30):
        reservoir.offer(arange(30, start), np.linspace(-2, 2, 30))
        reservoir.update(reservoir.sample(5).keys, np.linspace(1, -1, 5))
    return reservoir


@pytest.mark.usefixtures("_depth")
@pytest.mark.parametrize("policy", [*POLICIES.values(), {"shard": 2, "shards": 3}], ids=[*POLICIES, "a shard"])
def test_a_saved_and_loaded_reservoir_takes_the_identical_next_steps(policy: dict[str, Any]) -> None:
    original = busy(**policy)
    restored = reloaded(original)
    assert np.array_equal(original.inclusion(original.keys()), restored.inclusion(original.keys()))
    for start in range(90, 300, 30):
        offers = [r.offer(arange(30, start), np.linspace(2, -2, 30)) for r in (original, restored)]
        samples = [r.sample(7) for r in (original, restored)]
        assert all(np.array_equal(a, b) for a, b in zip(*offers, strict=True))
        assert all(np.array_equal(a, b) for a, b in zip(*samples, strict=True))
        for r in (original, restored):
            r.update(np.union1d(r.stalest(3), samples[0].keys)[:5], np.linspace(-1, 1, 5))
        assert same_state(original.state_dict(), restored.state_dict())


def test_a_state_is_numpy_arrays_and_what_json_can_hold() -> None:
    state = busy().state_dict()
    plain = {name: value for name, value in state.items() if not isinstance(value, np.ndarray)}
    restored = Reservoir(20, seed=11)
    restored.load_state_dict({**state, **json.loads(json.dumps(plain))})
    assert same_state(restored.state_dict(), state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {}}, "settings must be"),
        ({"keys": np.zeros(20, np.int64)}, "keys must be distinct"),
        ({"keys": np.zeros(19, np.int64)}, "phi must be 19 values"),
        ({"keys": np.zeros(20)}, "keys must be a int64 vector"),
        ({"phi": np.full(20, 3.0)}, r"phi must be within \[-2, 2\]"),
        ({"gumbel": np.full(20, np.nan)}, "gumbel must be finite"),
        ({"hurdle": np.full(20, np.nan)}, "hurdle must be free of nan"),
        ({"arrivals": -1}, "arrivals must be a whole number"),
        ({"arrivals": 19}, "kept keys must be at most 19"),
        ({"number": 3}, "arrival must be below number"),
        ({"step": 1}, "measured must be at most step"),
        ({"cut_scores": np.array([np.nan])}, "cut_scores must be falling"),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(change: dict[str, Any], message: str) -> None:
    reservoir = busy()
    before = reservoir.state_dict()
    with pytest.raises(ValueError, match=message):
        reservoir.load_state_dict({**before, **change})
    with pytest.raises(ValueError, match="state must be made of"):
        reservoir.load_state_dict({"keys": before["keys"]})
    assert same_state(before, reservoir.state_dict())


@pytest.mark.parametrize("capacity", [1 << 10, 1 << 17, (1 << 17) - 1])
def test_a_key_takes_at_most_97_bytes(capacity: int) -> None:
    reservoir = Reservoir(capacity, seed=0)
    trees = (reservoir._rank, reservoir._measured, reservoir._weight)
    arrays = [reservoir._items, *vars(reservoir._index).values(), *(level for tree in trees for level in tree._levels)]
    assert 80 * capacity < sum(array.nbytes for array in arrays if isinstance(array, np.ndarray)) <= 97 * capacity


@pytest.mark.parametrize("change", [{"capacity": 21}, {"seed": 12}, {"half_life": 9.0}, {"shard": 1, "shards": 2}])
def test_a_state_with_another_capacity_or_setting_is_refused_and_changes_nothing(change: dict[str, Any]) -> None:
    reservoir, other = busy(), Reservoir(**{"capacity": 20, "seed": 11, **change})
    other.offer(arange(25), np.zeros(25))
    before = other.state_dict()
    name, value = next(iter(change.items()))
    with pytest.raises(ValueError, match=rf"'{name}': {value}.*, got "):
        other.load_state_dict(reservoir.state_dict())
    assert same_state(before, other.state_dict())


@pytest.mark.parametrize(
    ("keys", "phi", "message"),
    [
        ([500, 500], [0, 0], "distinct"),
        ([89], [0], "new, got .89., which are kept already"),
        ([500], [0, 0], "one number for each of the 1 keys"),
        ([500], [math.nan], "finite and within"),
        ([500], [math.inf], "finite and within"),
        ([500, 501], [0, 2.01], r"finite and within \[-2, 2\], got \[2.01\]"),
        ([500.5], [0], "vector of int64"),
        ([[500]], [0], "vector of int64"),
        ([2**63], [0], "vector of int64"),
        ([500], ["high"], "vector of floats"),
    ],
)
def test_a_bad_offer_says_why_and_changes_nothing(keys: Any, phi: Any, message: str) -> None:
    reservoir = busy(**POLICIES["fifo"])
    before = reservoir.state_dict()
    with pytest.raises(ValueError, match=message):
        reservoir.offer(keys, phi)
    assert same_state(before, reservoir.state_dict())


def test_unknown_keys_and_a_bad_phi_in_an_update_say_why_and_change_nothing() -> None:
    reservoir = busy(**POLICIES["fifo"])
    before = reservoir.state_dict()
    with pytest.raises(KeyError, match=r"2 keys are not in the reservoir, such as \[5, 6\]"):
        reservoir.update([89, 5, 6], [0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="finite"):
        reservoir.update([89], [math.nan])
    with pytest.raises(ValueError, match="one number for each"):
        reservoir.update([89], [0.0, 1.0])
    for question in (reservoir.phi, reservoir.scores, reservoir.inclusion, reservoir.ages):
        with pytest.raises(KeyError, match="not in the reservoir"):
            question([5])
    with pytest.raises(ValueError, match="size of a sample must be a whole number of at least 1, got 0"):
        reservoir.sample(0)
    with pytest.raises(ValueError, match="at least 0"):
        reservoir.stalest(-1)
    assert same_state(before, reservoir.state_dict())


def test_an_empty_reservoir_answers_empty_and_cannot_be_sampled() -> None:
    reservoir = Reservoir(3, seed=0)
    assert reservoir.offer([], []).evicted.size == 0
    assert len(reservoir) == reservoir.keys().size == reservoir.stalest(4).size == 0
    reservoir.update([], [])
    with pytest.raises(ValueError, match="offer keys first"):
        reservoir.sample(1)


def test_nothing_turned_away_means_inclusion_one() -> None:
    reservoir = Reservoir(3, seed=0)
    reservoir.offer([1, 2, 3], [0.0, -2.0, 2.0])
    assert reservoir.inclusion([1, 2, 3]).tolist() == [1, 1, 1]
    reservoir.offer([4], [0.0])
    assert reservoir.inclusion(reservoir.keys()).min() < 1


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("capacity", 0),
        ("capacity", 1.5),
        ("capacity", 1 << 31),
        ("capacity", math.nan),
        ("half_life", 0),
        ("half_life", -3.0),
        ("half_life", math.nan),
        ("noise", -0.1),
        ("noise", math.inf),
        ("noise", math.nan),
        ("uniform_floor", -0.1),
        ("uniform_floor", 1.1),
        ("loss_weight", math.nan),
        ("loss_weight", math.inf),
        ("seed", -1),
        ("seed", 2**64),
        ("shards", 0),
        ("shards", 1025),
        ("shard", 1),
        ("shard", -1),
    ],
)
def test_a_setting_out_of_range_is_named(setting: str, value: float) -> None:
    arguments: dict[str, Any] = {"capacity": 4, "seed": 0, setting: value}
    with pytest.raises(ValueError, match=f"^{setting} must be .*, got {value}"):
        Reservoir(**arguments)
