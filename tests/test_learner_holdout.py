"""Stretches of the stream are never trained on: the header says which, and all their pairs are accounted for."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from learner_state import digest, trained
from tiny_learner import CANVAS, EPOCH, TINY, make_pair, make_pairs, tiny_learner

from buffer.store import Store
from learner.config import LearnerConfig
from learner.errors import SettingsError
from learner.loop import Learner, learn
from learner.memory import holdout
from learner.memory.decoding import decode_onto
from learner.memory.holdout import CAPACITY, GAP, STRETCH, HeldOut, Rule, Stretch, is_in_gap, stored_keys, stretch_of
from learner.metrics import MemoryMetrics
from learner.runs.checkpoint import CheckpointFolder, load_checkpoint, save_checkpoint
from learner.runs.commit import Committer, unpack
from learner.runs.fork import Fork
from learner.runs.restore import restore
from learner.runs.settings import from_plain
from learner.service.summary import why_no_step
from stream.pair import EncodedPair, Header
from stream.source import IteratorSource

SHARE = 0.25
CONFIG = dataclasses.replace(TINY, holdout=SHARE)
HEADER = make_pair(0).header
DEVICES = st.sampled_from(["baby", "a", "rig.7"])
EPOCHS = st.binary(min_size=16, max_size=16).map(bytes.hex)
RULES = st.tuples(st.floats(0.001, 0.5), st.integers(0, 2**40)).map(lambda numbers: Rule(*numbers))


def numbered(seq: int, device: str = "baby", epoch: str = EPOCH) -> Header:
    return msgspec.structs.replace(HEADER, seq=seq, device=device, epoch=epoch)


def held(rule: Rule, count: int, device: str = "baby", epoch: str = EPOCH) -> list[int]:
    """The blocks among the first `count` that are held out."""
    return [block for block in range(count) if rule.holds(numbered(block * STRETCH, device, epoch))]


def pairs_of(keys: object, pairs: list[EncodedPair]) -> list[EncodedPair]:
    return [pairs[key] for key in keys]  # type: ignore[attr-defined]


def test_a_stream_too_short_for_a_step_says_how_many_of_its_pairs_are_held_out() -> None:
    seed = next(seed for seed in range(99) if Rule(SHARE, seed).holds(numbered(0)))
    learner = tiny_learner(dataclasses.replace(CONFIG, seed=seed))
    for pair in make_pairs(5):
        learner.add(pair)
    assert why_no_step(learner) == (
        "nothing was learned: 5 pairs came, of which 5 are held out, and the first step needs 8 more. "
        "Record more, or lower --holdout and --pacing.batch-size in another --run-dir"
    )


# Which pairs


@given(RULES, DEVICES, EPOCHS, st.integers(0, 2**62))
def test_a_whole_stretch_is_held_out_or_none_of_it_and_its_neighbours_never(
    rule: Rule, device: str, epoch: str, seq: int
) -> None:
    first = seq // STRETCH * STRETCH
    is_held = [rule.holds(numbered(number, device, epoch)) for number in range(first, first + STRETCH)]
    assert len(set(is_held)) == 1
    if is_held[0]:
        assert not rule.holds(numbered(first + STRETCH, device, epoch))
        assert first == 0 or not rule.holds(numbered(first - 1, device, epoch))


@given(RULES, DEVICES, EPOCHS, st.integers(1, 3000))
def test_the_share_is_met_to_within_one_stretch_from_the_first_pair_on(
    rule: Rule, device: str, epoch: str, blocks: int
) -> None:
    assert abs(len(held(rule, blocks, device, epoch)) - rule.share * blocks) < 1 + 1e-6


@given(st.floats(0.001, 0.5), EPOCHS)
def test_seed_device_and_epoch_decide_where_the_stretches_lie(share: float, epoch: str) -> None:
    blocks = round(8 / share)
    starts = {tuple(held(Rule(share, seed), blocks, device, epoch)) for seed in range(8) for device in ("a", "b")}
    assert len(starts) > 1


@given(RULES, DEVICES, EPOCHS, EPOCHS)
def test_the_time_in_a_local_epoch_decides_nothing_so_that_the_same_folder_is_divided_in_the_same_way(
    rule: Rule, device: str, epoch: str, later: str
) -> None:
    again = epoch[:16] + later[16:]
    assert held(rule, 50, device, epoch) == held(rule, 50, device, again)
    assert rule.rank(Stretch(device, epoch, 3)) == rule.rank(Stretch(device, again, 3))


def test_a_run_of_an_earlier_version_in_which_the_whole_epoch_decides_holds_the_same_stretches_out_as_before() -> None:
    old = tiny_learner(CONFIG).held_out
    old.load_state_dict({"keys": (), "count": 3})
    starts = [held(old.rule, 4, epoch=f"{1:016x}{begun:016x}") for begun in range(3)]
    assert starts == [[0], [3], [0]]
    again = tiny_learner(CONFIG).held_out
    again.load_state_dict(old.state_dict())
    assert again.rule == old.rule


@given(st.integers(0, 2**62))
def test_the_pairs_at_both_ends_of_a_stretch_measure_nothing(seq: int) -> None:
    place = seq % STRETCH
    assert is_in_gap(numbered(seq)) == (place < GAP or place >= STRETCH - GAP)


@given(EPOCHS, st.integers(0, 2**62))
def test_without_a_share_nothing_is_held_out(epoch: str, seq: int) -> None:
    assert not Rule(0.0, 0).holds(numbered(seq, epoch=epoch))


@pytest.mark.parametrize("share", [-0.1, 0.6, float("nan")])
def test_a_share_that_leaves_too_little_is_refused(share: float) -> None:
    with pytest.raises(SettingsError, match=r"holdout must be 0 to 0\.5"):
        dataclasses.replace(TINY, holdout=share)


def test_a_run_of_an_earlier_version_holds_nothing_out() -> None:
    assert from_plain({"seed": 3}).holdout == 0


# Which of them are kept for the probe


def offered(rule: Rule, seqs: list[int]) -> HeldOut:
    """What is kept after these pairs have come, in this order."""
    kept, pair = HeldOut(rule, (8, 8)), decode_onto((8, 8), make_pair(0))
    for key, seq in enumerate(seqs):
        header = numbered(seq)
        if rule.holds(header) and kept.wants(header):
            kept.add(dataclasses.replace(pair, header=header), key)
    return kept


def test_a_bounded_uniform_sample_of_whole_stretches_is_kept_in_whatever_order_they_come() -> None:
    rule = Rule(0.5, 0)
    seqs = list(range(130 * STRETCH))
    kept = offered(rule, seqs)
    assert CAPACITY - 2 * STRETCH <= len(kept.slots) <= CAPACITY
    assert all(len(pairs) == STRETCH - 2 * GAP for pairs in kept.kept.values())
    of_stream = [stretch_of(numbered(block * STRETCH)) for block in held(rule, 130)]
    assert sorted(kept.kept) == sorted(sorted(of_stream, key=rule.rank)[: len(kept.kept)])

    np.random.default_rng(0).shuffle(seqs)
    other = offered(rule, seqs)
    assert {stretch: set(pairs) for stretch, pairs in other.kept.items()} == {
        stretch: set(pairs) for stretch, pairs in kept.kept.items()
    }


def test_the_same_pair_again_takes_no_second_slot() -> None:
    rule = Rule(0.5, 0)
    block = held(rule, 2)[0]
    seqs = list(range(block * STRETCH, (block + 1) * STRETCH))
    assert len(offered(rule, seqs * 50).slots) == STRETCH - 2 * GAP


# The account


def test_every_pair_that_came_is_trained_on_waits_or_is_held_out() -> None:
    learner = tiny_learner(CONFIG)
    pairs = make_pairs(20 * STRETCH)
    trained(learner, pairs)
    counts, rule = learner.counts(), learner.held_out.rule
    expected = sum(rule.holds(pair.header) for pair in pairs)
    assert 0 < learner.held_out.count == expected
    assert learner.received == len(pairs)
    # The newest ones wait for a step that nothing pays for any more.
    entered = learner.memory.arrived - len(learner.held_out.slots)
    assert learner.received == entered + learner.held_out.count
    assert counts.dropped_fresh == counts.quarantined == counts.undecodable == 0
    assert learner.samples <= CONFIG.pacing.replay_ratio * entered  # a held-out pair pays for no sample


def test_no_held_out_pair_is_ever_drawn() -> None:
    learner = tiny_learner(CONFIG)
    seen: set[str] = set()
    draw = learner.memory.names_of
    for _ in learn(learner, IteratorSource(make_pairs(12 * STRETCH)), clock=time.perf_counter):
        seen.update(name for name in learner.memory.slots.names if name)
    assert draw is not None
    rule = learner.held_out.rule
    numbers = {int(name.rpartition("/")[2]) for name in seen}
    assert not [number for number in numbers if rule.holds(numbered(number))]
    assert len(numbers) > 6 * STRETCH


def test_a_held_out_pair_that_does_not_decode_is_counted_once() -> None:
    learner = tiny_learner(CONFIG)
    seq = next(
        seq for seq in range(1000) if learner.held_out.rule.holds(numbered(seq)) and not is_in_gap(numbered(seq))
    )
    whole = make_pair(seq, codec="jpeg")
    damaged = EncodedPair(whole.header, whole.left[:9], whole.right)
    assert learner.add(damaged) is None
    assert (learner.received, learner.held_out.count, learner.counts().undecodable) == (1, 0, 1)
    assert [header.seq for header in learner.team.take_spoiled()] == [seq]


def test_metrics_count_them_from_the_start_of_the_process() -> None:
    learner = tiny_learner(CONFIG)
    trained(learner, make_pairs(8 * STRETCH))
    metrics = MemoryMetrics(learner)
    before = learner.held_out.count
    trained(learner, make_pairs(8 * STRETCH, 8 * STRETCH))
    found = {sample.name: sample.value for metric in metrics.collect() for sample in metric.samples}
    assert found["babyagent_buffer_held_out_pairs_total"] == learner.held_out.count - before > 0


# Runs that are killed, resumed and forked


@pytest.mark.parametrize("cut", [3 * STRETCH + 7, 7 * STRETCH + 13])
def test_a_run_that_goes_on_holds_out_what_one_does_that_was_never_stopped(tmp_path: Path, cut: int) -> None:
    pairs = make_pairs(12 * STRETCH)
    whole, before, after = (tiny_learner(CONFIG) for _ in range(3))
    trained(before, pairs[:cut])
    kept = dict(learner_keys(before, pairs))
    save_checkpoint(tmp_path / "state", before.state_dict())
    state = load_checkpoint(tmp_path / "state")
    after.load_state_dict(state, [kept[key] for key in stored_keys(state).tolist()])
    assert after.held_out.kept == before.held_out.kept
    for learner, rest in ((after, pairs[cut:]), (whole, pairs)):
        trained(learner, rest)
    assert digest(after) == digest(whole)
    assert after.held_out.kept == whole.held_out.kept
    slots = [learner.held_out.slots.of(learner.held_out.slots.keys()) for learner in (after, whole)]
    assert after.held_out.slots.left[slots[0]].equal(whole.held_out.slots.left[slots[1]])


def learner_keys(learner: Learner, pairs: list[EncodedPair]) -> list[tuple[int, EncodedPair]]:
    """The pairs of a learner by their keys, from their names."""
    by_name = {pair.header.name: pair for pair in pairs}
    return [
        (int(key), by_name[slots.names[slot]])
        for slots in (learner.memory.slots, learner.held_out.slots)
        for key, slot in zip(slots.keys(), slots.of(slots.keys()), strict=True)
    ]


def committed_run(folder: Path, config: LearnerConfig, pairs: list[EncodedPair]) -> Learner:
    """A learner after a life over these pairs that ends with a commit."""
    folder.mkdir(exist_ok=True)
    learner = tiny_learner(config)
    with Store(folder / "pairs.sqlite") as store:
        checkpoints = CheckpointFolder(folder / "checkpoints")
        cursor = restore(learner, store, checkpoints)
        source = IteratorSource(pairs, cursor=cursor)
        committer = Committer(learner, source, store, checkpoints, clock=time.monotonic)
        for _ in learn(learner, source, clock=time.monotonic, keep=committer.keep):
            pass
        committer.finish()
        committer.close()
        keys = stored_keys(learner.state_dict()).tolist()
        assert [store.checksums([key])[0] >= 0 for key in keys] == [True] * len(keys)
        names = [unpack(item).header.name for item in store.items(sorted(learner.held_out.slots.keys().tolist()))]
        assert all(learner.held_out.rule.holds(numbered(int(name.rpartition("/")[2]))) for name in names)
    return learner


def test_their_bytes_are_durable_with_each_commit_and_come_back(tmp_path: Path) -> None:
    pairs = make_pairs(10 * STRETCH)
    whole = committed_run(tmp_path / "whole", CONFIG, pairs)
    committed_run(tmp_path / "twice", CONFIG, pairs[: 5 * STRETCH + 3])
    twice = committed_run(tmp_path / "twice", CONFIG, pairs)
    assert digest(twice) == digest(whole)
    assert len(twice.held_out.slots) > STRETCH - 2 * GAP


def test_a_fork_trains_on_no_pair_that_it_holds_out(tmp_path: Path) -> None:
    committed_run(tmp_path / "old", dataclasses.replace(CONFIG, holdout=0.0), make_pairs(4 * STRETCH))
    config = dataclasses.replace(CONFIG, holdout=0.5, fork=str(tmp_path / "old"))
    new = Learner(config, tiny_learner().device, begins=False)
    fork = Fork(tmp_path / "old")
    fork.networks(new)
    stored: list[int] = []
    fork.memory(new, lambda key, _pair: stored.append(key))
    memory, quarantine = new.memory, new.memory.ranking.quarantine
    drawable = [
        memory.slots.names[slot]
        for key, slot in zip(memory.slots.keys(), memory.slots.of(memory.slots.keys()), strict=True)
        if key not in quarantine
    ]
    assert drawable
    assert not [name for name in drawable if new.held_out.rule.holds(numbered(int(name.rpartition("/")[2])))]
    assert set(stored) >= set(stored_keys(new.state_dict()).tolist())


def test_the_constants_never_change_because_runs_go_on_with_them() -> None:
    assert (holdout.STRETCH, holdout.GAP, holdout.CAPACITY, CANVAS) == (24, 4, 512, (24, 32))
    assert held(Rule(0.1, 5), 60) == held(Rule(0.1, 5), 60)
