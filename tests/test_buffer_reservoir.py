"""The reservoir: what stays and what is drawn are what the formula says, for every policy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reservoirs import POLICIES, arange, kept_set, largest, phis, reloaded, within

from buffer.reservoir import Reservoir
from buffer.scoring import uniforms


def inclusion_counts(trials: int, capacity: int, phi: NDArray[np.float64], **policy: Any) -> NDArray[np.int64]:
    """How often each of the arrivals is there at the end, over reservoirs of different seeds."""
    counts = np.zeros(phi.size, np.int64)
    for seed in range(trials):
        reservoir = Reservoir(capacity, seed=seed, **policy)
        reservoir.offer(arange(phi.size), phi)
        counts[reservoir.keys()] += 1
    return counts


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


@pytest.mark.usefixtures("any_depth")
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


@pytest.mark.usefixtures("any_depth")
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
