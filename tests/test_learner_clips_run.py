"""A learner of clips: each pair of a bad stream is trained on once, and the settings of clips are checked."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_streams import SMALL, clips_in, follows, pair_at, stream
from hypothesis import given, settings
from hypothesis import strategies as st
from learner_state import digest
from tiny_learner import TINY, make_pair, make_pairs, tiny_learner

from learner.config import preset
from learner.errors import SettingsError
from learner.loop import Learner, StepReport, learn
from learner.memory.holdout import stored_keys
from learner.memory.memory import Draw, Memory
from learner.memory.pictures import clips_over_time, over_time
from learner.objectives.contrastive import Contrastive
from learner.objectives.foreign import objective_named
from learner.report.album import make_album
from learner.runs.checkpoint import load_checkpoint, save_checkpoint
from learner.service.summary import summarise, too_short
from stream.errors import EndOfStream
from stream.pair import EncodedPair
from stream.source import IteratorSource

CLIP = 4
CLIPS = replace(TINY, memory=replace(TINY.memory, clip=CLIP, max_gap_s=1.0))


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


@given(
    st.integers(0, 10**6),
    st.integers(2, 8),
    st.integers(0, 5),
    st.integers(0, 9),
    st.sampled_from([1.0, 1.3, 4.0]),
    st.sampled_from([0, 50]),
)
@settings(max_examples=40, deadline=None)
def test_the_smallest_fresh_queue_drops_no_pair_at_a_ratio_of_one_or_with_many_rigs(
    seed: int, clip: int, more: int, spare: int, ratio: float, backlog: int
) -> None:
    size = clip + more
    memory = replace(CLIPS.memory, clip=clip, fresh_capacity=size + clip - 1 + spare)
    learner = tiny_learner(
        replace(CLIPS, memory=memory, pacing=replace(TINY.pacing, batch_size=size, replay_ratio=ratio))
    )
    rigs = [pair_at(seq, seq / 10, f"rig{rig}") for seq in range(6) for rig in range(12)]
    pairs = rigs if seed % 2 else stream(seed, 90)
    first, source, idle = Counter[int](), IteratorSource(pairs), 0
    while True:
        limit = max(learner.wanted(), min(backlog, learner.room()))
        try:
            received = source.receive(limit, 0.0) if limit else []
        except EndOfStream:
            if not learner.close_clips():
                break
            received = []
        for pair in received:
            learner.add(pair)
        learner.deliver()
        if learner.wanted():
            continue
        learner.pacing.spend()
        draw = learner.memory.draw(size)
        assert len(draw.keys) == size
        first.update(draw.keys[: draw.fresh].tolist())
        learner.memory.score(draw, np.ones(size))
        idle = 0 if received else idle + 1
        assert idle * size <= TINY.pacing.max_owed_steps * size, "steps go on without an end"
    assert learner.memory.dropped_fresh == 0
    assert set(first.values()) == {1}
    assert len(first) + learner.memory.fresh == learner.received == len(pairs)


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
        "clips have 1.0 pairs on average instead of 4: pairs are missing between them, are more than --memory.max-gap-s 1 "
    )


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
        ({"max_gap_s": float("nan")}, "memory: max_gap_s must be finite and at least 0, got nan"),
        ({"max_gap_s": float("inf")}, "memory: max_gap_s must be finite and at least 0, got inf"),
        ({"clip": 20}, "a clip of 20 pairs is longer than capacity 24 or fresh_capacity 16: lower --memory.clip"),
        ({"clip": 9}, "pacing.batch_size 8 must hold at least one clip of 9 pairs: raise it, or lower --memory.clip"),
        (
            {"clip": 4, "fresh_capacity": 10},
            "fresh_capacity 10 must hold a batch of 8 while a clip of 4 pairs arrives: --memory.fresh-capacity 11",
        ),
    ],
)
def test_clips_that_cannot_be_are_refused_in_one_line(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        replace(TINY, memory=replace(TINY.memory, **changed))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_each_process_needs_room_for_a_clip_beside_its_part_of_a_batch() -> None:
    CLIPS.check_fresh(2)
    with pytest.raises(SettingsError, match=r"arrives in each process: --memory\.fresh-capacity 20"):
        CLIPS.check_fresh(4)


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
