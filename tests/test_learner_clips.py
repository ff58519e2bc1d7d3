"""Clips: consecutive pairs that are put together once, trained on whole, and kept, drawn and lost together."""

from __future__ import annotations

import hashlib
import itertools
import random
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from learner_state import digest
from tiny_learner import TINY, make_pair, make_pairs, tiny_learner

from learner.config import preset
from learner.errors import SettingsError
from learner.loop import Learner, StepReport, learn
from learner.memory.assembler import Assembler, Clip
from learner.memory.config import MemoryConfig
from learner.memory.decoding import decode_onto
from learner.memory.holdout import stored_keys
from learner.memory.memory import Draw, Memory
from learner.memory.pictures import clips_over_time, over_time
from learner.memory.reshard import resharded
from learner.objectives.contrastive import Contrastive
from learner.objectives.foreign import objective_named
from learner.report.album import make_album
from learner.runs.checkpoint import load_checkpoint, save_checkpoint
from learner.service.summary import summarise, too_short
from stream.pair import EncodedPair, Header, StereoPair
from stream.source import IteratorSource

SECOND_NS = 10**9
CLIP = 4
CLIPS = replace(TINY, memory=replace(TINY.memory, clip=CLIP, max_gap_s=1.0))
SMALL = MemoryConfig(capacity=12, fresh_capacity=9, canvas=(8, 8), clip=3, stalest_share=0.2)


def pair_at(
    seq: int, seconds: float, device: str = "baby", epoch: str = "b" * 32, shown: int | None = None
) -> EncodedPair:
    """A pair with a picture that `shown`, or else its seq, decides."""
    pair = make_pair(seq if shown is None else shown)
    ns = round(seconds * SECOND_NS)
    header = msgspec.structs.replace(pair.header, device=device, epoch=epoch, seq=seq, left_ns=ns, right_ns=ns)
    return EncodedPair(header, pair.left, pair.right)


def undecodable(pair: EncodedPair) -> EncodedPair:
    return replace(pair, left=b"no image")


def stream(seed: int, count: int, *, bad: float = 0.0) -> list[EncodedPair]:
    """Pairs of three rigs with restarts, lost and late pairs, pauses, clocks that are set back, and some that do not decode."""
    draw = random.Random(seed)
    rigs = {name: (f"{draw.getrandbits(128):032x}", 0, 0.0) for name in ("a", "b", "c")}
    sent: list[EncodedPair] = []
    late: list[EncodedPair] = []
    for number in range(count):
        name = draw.choice("aaabbc")
        epoch, seq, seconds = rigs[name]
        if draw.random() < 0.02:
            epoch, seq = f"{draw.getrandbits(128):032x}", 0
        seconds += draw.choice([0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 2.0, -0.05, 0.0])
        rigs[name] = epoch, seq + 1, seconds
        pair = pair_at(seq, 100 + seconds, name, epoch, number)
        pair = undecodable(pair) if draw.random() < bad else pair
        fate = draw.random()
        if fate < 0.1:
            late.append(pair)
        elif fate > 0.04 + 0.1:
            sent.append(pair)
        if late and draw.random() < 0.1:
            sent += late
            late = []
    return sent + late


def names(pairs: Iterable[EncodedPair | StereoPair | None]) -> list[str]:
    return [pair.header.name for pair in pairs if pair is not None]


def follows(before: Header, after: Header, max_gap_s: float) -> bool:
    near = 0 <= after.left_ns - before.left_ns <= max_gap_s * SECOND_NS
    return near and (after.device, after.epoch, after.seq) == (before.device, before.epoch, before.seq + 1)


def assembled(assembler: Assembler, pairs: Sequence[EncodedPair]) -> list[Clip]:
    """The clips of a stream to its end, as the learner asks for them."""
    clips = []
    for key, pair in enumerate(pairs):
        clips += assembler.interrupted(pair.header)
        owner = assembler.owner(key, pair.header)
        clips += assembler.add(key, pair)
        holder = next((clip for clip in clips if key in clip.keys), None)
        assert holder is None or holder.owner == owner
    return clips + assembler.ended()


# --- pairs become clips


@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(1, 3), st.sampled_from([9, 20, 200]))
@settings(max_examples=60)
def test_every_pair_is_in_one_clip_and_a_clip_is_consecutive(seed: int, length: int, shards: int, fresh: int) -> None:
    pairs = stream(seed, 120)
    config = MemoryConfig(capacity=200, fresh_capacity=fresh, clip=length, max_gap_s=1.0)
    assembler = Assembler(config, shards)
    clips = assembled(assembler, pairs)
    assert Counter(name for clip in clips for name in names(clip.pairs)) == Counter(names(pairs))
    assert sorted(key for clip in clips for key in clip.keys) == list(range(len(pairs)))
    for clip in clips:
        assert clip.keys == sorted(clip.keys)
        assert 1 <= len(clip.keys) <= length
        assert 0 <= clip.owner < shards
        headers = [pair.header for pair in clip.pairs if pair is not None]
        assert all(follows(*two, max_gap_s=1.0) for two in itertools.pairwise(headers))
    assert assembler.waiting == 0


@given(st.integers(0, 10**6), st.integers(1, 4))
@settings(max_examples=20)
def test_clips_of_one_pair_close_at_once_and_go_to_the_processes_in_turn(seed: int, shards: int) -> None:
    assembler = Assembler(MemoryConfig(), shards)
    for key, pair in enumerate(stream(seed, 40)):
        assert assembler.interrupted(pair.header) == []
        (clip,) = assembler.add(key, pair)
        assert (clip.owner, clip.keys, clip.pairs) == (key % shards, [key], [pair])
    assert assembler.ended() == []
    assert assembler.state_dict() == {"joined": 0, "open": []}


def test_an_even_stream_gives_whole_clips_in_turn() -> None:
    assembler = Assembler(replace(SMALL, fresh_capacity=60), 2)
    clips = assembled(assembler, [pair_at(seq, seq / 10) for seq in range(9)])
    assert [clip.keys for clip in clips] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert [clip.owner for clip in clips] == [0, 1, 0]


def test_late_pairs_make_clips_of_their_own_beside_those_of_the_live_stream() -> None:
    order = [0, 1, 10, 2, 11, 12, 3, 4]
    clips = assembled(Assembler(replace(SMALL, fresh_capacity=60), 1), [pair_at(seq, seq / 10) for seq in order])
    assert [[pair.header.seq for pair in clip.pairs if pair is not None] for clip in clips] == [
        [0, 1, 2],
        [10, 11, 12],
        [3, 4],
    ]


@pytest.mark.parametrize(("seconds", "joins"), [(10.0, True), (10.001, False), (0.0, True), (-0.001, False)])
def test_a_gap_in_time_and_a_time_that_runs_back_close_a_clip(seconds: float, joins: bool) -> None:
    clips = assembled(Assembler(SMALL, 1), [pair_at(0, 100.0), pair_at(1, 100.0 + seconds)])
    assert [clip.keys for clip in clips] == ([[0, 1]] if joins else [[0], [1]])


def test_a_pair_that_enters_no_clip_closes_the_one_before_it() -> None:
    assembler = Assembler(SMALL, 1)
    assembler.add(0, pair_at(0, 0.0))
    (closed,) = assembler.interrupted(pair_at(1, 0.1).header, is_used=False)
    assert closed.keys == [0]
    assert assembler.waiting == 0


def test_a_clip_whose_rig_is_silent_closes_after_as_many_pairs_as_the_fresh_queue_holds() -> None:
    assembler = Assembler(replace(SMALL, clip=3, fresh_capacity=12), 1)
    assembler.add(0, pair_at(0, 0.0, "silent"))
    closed = [assembler.add(key, pair_at(key, key / 10)) for key in range(1, 13)]
    assert [clip.keys for clips in closed for clip in clips if clip.keys[0] == 0] == [[0]]
    assert closed[-1][0].keys == [0]


def test_open_clips_are_counted_before_a_run_begins_with_the_room_that_they_may_take() -> None:
    ten_open_with_two_pairs = 10 * 2 * (2 * 8 * 8 * 3)
    assert Assembler(replace(SMALL, fresh_capacity=60), 1).max_bytes == ten_open_with_two_pairs
    assert Assembler(MemoryConfig(), 1).max_bytes == 0


def test_more_rigs_than_there_is_room_for_get_shorter_clips_and_nothing_is_lost() -> None:
    assembler = Assembler(replace(SMALL, fresh_capacity=12), 1)  # two clips may be open
    pairs = [pair_at(seq, seq / 10, f"rig{rig}") for seq in range(3) for rig in range(3)]
    clips = []
    for key, pair in enumerate(pairs):
        clips += assembler.add(key, pair)
        assert assembler.waiting <= 4
    assert sorted(key for clip in clips + assembler.ended() for key in clip.keys) == list(range(9))


def test_a_stream_that_comes_twice_gives_its_pairs_twice() -> None:
    pairs = [pair_at(seq, seq / 10) for seq in range(4)]
    clips = assembled(Assembler(replace(SMALL, fresh_capacity=60), 1), [*pairs, *pairs])
    assert sorted(key for clip in clips for key in clip.keys) == list(range(8))


@given(st.integers(0, 10**6), st.integers(1, 100))
@settings(max_examples=20)
def test_open_clips_of_a_state_go_on_as_those_that_were_never_saved(seed: int, cut: int) -> None:
    pairs, config = stream(seed, 110), MemoryConfig(fresh_capacity=40, clip=4, max_gap_s=1.0)
    whole, before, after = (Assembler(config, 2) for _ in range(3))
    cut = min(cut, len(pairs))
    for key, pair in enumerate(pairs[:cut]):
        for one in (whole, before):
            one.interrupted(pair.header)
            one.add(key, pair)
    state = msgspec.json.decode(msgspec.json.encode(before.state_dict()))
    after.load_state_dict(state)
    learner_state = {"memory": {"keys": np.array([cut], np.int64)}, "clips": state}
    waiting = [key for key in range(cut) if any(key in row[-1] for row in state["open"])]
    assert list(after.sifted(learner_state, [*(pairs[key] for key in waiting), None])) == [None]
    closed: list[list[tuple[int, list[int], list[str]]]] = [[], []]
    for key, pair in enumerate(pairs[cut:], cut):
        for one, found in zip((whole, after), closed, strict=True):
            clips = [*one.interrupted(pair.header), *one.add(key, pair)]
            found += [(clip.owner, clip.keys, names(clip.pairs)) for clip in clips]
    assert closed[0] == closed[1]
    assert whole.state_dict() == after.state_dict()


# --- memory of clips


def shown(key: int) -> StereoPair:
    return decode_onto(SMALL.canvas, pair_at(key, key / 10))


def add_clip(memory: Memory, keys: Sequence[int]) -> None:
    memory.add_clip(keys, [shown(key) for key in keys])


def reloaded(memory: Memory, damaged: Collection[int] = ()) -> Memory:
    state = memory.state_dict()
    other = Memory(memory.config, seed=1)
    other.load_state_dict(state, (None if key in damaged else shown(key) for key in state["keys"].tolist()))
    return other


def clips_in(draw: Draw) -> list[list[int]]:
    """The keys of each clip of a draw."""
    assert draw.clips is not None
    rows = zip(draw.clips.tolist(), draw.keys.tolist(), strict=True)
    return [[key for _, key in group] for _, group in itertools.groupby(rows, lambda row: row[0])]


class RememberingClips(RuleBasedStateMachine):
    """Any order of clips, steps, refusals and restarts, beside plain lists that say where each clip is."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory(SMALL, seed=1)
        self.rng = np.random.default_rng(4)
        self.fresh: list[tuple[int, ...]] = []
        self.offered: dict[int, tuple[int, ...]] = {}
        self.dropped = self.removed = 0
        self.quarantine: set[int] = set()

    @rule(lengths=st.lists(st.integers(1, SMALL.clip), min_size=1, max_size=4))
    def arrive(self, lengths: list[int]) -> None:
        for length in lengths:
            first = self.memory.arrived
            self.fresh.append(tuple(range(first, first + length)))
            add_clip(self.memory, self.fresh[-1])
            while sum(map(len, self.fresh)) > SMALL.fresh_capacity:
                self.dropped += len(self.fresh.pop(0))

    def drawn(self, count: int) -> tuple[Draw, list[tuple[int, ...]]]:
        draw = self.memory.draw(count)
        fresh: list[tuple[int, ...]] = []
        while self.fresh and sum(map(len, fresh)) + len(self.fresh[0]) <= count:
            fresh.append(self.fresh.pop(0))
        assert draw.fresh == sum(map(len, fresh))
        clips = clips_in(draw)
        assert [tuple(clip) for clip in clips[: len(fresh)]] == fresh
        known = self.offered | {clip[0]: clip for clip in fresh}
        for clip in clips[len(fresh) :]:  # the last one alone may be cut
            assert tuple(clip) == known[clip[0]][: len(clip)]
            assert clip[0] not in self.quarantine
        for clip in clips[len(fresh) : -1]:
            assert tuple(clip) == known[clip[0]]
        pixels = self.memory.batch(draw, torch.device("cpu"))
        assert pixels.keys is not None
        assert pixels.keys.tolist() == draw.keys.tolist()
        return draw, fresh

    @precondition(lambda self: len(self.memory) >= SMALL.clip)
    @rule(count=st.integers(SMALL.clip, 9))
    def step(self, count: int) -> None:
        enough = len(self.memory) >= count
        draw, fresh = self.drawn(count)
        assert len(draw.keys) == count or not enough
        self.memory.score(draw, self.rng.random(len(draw.keys)) * 9)
        self.offered |= {clip[0]: clip for clip in fresh}

    @precondition(lambda self: len(self.memory) >= SMALL.clip)
    @rule(count=st.integers(SMALL.clip, 9), share=st.floats(0, 1))
    def refuse(self, count: int, share: float) -> None:
        draw, fresh = self.drawn(count)
        is_bad = self.rng.random(len(draw.keys)) < share
        self.memory.refuse(draw, is_bad)
        bad = {clip[0] for clip in [*fresh, *self.offered.values()] if set(clip) & set(draw.keys[is_bad].tolist())}
        self.fresh = [clip for clip in fresh if clip[0] not in bad] + self.fresh
        self.removed += sum(len(clip) for clip in fresh if clip[0] in bad)
        self.quarantine |= bad - {clip[0] for clip in fresh}

    @rule()
    def restart(self) -> None:
        self.memory = reloaded(self.memory)

    @invariant()
    def every_clip_is_somewhere_or_counted(self) -> None:
        memory, clips = self.memory, set(self.memory.ranking.reservoir.keys().tolist())
        kept = sorted(key for clip in clips for key in self.offered[clip])
        assert memory.fresh == sum(map(len, self.fresh))
        assert memory.kept == len(kept) <= SMALL.capacity
        assert sorted(memory.kept_keys().tolist()) == kept
        assert len(clips) == min(len(self.offered), SMALL.clips)
        held = sorted([*kept, *(key for clip in self.fresh for key in clip)])
        assert memory.slots.keys().tolist() == memory.state_dict()["keys"].tolist() == held
        assert len(set(memory.slots.of(held).tolist())) == len(held) == len(memory.slots)
        assert memory.dropped_fresh == self.dropped
        shunned = sum(len(self.offered[clip]) for clip in self.quarantine)
        assert memory.quarantined == self.removed + shunned
        assert len(memory) == len(held) - sum(len(self.offered[clip]) for clip in self.quarantine & clips)


TestRememberingClips = RememberingClips.TestCase
TestRememberingClips.settings = settings(max_examples=30, stateful_step_count=50)


def test_a_clip_is_scored_by_the_mean_of_its_pairs_and_leaves_whole() -> None:
    memory = Memory(replace(SMALL, capacity=6, noise=0.0), seed=0)
    for first in (0, 3, 6):
        add_clip(memory, [first, first + 1, first + 2])
    memory.score(memory.draw(9), np.array([0.0, 3.0, 6.0, 9.0, 9.0, 9.0, 1.0, 1.0, 1.0]))
    assert memory.slots.keys().tolist() == [0, 1, 2, 3, 4, 5]
    assert memory.slots.priority[memory.slots.of([0, 1, 2])].tolist() == [3.0] * 3


def test_while_nothing_is_kept_fresh_clips_fill_the_batch_with_whole_ones_and_wait_otherwise() -> None:
    memory = Memory(SMALL, seed=0)
    add_clip(memory, [0, 1, 2])
    add_clip(memory, [3, 4, 5])
    draw = memory.draw(5)
    assert (clips_in(draw), draw.fresh) == ([[0, 1, 2], [0, 1]], 3)
    memory.score(draw, np.ones(5))
    assert (memory.fresh, memory.kept) == (3, 3)


def test_a_fresh_clip_is_cut_where_a_pair_cannot_be_read_back_and_a_kept_one_is_never_drawn_again() -> None:
    memory = Memory(SMALL, seed=1)
    add_clip(memory, [0, 1, 2])
    memory.score(memory.draw(3), np.ones(3))
    add_clip(memory, [3, 4, 5])
    add_clip(memory, [6, 7, 8])
    other = reloaded(memory, {1, 4, 8})
    assert (other.fresh, other.kept, other.quarantined, len(other)) == (4, 3, 5, 4)
    assert clips_in(other.draw(4)) == [[3], [5], [6, 7]]


@given(st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 3]), st.lists(st.integers(1, 2), min_size=3, max_size=14))
@settings(max_examples=30)
def test_another_number_of_shards_holds_whole_clips_and_all_of_them(
    shards: int, number: int, lengths: list[int]
) -> None:
    config = replace(SMALL, clip=2, fresh_capacity=18)
    before = [Memory(config, seed=1, shard=shard, shards=shards) for shard in range(shards)]
    first = 0
    for turn, length in enumerate(lengths):
        memory = before[turn % shards]
        add_clip(memory, range(first, first + length))
        first += length
        if turn % 4 == 3:
            draw = memory.draw(3)
            memory.score(draw, np.ones(len(draw.keys)))
    states = [memory.state_dict() for memory in before]
    after = [Memory(config, seed=1, shard=shard, shards=number) for shard in range(number)]
    dealt = resharded(states, number)
    for memory, state in zip(after, dealt, strict=True):
        memory.load_state_dict(state, map(shown, state["keys"].tolist()))

    def clips_of(memories: list[Memory]) -> list[list[int]]:
        found = []
        for memory in memories:
            slots = memory.slots.of(memory.slots.keys())
            found += [memory.slots.keys_of(clip) for clip in set(memory.slots.clips[slots].tolist())]
        return sorted(found)

    assert clips_of(after) == clips_of(before)
    for count in ("fresh", "kept", "dropped_fresh"):
        assert sum(getattr(memory, count) for memory in after) == sum(getattr(memory, count) for memory in before)


# --- a learner of clips


class Drawn:
    """Notes what the memory of a learner draws."""

    def __init__(self, learner: Learner) -> None:
        self.draws: list[Draw] = []
        self._draw = learner.memory.draw
        learner.memory.draw = self.note  # type: ignore[method-assign]

    def note(self, count: int) -> Draw:
        draw = self._draw(count)
        assert len(draw.keys) == count
        self.draws.append(draw)
        return draw


@pytest.mark.parametrize("holdout", [0.0, 0.3])
def test_a_learner_trains_on_every_pair_of_a_bad_stream_once_before_anything_else(holdout: float) -> None:
    config = replace(CLIPS, holdout=holdout, memory=replace(CLIPS.memory, capacity=400, fresh_capacity=64))
    learner, pairs = tiny_learner(config), stream(3, 160, bad=0.05)
    drawn = Drawn(learner)
    kept: dict[int, EncodedPair] = {}
    list(learn(learner, IteratorSource(pairs), clock=time.monotonic, keep=kept.__setitem__))
    first, seen = Counter[int](), set[int]()
    for draw in drawn.draws:
        new = draw.keys[: draw.fresh].tolist()
        assert seen.isdisjoint(new)
        assert seen | set(new) >= set(draw.keys.tolist())
        first.update(new)
        seen.update(new)
    counts = learner.counts()
    assert set(first.values()) == {1}
    assert len(first) + counts.fresh + counts.undecodable + learner.held_out.count == learner.received == len(pairs)
    assert (counts.dropped_fresh, counts.quarantined, learner.assembler.waiting) == (0, 0, 0)
    assert counts.undecodable > 0
    for draw in drawn.draws:
        for clip in clips_in(draw):
            headers = [kept[key].header for key in clip]
            assert all(follows(*two, max_gap_s=1.0) for two in itertools.pairwise(headers))


def test_a_batch_says_which_rows_are_a_clip_and_when_each_was_captured() -> None:
    learner = tiny_learner(CLIPS)
    for seq in range(4):
        for device in ("a", "b"):
            learner.add(pair_at(seq, 50 + seq / 4, device))
    batch = learner.memory.batch(learner.memory.draw(8), torch.device("cpu"))
    assert batch.clips is not None
    assert batch.epochs is not None
    assert batch.times_s is not None
    assert batch.clips.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert batch.times_s.tolist() == [0.0, 0.25, 0.5, 0.75] * 2
    assert len(set(batch.epochs.tolist())) == 2
    assert len(set(batch.epochs[:4].tolist())) == 1
    assert batch.windows(3).tolist() == [[0, 1, 2], [1, 2, 3], [4, 5, 6], [5, 6, 7]]


def steps_until(learner: Learner, pairs: list[EncodedPair], received: int, kept: dict[int, EncodedPair]) -> None:
    """Learn until so many pairs are received, without telling the learner that its source ends."""
    if learner.received < received:
        for event in learn(
            learner, IteratorSource(pairs[learner.received :]), clock=time.monotonic, keep=kept.__setitem__
        ):
            if event.received >= received:
                return


@pytest.mark.parametrize("cut", [1, 7, 30, 61, 104])
def test_a_learner_of_clips_that_was_saved_anywhere_ends_as_one_that_never_was(cut: int, tmp_path: Path) -> None:
    config, pairs = replace(CLIPS, holdout=0.2), stream(5, 130, bad=0.03)
    whole, before, after = (tiny_learner(config) for _ in range(3))
    kept: dict[int, EncodedPair] = {}
    steps_until(before, pairs, cut, kept)
    assert before.assembler.waiting
    save_checkpoint(tmp_path / "state", before.state_dict())
    state = load_checkpoint(tmp_path / "state")
    after.load_state_dict(state, [kept[key] for key in stored_keys(state).tolist()])
    assert digest(after) == digest(before)
    for learner in (whole, after):
        list(learn(learner, IteratorSource(pairs[learner.received :]), clock=time.monotonic))
    assert digest(after) == digest(whole)


def test_an_open_clip_with_a_pair_that_cannot_be_read_back_is_cut_there() -> None:
    before, after = tiny_learner(CLIPS), tiny_learner(CLIPS)
    kept = dict(enumerate(make_pairs(3)))
    assert [before.add(pair) for pair in kept.values()] == list(kept)
    state = before.state_dict()
    after.load_state_dict(state, [None if key == 1 else pair for key, pair in kept.items()])
    after.add(make_pair(3))
    assert (after.memory.fresh, after.memory.quarantined, after.counts().fresh) == (3, 1, 3)
    after.memory.ranking.draw(1, 0)
    assert clips_in(after.memory.draw(3)) == [[0], [2, 3]]


def test_pairs_in_open_clips_count_as_fresh_and_leave_room_for_the_rest_of_their_clip() -> None:
    learner = tiny_learner(CLIPS)
    rooms = []
    for pair in make_pairs(6):
        rooms.append(learner.room())
        learner.add(pair)
    assert rooms == [16, 12, 12, 12, 12, 8]
    assert (learner.counts().fresh, learner.memory.fresh, learner.assembler.waiting) == (6, 4, 2)
    assert learner.wanted() == 4  # of a batch of eight, four can be drawn


def test_a_source_that_ends_closes_the_open_clips_and_their_pairs_are_trained_on() -> None:
    learner = tiny_learner(replace(CLIPS, pacing=replace(TINY.pacing, replay_ratio=8.0)))
    events = list(learn(learner, IteratorSource(make_pairs(14)), clock=time.monotonic))
    assert (learner.assembler.waiting, learner.counts().fresh) == (0, 0)
    assert sum(len(event.fresh) for event in events if isinstance(event, StepReport)) == 14


def test_summary_and_album_know_clips() -> None:
    learner = tiny_learner(replace(CLIPS, memory=replace(CLIPS.memory, capacity=48, fresh_capacity=48)))
    list(learn(learner, IteratorSource(make_pairs(40)), clock=time.monotonic))
    summary = summarise(learner, [], [], None, {"from": "random"})
    assert (summary["reservoir"]["kept"], summary["reservoir"]["clips"]) == (40, 10)
    assert too_short(learner) == ""
    slots = clips_over_time(learner.memory, 8)
    assert [int(name.rpartition("/")[2]) for name in (learner.memory.slots.names[slot] for slot in slots)] == [
        *(36, 37, 38, 39),
        *(16, 17, 18, 19),
    ]
    album = make_album(learner, viewed=8)
    assert not np.array_equal(album["viewed_left"][0], album["received_left"][0])
    assert len(album["viewed_left"]) == 8


def test_of_single_pairs_the_clips_over_time_are_the_pairs_over_time() -> None:
    learner = tiny_learner()
    list(learn(learner, IteratorSource(make_pairs(30)), clock=time.monotonic))
    for count in (1, 5, 99):
        assert clips_over_time(learner.memory, count).tolist() == over_time(learner.memory, count).tolist()


def test_a_stream_too_broken_for_clips_is_said_in_the_summary() -> None:
    learner = tiny_learner(CLIPS)
    list(learn(learner, IteratorSource([pair_at(seq, 2.0 * seq) for seq in range(24)]), clock=time.monotonic))
    said = too_short(learner)
    assert said.startswith(
        "clips have 1.0 pairs on average instead of 4: pairs are missing, more than --memory.max-gap-s 1"
    )


# --- as before


def test_single_pairs_are_drawn_as_by_the_version_before_clips() -> None:
    """The digest is that of the version before: a memory under a random stream, steps, refusals and a restart."""
    config = MemoryConfig(capacity=24, fresh_capacity=12, canvas=(8, 8), stalest_share=0.2)
    memory, rng, whole = Memory(config, seed=7), np.random.default_rng(9), hashlib.sha256()
    for number in range(160):
        memory.add(shown(memory.arrived))
        if rng.random() < 0.1:
            memory.skip_key()
        if number % 3 == 2:
            draw = memory.draw(7)
            whole.update(repr((draw.keys.tolist(), draw.fresh)).encode())
            if rng.random() < 0.1:
                memory.refuse(draw, rng.random(len(draw.keys)) < 0.2)
            else:
                memory.score(draw, rng.integers(1, 9, len(draw.keys)).astype(float))
    state = memory.state_dict()
    assert {"clips", "joined"}.isdisjoint(state)
    assert whole.hexdigest() == "62ad7972f8adcad9b12fccb01922af5cdb6deca848bc30b8a30203e2e813352c"


# --- settings


def clipped(name: str, needs: int) -> Any:
    """An objective that needs so many consecutive pairs."""
    own = type(f"{name.title()}Config", (Contrastive.settings,), {"clip": needs})
    return type(name.title(), (Contrastive,), {"settings": own})


def test_a_preset_takes_the_clip_that_its_objective_needs() -> None:
    kind = clipped("temporal", 6)
    assert preset("cpu", kind).memory.clip == 6
    assert preset("cpu").memory.clip == preset("gpu").memory.clip == 1
    assert preset("cpu", objective_named("simclr+byol")).memory.clip == 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"clip": 0}, "memory: clip must be at least 1, got 0"),
        ({"max_gap_s": -1.0}, "memory: max_gap_s must be at least 0, got -1.0"),
        ({"max_gap_s": float("nan")}, "memory: max_gap_s must be at least 0, got nan"),
        ({"clip": 20}, "a clip of 20 pairs is longer than capacity 24 or fresh_capacity 16: lower --memory.clip"),
        ({"clip": 9}, "pacing.batch_size 8 must hold at least one clip of 9 pairs: raise it, or lower --memory.clip"),
    ],
)
def test_clips_that_cannot_be_are_refused_in_one_line(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        replace(TINY, memory=replace(TINY.memory, **changed))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_memory_with_shorter_clips_than_the_objective_needs_is_refused_with_the_remedy() -> None:
    config = preset("cpu", clipped("temporal", 6))
    with pytest.raises(
        SettingsError, match=r"learns from 6 consecutive pairs, and memory keeps 5 together: --memory\.clip 6"
    ):
        replace(config, memory=replace(config.memory, clip=5))
    assert replace(config, memory=replace(config.memory, clip=7)).memory.clip == 7


def test_clips_that_do_not_divide_among_processes_are_refused() -> None:
    with pytest.raises(
        SettingsError, match=r"capacity 12 has 4 clips of 3 pairs, which must be a multiple of the 3 processes"
    ):
        Memory(replace(SMALL, fresh_capacity=9), seed=0, shards=3)
