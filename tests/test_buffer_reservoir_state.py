"""The state of a reservoir: it is saved and loaded whole or refused, and what is wrong is named."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from reservoirs import POLICIES, arange, reloaded, same_state

from buffer.reservoir import Reservoir

# --- state and bad input


def busy(**policy: Any) -> Reservoir:
    reservoir = Reservoir(20, seed=11, **policy)
    for start in range(0, 90, 30):
        reservoir.offer(arange(30, start), np.linspace(-2, 2, 30))
        reservoir.update(reservoir.sample(5).keys, np.linspace(1, -1, 5))
    return reservoir


@pytest.mark.usefixtures("any_depth")
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
