"""What is remembered: each pair once through the fresh queue, then as the reservoir decides; images as they came."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from learner_state import leaves
from tiny_learner import TINY, make_pairs, tiny_learner

from learner.errors import SettingsError
from learner.loop import learn
from learner.memory import pictures
from learner.memory.canvas import on_canvas
from learner.memory.config import MemoryConfig
from learner.memory.decoding import decode_all, decode_onto
from learner.memory.memory import Draw, Memory
from learner.runs.checkpoint import load_checkpoint, save_checkpoint
from stream.codec import encode_pair
from stream.image import Image
from stream.pair import Codec, EncodedPair, StereoPair
from stream.source import IteratorSource

CONFIG = MemoryConfig(capacity=12, fresh_capacity=6, canvas=(8, 10), stalest_share=0.2)
BATCH = 5


def encoded(left: Image, right: Image, seq: int = 0) -> EncodedPair:
    return encode_pair(left, right, device="rig", epoch="c" * 32, seq=seq, left_ns=0, right_ns=0, codec="lz4")


def pair_of(left: Image, right: Image) -> StereoPair:
    return decode_onto(CONFIG.canvas, encoded(left, right))


def numbered(seq: int) -> StereoPair:
    return decode_onto(CONFIG.canvas, encoded_number(seq))


def encoded_number(seq: int) -> EncodedPair:
    """Each pixel of the left eye says which pair it is, each of the right eye its complement."""
    pixel = np.array([seq & 255, seq >> 8 & 255, 7], np.uint8)
    left = np.tile(pixel, (*CONFIG.canvas, 1))
    return encoded(left, 255 - left, seq)


def reloaded(memory: Memory, damaged: Collection[int] = ()) -> Memory:
    """Another memory with the same state; pair number n has key n, the pairs in `damaged` cannot be read."""
    state = memory.state_dict()
    other = Memory(memory.config, seed=1)
    other.load_state_dict(state, (None if key in damaged else numbered(key) for key in state["keys"].tolist()))
    return other


def filled(count: int, config: MemoryConfig = CONFIG, batch: int = BATCH) -> Memory:
    """A memory that was trained on `count` pairs."""
    memory = Memory(config, seed=1)
    rng = np.random.default_rng(2)
    for seq in range(count):
        memory.add(decode_onto(config.canvas, encoded_number(seq)))
        if memory.fresh == batch or seq == count - 1:
            draw = memory.draw(memory.fresh)
            memory.score(draw, rng.random(len(draw.keys)))
    return memory


def left_of(memory: Memory, draw: Draw) -> list[int]:
    """The numbers that the left images of a draw show."""
    pixels = memory.batch(draw, torch.device("cpu")).left[:, 0, 0].long()
    return (pixels[:, 0] + 256 * pixels[:, 1]).tolist()


def test_images_on_the_canvas_come_back_bit_for_bit_each_eye_in_its_place() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 10, 3), dtype=np.uint8)
    memory = Memory(CONFIG, seed=0)
    memory.add(pair_of(images[0], images[1]))
    batch = memory.batch(memory.draw(1), torch.device("cpu"))
    assert np.array_equal(batch.left[0].numpy(), images[0])
    assert np.array_equal(batch.right[0].numpy(), images[1])
    assert batch.aspect.tolist() == [pytest.approx(1.25)]


def test_a_grey_image_is_repeated_over_the_three_colours() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (8, 10), dtype=np.uint8)
    memory = Memory(CONFIG, seed=0)
    memory.add(pair_of(grey, 255 - grey))
    batch = memory.batch(memory.draw(1), torch.device("cpu"))
    for channel in range(3):
        assert np.array_equal(batch.left[0, ..., channel].numpy(), grey)
        assert np.array_equal(batch.right[0, ..., channel].numpy(), 255 - grey)


@pytest.mark.parametrize("size", [(4, 6), (16, 40), (64, 20)])
def test_an_image_of_another_size_is_squeezed_whole_and_its_aspect_remembered(size: tuple[int, int]) -> None:
    height, width = size
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2] = (255, 0, 0)
    image[:, width // 2 :] = (0, 0, 200)
    memory = Memory(CONFIG, seed=0)
    memory.add(pair_of(image, image))
    batch = memory.batch(memory.draw(1), torch.device("cpu"))
    seen = batch.left[0].numpy()
    assert seen[:, :4].reshape(-1, 3).tolist() == [[255, 0, 0]] * 32
    assert seen[:, 6:].reshape(-1, 3).tolist() == [[0, 0, 200]] * 32
    assert batch.aspect.tolist() == [pytest.approx(width / height)]


def test_shrinking_averages_instead_of_picking_pixels() -> None:
    checks = np.indices((16, 20)).sum(0) % 2 * np.uint8(200)
    assert set(on_canvas(checks.astype(np.uint8), (8, 10)).ravel().tolist()) == {100}


def test_fresh_pairs_are_drawn_first_in_their_order_and_once() -> None:
    memory = Memory(CONFIG, seed=0)
    for seq in range(4):
        memory.add(numbered(seq))
    first, second = memory.draw(3), memory.draw(3)
    assert (left_of(memory, first), first.fresh) == ([0, 1, 2], 3)
    assert (left_of(memory, second), second.fresh) == ([3], 1)


def test_a_batch_is_filled_up_from_the_reservoir() -> None:
    memory = filled(10)
    for seq in (10, 11):
        memory.add(numbered(seq))
    draw = memory.draw(8)
    shown = left_of(memory, draw)
    assert shown[:2] == [10, 11]
    assert draw.fresh == 2
    assert len(shown) == 8
    assert set(shown[2:]) <= set(range(10))
    assert memory.names_of(draw)[0] == "rig/cccccccc/10"


def test_beyond_its_room_the_oldest_fresh_pair_is_dropped_and_counted() -> None:
    memory = Memory(CONFIG, seed=0)
    for seq in range(9):
        memory.add(numbered(seq))
    assert (memory.dropped_fresh, memory.fresh, memory.arrived) == (3, 6, 9)
    assert left_of(memory, memory.draw(6)) == [3, 4, 5, 6, 7, 8]


def test_a_pair_drawn_twice_is_scored_once_by_the_mean() -> None:
    memory = filled(3)
    slots = pictures.over_time(memory, 3)[:1]
    key = np.array([2, 2])
    memory.score(Draw(key, np.repeat(slots, 2), 0), np.array([1.0, 3.0]))
    assert memory.slots.priority[slots].tolist() == [2.0]


def test_no_score_grows_older_than_the_stalest_share_allows() -> None:
    """Two of ten are the longest unscored: with 12 kept, each is drawn again after at most six steps."""
    memory = filled(12)
    rng = np.random.default_rng(0)
    oldest = 0
    for _ in range(60):
        draw = memory.draw(10)
        memory.score(draw, rng.random(10))
        oldest = max(oldest, int(memory.ranking.reservoir.ages(memory.ranking.reservoir.keys()).max()))
    assert oldest <= 6


def test_no_score_of_a_learner_grows_older_than_that_while_pairs_come_and_go() -> None:
    """Two of eight are the longest unscored: with 24 kept, each is measured again after at most 12 steps."""
    learner = tiny_learner(replace(TINY, memory=replace(TINY.memory, stalest_share=0.25)))
    reservoir = learner.memory.ranking.reservoir
    steps = learn(learner, IteratorSource(make_pairs(130)), clock=time.monotonic)
    oldest = [int(reservoir.ages(reservoir.keys()).max(initial=0)) for _ in steps]
    assert reservoir.arrivals == 130
    assert 6 <= max(oldest) <= 12


def test_the_room_that_fresh_pairs_leave_is_for_the_stalest_first() -> None:
    memory = filled(12)
    for seq in range(12, 18):
        memory.add(numbered(seq))
    stalest = memory.ranking.reservoir.stalest(1).tolist()
    draw = memory.draw(7)
    assert draw.fresh == 6
    assert draw.keys[6:].tolist() == stalest


def test_a_pair_that_stays_hard_loses_its_priority_and_one_that_improves_keeps_it() -> None:
    """Keys 0 and 1 begin as hard as each other, the rest are easy; only the priority of key 1 falls."""
    memory = Memory(CONFIG, seed=0)
    for seq in range(6):
        memory.add(numbered(seq))
    memory.score(memory.draw(6), np.array([9.0, 9.0, 1.0, 1.1, 0.9, 1.0]))
    first = memory.ranking.reservoir.phi([0, 1])
    assert first[0] == first[1] > 1
    everything = Draw(np.arange(6), memory.slots.of(range(6)), 0)
    for replay in range(1, 8):
        memory.score(everything, np.array([9.0, 9.0 * 0.94**replay, 1.0, 1.1, 0.9, 1.0]))
    hard, improving = memory.ranking.reservoir.phi([0, 1])
    assert hard < 0.3 * first[0]
    assert improving > 0.5 * first[1]


@pytest.mark.parametrize(("floor", "least", "most"), [(1.0, 0.18, 0.32), (0.25, 0.05, 0.12), (0.0, 0.0, 0.05)])
def test_the_uniform_floor_is_the_share_of_draws_that_ignores_the_priority(
    floor: float, least: float, most: float
) -> None:
    """Of four pairs key 0 is the easiest by far: phi lies between -2 and 2."""
    memory = Memory(replace(CONFIG, uniform_floor=floor, stalest_share=0.0, loss_weight=2.0), seed=3)
    for seq in range(4):
        memory.add(numbered(seq))
    memory.score(memory.draw(4), np.array([0.0, 9.0, 9.5, 10.0]))
    drawn = np.concatenate([memory.draw(8).keys for _ in range(100)])
    assert least <= np.mean(drawn == 0) <= most


@pytest.mark.parametrize(
    "priority", [[1.0, math.nan, 1.0], [1.0, math.inf, 1.0], [1.0, -0.1, 1.0], [1.0, 1.0], [[1.0, 1.0, 1.0]]]
)
def test_a_priority_that_cannot_be_used_is_refused_and_changes_nothing(priority: list[float]) -> None:
    memory = filled(5)
    draw = memory.draw(3)
    before = dict(leaves(memory.state_dict()))
    with pytest.raises(ValueError, match="3 pairs need as many finite priorities of at least 0, got"):
        memory.score(draw, np.array(priority))
    assert dict(leaves(memory.state_dict())) == before


def test_a_state_of_another_capacity_says_so_and_changes_nothing() -> None:
    memory, larger = filled(5), filled(5, replace(CONFIG, capacity=13))
    before = dict(leaves(memory.state_dict()))
    with pytest.raises(ValueError, match=r"settings must be .*'capacity': 12.*'capacity': 13"):
        memory.load_state_dict(larger.state_dict(), map(numbered, range(5)))
    assert dict(leaves(memory.state_dict())) == before


def test_without_a_share_for_the_stalest_the_whole_draw_is_by_chance() -> None:
    memory = filled(12, replace(CONFIG, stalest_share=0.0))
    assert len(memory.draw(10).keys) == 10


def test_the_extremes_are_the_kept_pairs_of_highest_and_lowest_priority() -> None:
    memory = Memory(CONFIG, seed=0)
    for seq in range(5):
        memory.add(numbered(seq))
    memory.score(memory.draw(5), np.array([3.0, 1.0, 5.0, 2.0, 4.0]))
    memory.add(numbered(5))
    high, low = pictures.extremes(memory, 2)
    assert memory.slots.priority[high].tolist() == [5.0, 4.0]
    assert memory.slots.priority[low].tolist() == [1.0, 2.0]


def test_over_time_spreads_over_all_arrivals_from_the_newest_back() -> None:
    memory = Memory(CONFIG, seed=0)
    for seq in range(6):
        memory.add(numbered(seq))
    assert memory.slots.left[pictures.over_time(memory, 3), 0, 0, 0].tolist() == [5, 3, 1]
    assert memory.slots.left[pictures.over_time(memory, 99), 0, 0, 0].tolist() == [5, 4, 3, 2, 1, 0]


def test_after_a_refused_step_the_innocent_are_drawn_again_and_the_guilty_never() -> None:
    memory = filled(4)
    for seq in range(4, 8):
        memory.add(numbered(seq))
    draw = memory.draw(6)
    bad = np.isin(draw.keys, [5, *draw.keys[4:]])
    memory.refuse(draw, bad)
    guilty = {5, *draw.keys[4:].tolist()}
    assert memory.quarantined == len(guilty)
    assert len(memory) == 8 - len(guilty)
    again = memory.draw(3)
    assert (left_of(memory, again), again.fresh) == ([4, 6, 7], 3)
    memory.score(again, np.ones(3))
    for _ in range(20):
        draw = memory.draw(8)
        assert not set(draw.keys.tolist()) & guilty
        assert len(draw.keys) == 8
        memory.score(draw, np.ones(8))


def test_a_reservoir_all_in_quarantine_gives_nothing() -> None:
    memory = filled(4)
    for _ in range(50):
        draw = memory.draw(4)
        if not len(draw.keys):
            break
        memory.refuse(draw, np.ones(len(draw.keys), np.bool_))
    assert len(memory) == 0
    assert not len(memory.draw(4).keys)
    assert memory.quarantined == 4


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"stalest_share": 1.5}, "stalest_share"),
        ({"stalest_share": math.nan}, "stalest_share"),
        ({"fresh_capacity": 0}, "fresh_capacity"),
        ({"canvas": (0, 10)}, "canvas"),
        ({"canvas": (10, 100_000)}, "canvas"),
        ({"capacity": 1 << 40}, "memory.capacity"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said) as refused:
        Memory(replace(CONFIG, **changed), seed=0)
    assert "\n" not in str(refused.value)


def test_the_state_holds_no_images_and_no_names() -> None:
    few, many = (filled(12, replace(CONFIG, canvas=canvas)).state_dict() for canvas in ((8, 8), (64, 64)))
    assert len(repr(few)) == len(repr(many))
    assert "rig" not in repr(many)


def test_pairs_read_back_are_the_same_pixels_names_and_aspects() -> None:
    """Of every size, codec and number of colours; more of them than are decoded at once."""
    config = replace(CONFIG, capacity=150)
    rng = np.random.default_rng(0)
    pairs = []
    for seq in range(150):
        shape = (*rng.integers(4, 40, 2), 3)[: rng.integers(2, 4)]
        left, right = rng.integers(0, 256, (2, *shape), dtype=np.uint8)
        codec: Codec = "jpeg" if seq % 2 else "lz4"
        pairs.append(
            encode_pair(left, right, device="rig", epoch="c" * 32, seq=seq, left_ns=0, right_ns=0, codec=codec)
        )
    memory, other = Memory(config, seed=0), Memory(config, seed=0)
    for pair in pairs:
        memory.add(decode_onto(CONFIG.canvas, pair))
        if memory.fresh == 5:
            memory.score(memory.draw(5), rng.random(5))
    other.load_state_dict(memory.state_dict(), decode_all(CONFIG.canvas, iter(pairs)))
    draws = [one.draw(150) for one in (memory, other)]
    assert np.array_equal(draws[0].keys, draws[1].keys)
    assert memory.names_of(draws[0]) == other.names_of(draws[1])
    for images in ("left", "right", "aspect"):
        one, two = (
            getattr(m.batch(d, torch.device("cpu")), images) for m, d in zip((memory, other), draws, strict=True)
        )
        assert torch.equal(one, two)


@pytest.mark.parametrize("count", [2, 4])
def test_another_number_of_pairs_than_the_state_has_keys_is_refused(count: int) -> None:
    memory = filled(3)
    with pytest.raises(ValueError, match="zip"):
        Memory(CONFIG, seed=1).load_state_dict(memory.state_dict(), map(numbered, range(count)))


def test_pairs_that_cannot_be_read_back_are_never_drawn_and_counted_once() -> None:
    memory = filled(10)
    for seq in range(10, 14):
        memory.add(numbered(seq))
    other = reloaded(memory, {3, 7, 11})
    assert (len(other), other.fresh, other.quarantined) == (11, 3, 3)
    again = reloaded(other, {3, 7})
    assert (len(again), again.fresh, again.quarantined) == (11, 3, 3)
    assert 11 not in again.state_dict()["keys"]
    for _ in range(20):
        draw = again.draw(8)
        assert left_of(again, draw) == draw.keys.tolist()
        assert not {3, 7, 11} & set(draw.keys.tolist())
        again.score(draw, np.ones(8))


def test_a_pair_that_does_not_decode_any_more_is_as_good_as_damaged() -> None:
    memory = filled(3)
    pairs = [encoded_number(0), replace(encoded_number(1), left=b"no image"), encoded_number(2)]
    other = Memory(CONFIG, seed=1)
    other.load_state_dict(memory.state_dict(), decode_all(CONFIG.canvas, pairs))
    assert (len(other), other.quarantined) == (2, 1)


def test_a_memory_restored_from_disk_draws_the_same(tmp_path: Path) -> None:
    memory = filled(30)
    for seq in range(30, 33):
        memory.add(numbered(seq))
    memory.refuse(memory.draw(5), np.array([False, True, False, False, True]))
    save_checkpoint(tmp_path / "state", memory.state_dict())
    state = load_checkpoint(tmp_path / "state")
    other = Memory(CONFIG, seed=1)
    other.load_state_dict(state, map(numbered, state["keys"].tolist()))
    for seq in range(33, 60):
        for one in (memory, other):
            one.add(numbered(seq))
        draws = [one.draw(BATCH) for one in (memory, other)]
        assert np.array_equal(draws[0].keys, draws[1].keys)
        assert left_of(memory, draws[0]) == left_of(other, draws[1])
        for one, draw in zip((memory, other), draws, strict=True):
            one.score(draw, np.sin(draw.keys.astype(float)) ** 2)
    assert (memory.arrived, memory.dropped_fresh, memory.quarantined) == (
        other.arrived,
        other.dropped_fresh,
        other.quarantined,
    )


class Remembering(RuleBasedStateMachine):
    """Any order of arrivals, steps, refusals and restarts, beside plain sets that say where each pair is."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory(CONFIG, seed=1)
        self.rng = np.random.default_rng(4)
        self.fresh: list[int] = []
        self.dropped = 0
        self.quarantine: set[int] = set()
        self.removed = 0
        self.offered: set[int] = set()

    @rule(count=st.integers(1, 9))
    def arrive(self, count: int) -> None:
        for _ in range(count):
            seq = self.memory.arrived
            assert self.memory.add(numbered(seq)) == seq
            self.fresh.append(seq)
        over = max(0, len(self.fresh) - CONFIG.fresh_capacity)
        self.dropped += over
        self.fresh = self.fresh[over:]

    def drawn(self, count: int) -> Draw:
        draw = self.memory.draw(count)
        keys = draw.keys.tolist()
        fresh = self.fresh[:count]
        assert keys[: draw.fresh] == fresh
        self.fresh = self.fresh[count:]
        assert not set(keys) & self.quarantine
        assert set(keys[draw.fresh :]) <= self.offered
        assert left_of(self.memory, draw) == keys
        return draw

    @precondition(lambda self: len(self.memory) > 0)
    @rule(count=st.integers(1, 10))
    def step(self, count: int) -> None:
        draw = self.drawn(count)
        self.memory.score(draw, self.rng.random(len(draw.keys)) * 9)
        self.offered.update(draw.keys[: draw.fresh].tolist())

    @precondition(lambda self: len(self.memory) > 0)
    @rule(count=st.integers(1, 10), share=st.floats(0, 1))
    def refuse(self, count: int, share: float) -> None:
        draw = self.drawn(count)
        bad = np.isin(draw.keys, draw.keys[self.rng.random(len(draw.keys)) < share])
        self.memory.refuse(draw, bad)
        fresh = draw.keys[: draw.fresh]
        self.fresh = fresh[~bad[: draw.fresh]].tolist() + self.fresh
        self.removed += int(bad[: draw.fresh].sum())
        self.quarantine.update(draw.keys[draw.fresh :][bad[draw.fresh :]].tolist())

    @rule()
    def restart(self) -> None:
        self.memory = reloaded(self.memory)

    @invariant()
    def every_pair_is_somewhere_or_counted(self) -> None:
        memory = self.memory
        kept = set(memory.ranking.reservoir.keys().tolist())
        assert memory.fresh == len(self.fresh)
        assert kept <= self.offered
        assert len(kept) == min(len(self.offered), CONFIG.capacity)
        assert memory.arrived == len(self.offered) + len(self.fresh) + self.dropped + self.removed
        assert memory.dropped_fresh == self.dropped
        assert memory.quarantined == self.removed + len(self.quarantine)
        assert len(memory) == len(self.fresh) + len(kept - self.quarantine)

    @invariant()
    def every_slot_is_free_or_holds_one_pair(self) -> None:
        slots = self.memory.slots
        held = sorted({*self.fresh, *self.memory.ranking.reservoir.keys().tolist()})
        assert slots.keys().tolist() == self.memory.state_dict()["keys"].tolist() == held
        assert len(set(slots.of(held).tolist())) == len(held) == len(slots)


TestRemembering = Remembering.TestCase
TestRemembering.settings = settings(max_examples=30, stateful_step_count=60)


def test_the_ends_of_the_reservoir_are_its_newest_and_oldest_pairs_in_their_order() -> None:
    memory = Memory(MemoryConfig(capacity=6, fresh_capacity=4, canvas=CONFIG.canvas), seed=0)
    assert [len(slots) for slots in pictures.ends(memory, 3)] == [0, 0]
    for seq in range(5):
        memory.add(numbered(seq))
        memory.score(memory.draw(1), np.array([1.0]))
    newest, oldest = pictures.ends(memory, 3)
    assert [memory.slots.names[slot].rpartition("/")[2] for slot in newest] == ["4", "3", "2"]
    assert [memory.slots.names[slot].rpartition("/")[2] for slot in oldest] == ["0", "1", "2"]
    assert sorted(pictures.ends(memory, 9)[0]) == sorted(pictures.ends(memory, 9)[1])
