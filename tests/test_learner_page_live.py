"""What the training thread hands over: only while somebody looks, within its share, and never to be seen in the weights."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from learner_state import digest, trained
from tiny_learner import CANVAS, make_pair, make_pairs, tiny_learner

from learner.loop import Learner, StepReport, Waiting, learn
from learner.page.live import (
    EVERY_S,
    MAX_DEVICES,
    ROW_PAIRS,
    SHARE,
    TREND_EVERY_S,
    WATCHED_S,
    Live,
    Snapshot,
    copy_snapshot,
)
from stream.codec import decode, encode_pair
from stream.pair import EncodedPair
from stream.source import IteratorSource


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def learner() -> Learner:
    learner = tiny_learner()
    trained(learner, make_pairs(22))
    return learner


WAITING = Waiting(received=0, wanted=1, waited_s=0.0)


def number(live: Live) -> int:
    return live.snapshot.number if live.snapshot else 0


def test_pictures_are_taken_only_while_somebody_watches(learner: Learner, clock: Clock) -> None:
    live = Live(learner, clock)
    live.observe(WAITING)
    assert live.snapshot is None
    live.watch()
    live.observe(WAITING)
    assert number(live) == 1
    clock.now_s += WATCHED_S
    live.observe(WAITING)
    assert number(live) == 1
    live.watch()
    live.observe(WAITING)
    assert number(live) == 2


def test_pictures_that_take_long_come_rarely(learner: Learner, clock: Clock) -> None:
    took_s = 0.1

    def slow(learner: Learner, number: int) -> Snapshot:
        clock.now_s += took_s
        return copy_snapshot(learner, number)

    live = Live(learner, clock, copy=slow)
    began_s = clock.now_s
    while clock.now_s < began_s + 300:
        live.watch()
        live.observe(WAITING)
        clock.now_s += 0.05
    spent = number(live) * took_s / (clock.now_s - began_s)
    assert SHARE / 2 < spent < 0.005
    assert took_s / SHARE > EVERY_S


def test_words_are_asked_for_every_few_seconds_and_every_second_while_somebody_watches(
    learner: Learner, clock: Clock
) -> None:
    live, asked = Live(learner, clock), itertools.count(-1)
    for _ in range(3):
        live.alive(lambda: f"asked {next(asked)}")
    assert live.status == "asked -1"
    assert live.pulse.is_ready
    clock.now_s += TREND_EVERY_S
    live.alive(lambda: f"asked {next(asked)}")
    assert live.status == "asked 0"
    clock.now_s += EVERY_S
    live.watch()
    for _ in range(3):
        live.alive(lambda: f"asked {next(asked)}")
    assert live.status == "asked 1"  # once a second
    clock.now_s += EVERY_S
    live.alive(lambda: f"asked {next(asked)}")
    assert live.status == "asked 2"


def test_a_snapshot_shows_the_ends_of_memory_and_never_changes(learner: Learner, clock: Clock) -> None:
    live = Live(learner, clock)
    live.watch()
    live.observe(WAITING)
    snapshot = live.snapshot
    assert snapshot is not None
    rows = snapshot.rows
    assert rows.keys() == {"highest", "lowest", "newest", "oldest"}
    assert {len(row) for row in rows.values()} == {ROW_PAIRS}
    assert {pair.left.shape for row in rows.values() for pair in row} == {(*CANVAS, 3)}
    kept = snapshot.kept.tolist()  # the number of each pair is its capture time too
    assert [pair.captured_ns for pair in rows["newest"]] == sorted(kept, reverse=True)[:ROW_PAIRS]
    assert [pair.captured_ns for pair in rows["oldest"]] == sorted(kept)[:ROW_PAIRS]
    highest, lowest = ([pair.priority for pair in rows[name]] for name in ("highest", "lowest"))
    assert highest == sorted(highest, reverse=True)
    assert min(highest) >= max(lowest)
    assert np.array_equal(rows["oldest"][0].left, decode(make_pair(rows["oldest"][0].captured_ns)).left)
    before = copy.deepcopy(rows), copy.deepcopy(snapshot.views)
    trained(learner, make_pairs(40, first=22))
    learner.memory.slots.left.fill_(0)
    for name, row in rows.items():
        assert all(np.array_equal(pair.left, was.left) for pair, was in zip(row, before[0][name], strict=True))
    for look, was in zip(snapshot.views, before[1], strict=True):
        assert all(np.array_equal(look[name], was[name]) for name in was)


def test_pictures_that_cannot_be_taken_are_said_and_training_goes_on(
    learner: Learner, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    live = Live(learner, clock)
    live.watch()
    with monkeypatch.context() as patch:
        patch.setattr(learner.memory.ranking.reservoir, "keys", lambda: 1 / 0)
        live.observe(WAITING)
        live.observe(WAITING)
    assert live.snapshot is None
    assert [record.getMessage() for record in caplog.records] == [
        f"no pictures of step={learner.steps}: ZeroDivisionError('division by zero')"
    ]
    clock.now_s += EVERY_S
    live.observe(WAITING)
    assert number(live) == 1


def test_a_learner_that_received_nothing_can_be_watched(clock: Clock) -> None:
    live = Live(tiny_learner(), clock)
    live.watch()
    live.observe(WAITING)
    assert live.snapshot is not None
    assert live.snapshot.views == ()
    assert list(live.snapshot.rows.values()) == [[], [], [], []]


def test_the_weights_are_the_same_bit_for_bit_with_and_without_somebody_watching(clock: Clock) -> None:
    """Pictures after each step, and the whole state, generators included."""
    alone, watched = tiny_learner(), tiny_learner()
    live = Live(watched, clock)
    trained(alone, make_pairs(24))
    for event in events(watched, make_pairs(24)):
        clock.now_s += 1e6
        live.watch()
        live.observe(event)
    assert number(live) >= watched.steps == alone.steps > 8
    assert digest(watched) == digest(alone)


def events(learner: Learner, pairs: list[EncodedPair]) -> Iterator[StepReport | Waiting]:
    return learn(learner, IteratorSource(pairs), clock=lambda: 0.0)


def test_the_newest_pair_of_each_device_is_held_of_so_many_devices(learner: Learner, clock: Clock) -> None:
    live = Live(learner, clock)
    pairs = [pair_of(f"rig{number}", seq) for seq in range(2) for number in range(MAX_DEVICES + 3)]
    for pair in pairs:
        live.received(pair)
    latest = live.latest()
    assert len(latest) == MAX_DEVICES
    assert {pair.header.seq for pair in latest.values()} == {1}
    assert all(name == pair.header.device for name, pair in latest.items())


def pair_of(device: str, seq: int, size: tuple[int, int] = (8, 8)) -> EncodedPair:
    image = np.full((*size, 3), seq, np.uint8)
    return encode_pair(
        image, image, device=device, epoch="c" * 32, seq=seq, left_ns=seq, right_ns=seq, codec="lz4", suppressed=0
    )


def test_the_rate_falls_while_the_next_step_waits(learner: Learner, clock: Clock) -> None:
    live = Live(learner, clock)
    live.observe(StepReport(step=1, samples=8, received=8, loss=1.0, grad_norm=1.0, learning_rate=1e-3, busy_s=0.1))
    batch_size = learner.config.pacing.batch_size
    assert live.samples_now() == pytest.approx(batch_size / 0.1)
    live.observe(Waiting(received=8, wanted=1, waited_s=3600.0))
    assert live.samples_now() == pytest.approx(batch_size / 3600)
