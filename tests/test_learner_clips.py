"""Clips: consecutive pairs that are put together once, trained on whole, and kept, drawn and lost together."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from clip_streams import SMALL, clips_in, follows, pair_at, shown, stream
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from learner.memory.assembler import Assembler, Clip
from learner.memory.config import MemoryConfig
from learner.memory.memory import Draw, Memory
from learner.memory.reshard import resharded
from stream.pair import EncodedPair, StereoPair
from stream.signals.signal import Telemetry


def names(pairs: Iterable[EncodedPair | StereoPair | None]) -> list[str]:
    return [pair.header.name for pair in pairs if pair is not None]


def assembled(assembler: Assembler, pairs: Sequence[EncodedPair]) -> list[Clip]:
    """The clips of a stream to its end, as the learner asks for them."""
    clips = []
    for key, pair in enumerate(pairs):
        clips += assembler.interrupted(pair)
        owner = assembler.owner(key, pair.header)
        clips += assembler.add(key, pair)
        assert assembler.waiting == key + 1 - sum(len(clip.keys) for clip in clips)
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
        assert assembler.interrupted(pair) == []
        (clip,) = assembler.add(key, pair)
        assert (clip.owner, clip.keys, clip.pairs) == (key % shards, [key], [pair])
    assert assembler.ended() == []
    assert assembler.state_dict()["open"] == []


def test_an_even_stream_gives_whole_clips_in_turn() -> None:
    assembler = Assembler(replace(SMALL, fresh_capacity=60), 2)
    clips = assembled(assembler, [pair_at(seq, seq / 10) for seq in range(9)])
    assert [clip.keys for clip in clips] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert [clip.owner for clip in clips] == [0, 1, 0]


@given(st.integers(0, 10**6), st.integers(2, 4))
@settings(max_examples=20)
def test_processes_get_as_many_pairs_also_where_clips_are_of_unequal_length(seed: int, shards: int) -> None:
    even_and_lonely = [pair_at(seq, seq * apart, rig) for seq in range(60) for rig, apart in (("a", 0.1), ("b", 3.0))]
    config = MemoryConfig(fresh_capacity=40, clip=4, max_gap_s=1.0)
    for pairs in (even_and_lonely, stream(seed, 120)):
        loads = [0] * shards
        for clip in assembled(Assembler(config, shards), pairs):
            loads[clip.owner] += len(clip.keys)
        # All open clips of one process may have grown after they were dealt.
        assert max(loads) - min(loads) <= 5 * config.clip


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


def test_a_clip_ends_with_its_episode_also_after_it_was_saved() -> None:
    """Where a robot is put back, its action is not what leads to the next picture."""
    pairs = [replace(pair_at(seq, seq / 10), telemetry=Telemetry(episode=name)) for seq, name in enumerate("1122")]
    before, after = Assembler(SMALL, 1), Assembler(SMALL, 1)
    before.add(0, pairs[0])
    assert before.interrupted(pairs[1]) == []
    before.add(1, pairs[1])
    state = {"memory": {"keys": []}, "clips": before.state_dict()}
    after.load_state_dict(before.state_dict())
    assert list(after.sifted(state, pairs[:2])) == []
    for assembler in (before, after):
        assert [clip.keys for clip in assembler.interrupted(pairs[2])] == [[0, 1]]
    assert [clip.keys for clip in assembled(Assembler(SMALL, 1), pairs)] == [[0, 1], [2, 3]]


def test_a_pair_that_enters_no_clip_closes_the_one_before_it() -> None:
    assembler = Assembler(SMALL, 1)
    assembler.add(0, pair_at(0, 0.0))
    (closed,) = assembler.interrupted(pair_at(1, 0.1), is_used=False)
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
            one.interrupted(pair)
            one.add(key, pair)
    state = msgspec.json.decode(msgspec.json.encode(before.state_dict()))
    after.load_state_dict(state)
    learner_state = {"memory": {"keys": np.array([cut], np.int64)}, "clips": state}
    waiting = [key for key in range(cut) if any(key in row[-1] for row in state["open"])]
    assert list(after.sifted(learner_state, [*(pairs[key] for key in waiting), None])) == [None]
    closed: list[list[tuple[int, list[int], list[str]]]] = [[], []]
    for key, pair in enumerate(pairs[cut:], cut):
        for one, found in zip((whole, after), closed, strict=True):
            clips = [*one.interrupted(pair), *one.add(key, pair)]
            found += [(clip.owner, clip.keys, names(clip.pairs)) for clip in clips]
    assert closed[0] == closed[1]
    assert whole.state_dict() == after.state_dict()


def add_clip(memory: Memory, keys: Sequence[int]) -> None:
    memory.add_clip(keys, [shown(key) for key in keys])


def reloaded(memory: Memory, damaged: Collection[int] = ()) -> Memory:
    state = memory.state_dict()
    other = Memory(memory.config, seed=1)
    other.load_state_dict(state, (None if key in damaged else shown(key) for key in state["keys"].tolist()))
    return other


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
    assert "clips" not in state
    assert whole.hexdigest() == "62ad7972f8adcad9b12fccb01922af5cdb6deca848bc30b8a30203e2e813352c"
