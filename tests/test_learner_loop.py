"""The learner and its loop: repeatable bit for bit, paced, and never harmed by a pair it cannot use."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learner_state import digest, gone_on, trained, weights, without_rate
from poison import Poisonable, poisonable, white_pair
from tiny_learner import EPOCH, TINY, make_pair, make_pairs, tiny_learner
from waiting import WAIT_S, until

from learner.errors import NonFiniteLoss, SettingsError
from learner.loop import Learner, StepReport, Waiting, learn
from learner.objectives.babyagent import BabyAgent
from learner.pacing import PacingConfig
from stream.live.publisher import Publisher
from stream.live.subscriber import Subscriber
from stream.pair import EncodedPair, Header
from stream.source import IteratorSource

ROOT = Path(__file__).parents[1]


def test_the_same_recording_and_seed_give_the_same_learner_bit_for_bit() -> None:
    one, other = tiny_learner(), tiny_learner()
    losses = [[report.loss for report in trained(learner, make_pairs(40))] for learner in (one, other)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 20
    assert digest(one) == digest(other)


def test_another_seed_gives_another_learner() -> None:
    one, other = tiny_learner(), tiny_learner(replace(TINY, seed=1))
    for learner in (one, other):
        trained(learner, make_pairs(8))
    assert digest(one) != digest(other)


def test_another_process_arrives_at_the_same_weights() -> None:
    here = tiny_learner()
    trained(here, make_pairs(24))
    program = """
from learner_state import digest, trained
from tiny_learner import make_pairs, tiny_learner
learner = tiny_learner()
trained(learner, make_pairs(24))
print(digest(learner))
"""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = os.environ | {"PYTHONPATH": paths, "PYTHONHASHSEED": "7"}
    there = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=500, check=True
    )
    assert there.stdout.strip() == digest(here)


def test_what_else_uses_torch_does_not_change_the_weights() -> None:
    torch.manual_seed(99)
    one = tiny_learner()
    torch.rand(7)
    other = tiny_learner()
    assert digest(one) == digest(other)


@pytest.mark.parametrize("cut", [0, 5, 16, 39])
def test_a_learner_saved_and_loaded_anywhere_goes_on_as_if_never_stopped(cut: int, tmp_path: Path) -> None:
    """Through real files, cut before the first step, before the reservoir is full, and after."""
    assert gone_on(tiny_learner, make_pairs(60), cut, tmp_path / "state").steps == 30


@pytest.mark.parametrize("ratio", [0.5, 1.0, 3.0, 4.0, 10.0])
def test_the_replay_ratio_is_kept_within_a_batch(ratio: float) -> None:
    learner = tiny_learner(replace(TINY, pacing=PacingConfig(replay_ratio=ratio, batch_size=8)))
    for report in trained(learner, make_pairs(64)):
        assert report.samples == 8 * report.step
        assert report.samples <= ratio * report.received
    assert abs(learner.samples - ratio * learner.received) < 8 + ratio
    assert learner.received == 64


def test_a_source_made_on_demand_gives_no_pair_too_early() -> None:
    """What is received before a step is what the step waits for: pairs and steps interleave in one way only."""
    learner = tiny_learner()
    received = [report.received for report in trained(learner, make_pairs(20))]
    assert received == [8, 8, 8, 8, *(number for number in range(10, 21, 2))]


def test_each_pair_is_trained_on_at_least_once_before_the_reservoir_decides() -> None:
    learner = tiny_learner()
    trained(learner, make_pairs(60))
    state = learner.memory.state_dict()
    assert learner.memory.dropped_fresh == learner.memory.fresh == 0
    assert learner.memory.ranking.reservoir.arrivals == 60
    assert np.isfinite(state["priority"]).all()


def test_what_still_waits_when_a_source_ends_is_kept_for_the_next() -> None:
    learner = tiny_learner()
    trained(learner, make_pairs(5))
    assert (learner.steps, learner.received, learner.memory.fresh) == (0, 5, 5)
    trained(learner, make_pairs(3, first=5))
    assert learner.steps == 4


def test_a_report_tells_what_the_step_was() -> None:
    learner = tiny_learner()
    ticks = itertools.count()
    reports = [
        r
        for r in learn(learner, IteratorSource(make_pairs(16)), clock=lambda: next(ticks))
        if isinstance(r, StepReport)
    ]
    first = reports[0]
    assert (first.step, first.samples, first.received, first.refused) == (1, 8, 8, ())
    assert first.loss > 0
    assert first.grad_norm > 0
    assert {"kl", "teacher_entropy"} <= first.gauges.keys()
    assert [report.learning_rate for report in reports[:3]] == [2.5e-4, 5e-4, 5e-4]
    assert (first.busy_s, first.waited_s) == (1, 1)


def test_the_time_its_caller_takes_is_neither_training_nor_waiting() -> None:
    now = [0.0]
    seconds = []
    for event in learn(tiny_learner(), IteratorSource(make_pairs(16)), clock=lambda: now[0]):
        assert isinstance(event, StepReport)
        seconds.append(event.busy_s + event.waited_s)
        now[0] += 100.0
    assert not any(seconds)


def test_a_pair_that_does_not_decode_is_counted_and_dropped(caplog: pytest.LogCaptureFixture) -> None:
    pairs = make_pairs(20)
    for index in (3, 11, 12):
        pairs[index] = EncodedPair(pairs[index].header, b"no image", pairs[index].right)
    learner = tiny_learner()
    reports = trained(learner, pairs)
    assert (learner.received, learner.team.member.undecodable, learner.memory.arrived) == (20, 3, 17)
    assert len(reports) == 8  # the budget of 17 pairs, in whole batches
    assert [record.getMessage().split()[1] for record in caplog.records] == [
        f"pair=baby/{EPOCH[:8]}/3",
        f"pair=baby/{EPOCH[:8]}/11",
    ]


class Spoiling(IteratorSource):
    """Remembers which of its pairs could not be used."""

    def __init__(self, pairs: list[EncodedPair], waiting: int) -> None:
        super().__init__(pairs)
        self.given: list[EncodedPair] = []
        self.spoiled: list[int] = []
        self.waiting = waiting

    def backlog(self) -> int:
        return min(self.waiting, 60 - len(self.given))

    def receive(self, limit: int, timeout_s: float) -> list[EncodedPair]:
        pairs = super().receive(limit, timeout_s)
        self.given += pairs
        return pairs

    def spoil(self, header: Header) -> None:
        self.spoiled.append(header.seq)


@pytest.mark.parametrize("waiting", [0, 3])  # received before a step only, and beside it too
def test_whenever_the_loop_reports_each_pair_that_did_not_decode_is_lost_by_name(waiting: int) -> None:
    pairs = make_pairs(60)
    for index in range(3, 60, 7):
        pairs[index] = EncodedPair(pairs[index].header, b"no image", pairs[index].right)
    source = Spoiling(pairs, waiting)
    for _ in learn(tiny_learner(), source, clock=time.monotonic):
        assert source.spoiled == [pair.header.seq for pair in source.given if pair.left == b"no image"]
    assert source.spoiled == list(range(3, 60, 7))


def test_each_pair_that_goes_into_memory_is_given_to_be_kept_with_its_key() -> None:
    pairs = make_pairs(20)
    pairs[3] = EncodedPair(pairs[3].header, b"no image", pairs[3].right)
    kept: list[tuple[int, EncodedPair]] = []
    learner = tiny_learner()
    for _ in learn(learner, IteratorSource(pairs), clock=time.monotonic, keep=lambda *item: kept.append(item)):
        assert set(learner.state_dict()["memory"]["keys"].tolist()) <= {key for key, _ in kept}
    assert kept == list(enumerate([*pairs[:3], *pairs[4:]]))


def test_whenever_the_loop_reports_the_learner_has_all_that_the_source_gave() -> None:
    """So a commit between two reports may say that it holds everything up to the source's cursor."""
    learner, source = tiny_learner(), IteratorSource(make_pairs(30))
    for _ in learn(learner, source, clock=time.monotonic):
        assert source.cursor() == {"given": learner.received}


def test_what_the_devices_suppressed_is_added_up() -> None:
    learner = tiny_learner()
    trained(learner, [make_pair(seq, suppressed=seq) for seq in range(5)])
    assert learner.suppressed == 10


def test_while_nothing_comes_the_learner_says_that_it_waits() -> None:
    with (
        Publisher("tcp://127.0.0.1:0", device="baby", epoch=EPOCH, on_full="wait") as publisher,
        Subscriber([publisher.endpoint], end_on_bye=True) as source,
    ):
        events = learn(tiny_learner(), source, clock=time.monotonic)
        first, second = next(events), next(events)
        assert isinstance(first, Waiting)
        assert isinstance(second, Waiting)
        assert (second.received, second.wanted) == (0, 8)
        assert second.waited_s > first.waited_s > 0
        for pair in make_pairs(8):
            publisher.send(pair)
        assert isinstance(next(event for event in events if not isinstance(event, Waiting)), StepReport)


def test_a_slow_stream_never_keeps_the_loop_from_reporting() -> None:
    """Pairs that come one by one are no reason to be silent until the batch is full: Ctrl-C is looked at between reports."""

    class Slow(IteratorSource):
        def receive(self, limit: int, timeout_s: float) -> list[EncodedPair]:
            return super().receive(1, timeout_s)

    events = list(learn(tiny_learner(), Slow(make_pairs(8)), clock=time.monotonic))
    assert [event.received for event in events] == [1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8]
    assert sum(isinstance(event, Waiting) for event in events) == 7


def test_of_a_live_backlog_no_more_is_taken_than_can_wait_so_that_every_pair_is_trained_on() -> None:
    learner = tiny_learner()
    with (
        Publisher("tcp://127.0.0.1:0", device="baby", epoch=EPOCH, on_full="wait") as publisher,
        Subscriber([publisher.endpoint], end_on_bye=True) as source,
    ):
        for pair in make_pairs(40):
            assert publisher.send(pair)
        publisher.bye()
        until(lambda: source.backlog() == 40)
        events = list(learn(learner, source, clock=time.monotonic))
    assert events[0].received == learner.config.memory.fresh_capacity == 16
    assert [event.received for event in events[:4]] == [16, 24, 32, 40]  # as many come as a step has taken
    assert (events[-1].received, learner.memory.dropped_fresh, learner.memory.fresh) == (40, 0, 0)


class Arriving(IteratorSource):
    """A live source of which `waiting` pairs have arrived."""

    def __init__(self, pairs: list[EncodedPair], waiting: int) -> None:
        super().__init__(pairs)
        self.waiting = waiting

    def backlog(self) -> int:
        return self.waiting

    def receive(self, limit: int, timeout_s: float) -> list[EncodedPair]:
        pairs = super().receive(min(limit, max(1, self.waiting)), timeout_s)
        self.waiting = max(0, self.waiting - len(pairs))
        return pairs


def arriving_in_a_step(learner: Any, count: int, end: Callable[[], None]) -> Arriving:
    """`count` pairs, of which one arrives while the first step is under way; that step `end`s when it is decoded."""
    source, decoded = Arriving(make_pairs(count), 8), threading.Event()
    step, decode = learner.step, learner.decode

    def stepping() -> StepReport:
        learner.step = step
        decoded.clear()
        source.waiting = 1
        assert decoded.wait(WAIT_S), "nothing is decoded beside the step"
        end()
        report: StepReport = step()
        return report

    def decoding(pair: EncodedPair) -> Any:
        found = decode(pair)
        decoded.set()
        return found

    learner.step, learner.decode = stepping, decoding
    return source


def test_what_arrives_during_a_step_is_decoded_beside_it_and_taken_before_the_report() -> None:
    learner, kept = tiny_learner(), list[int]()
    source = arriving_in_a_step(learner, 9, end=lambda: None)
    report = next(learn(learner, source, clock=time.monotonic, keep=lambda key, _pair: kept.append(key)))
    assert isinstance(report, StepReport)
    assert source.cursor() == {"given": report.received} == {"given": learner.received} == {"given": 9}
    assert kept == [*range(9)]
    assert learner.memory.fresh == 1


def test_a_pair_that_arrived_during_a_step_that_failed_is_in_memory_all_the_same() -> None:
    def fail() -> None:
        raise NonFiniteLoss("made to fail")

    learner = tiny_learner()
    source = arriving_in_a_step(learner, 9, end=fail)
    with pytest.raises(NonFiniteLoss, match="made to fail"):
        next(learn(learner, source, clock=time.monotonic))
    assert source.cursor() == {"given": learner.received} == {"given": 9}
    assert learner.memory.fresh == 9


def test_one_poisoned_pair_is_named_and_dropped_and_training_goes_on() -> None:
    learner = poisonable()
    pairs = [*make_pairs(9), white_pair(9), *make_pairs(30, first=10)]
    refused = []
    before = weights(learner)
    for event in learn(learner, IteratorSource(pairs), clock=time.monotonic):
        assert isinstance(event, StepReport | Waiting)
        if isinstance(event, StepReport) and event.refused:
            refused.append(event.refused)
            assert without_rate(weights(learner)) == without_rate(before)
        before = weights(learner)
    assert refused == [(f"baby/{EPOCH[:8]}/9",)]
    assert learner.memory.quarantined == 1
    assert learner.samples == 8 * (learner.steps - 1)
    assert learner.memory.ranking.reservoir.arrivals == 39  # the others of its batch were trained on afterwards
    assert isinstance(learner.objective, BabyAgent)
    assert all(torch.isfinite(parameter).all() for parameter in learner.objective.parameters())


def test_a_remembered_pair_that_turns_bad_is_never_drawn_again() -> None:
    learner = poisonable()
    assert isinstance(learner.objective, Poisonable)
    learner.objective.poisonous = False
    trained(learner, [white_pair(0), *make_pairs(11, first=1)])
    learner.objective.poisonous = True
    reports = trained(learner, make_pairs(40, first=12))
    assert [report.refused for report in reports if report.refused] in ([], [(f"baby/{EPOCH[:8]}/0",)])
    assert learner.memory.quarantined == sum(bool(report.refused) for report in reports) == 1


def test_weights_that_are_not_finite_stop_the_learner_after_a_few_steps_and_name_the_pairs() -> None:
    learner = tiny_learner()
    trained(learner, make_pairs(12))
    assert isinstance(learner.objective, BabyAgent)
    with torch.no_grad():
        next(iter(learner.objective.student.projector.mlp.parameters())).fill_(torch.inf)
    before = weights(learner)
    with pytest.raises(NonFiniteLoss, match=rf"3 steps in a row .*baby/{EPOCH[:8]}/16.*") as stopped:
        trained(learner, make_pairs(40, first=12))
    assert "\n" not in str(stopped.value)
    assert without_rate(weights(learner)) == without_rate(before)


def test_good_steps_between_bad_ones_start_the_count_over() -> None:
    learner = poisonable()
    pairs = make_pairs(80)
    for seq in range(10, 80, 14):
        pairs[seq] = white_pair(seq)
    reports = trained(learner, pairs)
    assert sum(bool(report.refused) for report in reports) == 5
    assert learner.trainer.refused_in_a_row == 0


def test_a_gpu_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SettingsError, match=r"no GPU .* --device cpu"):
        Learner(TINY, torch.device("cuda"))
