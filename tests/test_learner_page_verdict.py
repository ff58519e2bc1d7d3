"""The verdict in one line and the list of what is wrong, for every state that a run can be in."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from learner_state import trained
from test_learner_page_live import Clock
from tiny_learner import EPOCH, make_pairs, tiny_learner

from learner.page.guide import Guide
from learner.page.live import TREND_EVERY_S, TREND_S, Live
from learner.page.overview import MINUTE_S, state_of, title, verdict_line, wrong
from learner.page.rigs import newest
from learner.page.verdict import (
    LOW_DISK_BYTES,
    MANY_WAITING,
    MIN_GAIN,
    SILENT_LOOP_S,
    RunState,
    Score,
    concerns,
    verdict,
)
from stream.pair import SIGNAL_REASONS
from stream.stats import SILENT_S, DeviceStats, SourceStats

RUNNING = RunState(steps=151, received=1216, rigs=1, endpoints=("tcp://rig:5555",))
LEARNING = replace(RUNNING, scores={"digits": Score(0.455, 0.609, 5)})


@pytest.mark.parametrize(
    ("state", "level", "text"),
    [
        (RunState(phase="starting", working="reading the last commit"), "wait", "starting: reading the last commit"),
        (RunState(phase="stopping", working="committing step 9"), "wait", "stopping: committing step 9"),
        (RunState(), "wait", "waiting for the first pair"),
        (
            RunState(endpoints=("tcp://a:1", "tcp://b:1")),
            "wait",
            "waiting for a rig at tcp://a:1 or tcp://b:1",
        ),
        (RunState(received=24, wanted=104), "wait", "collecting pairs: 24 so far, 104 more to the first step"),
        (RUNNING, "good", "training, not measured yet, healthy"),
        (
            replace(RUNNING, scores={"digits": Score(0.455, 0.455, 1)}),
            "good",
            "training: k-NN 45.5 % at the start, not measured again yet, healthy",
        ),
        (LEARNING, "good", "learning: k-NN 45.5 → 60.9 %, healthy"),
        (
            replace(RUNNING, scores={"a": Score(0.4, 0.6, 2), "b": Score(0.2, 0.3, 2)}),
            "good",
            "learning: k-NN 30.0 → 45.0 % (mean of 2 control sets), healthy",
        ),
        (
            replace(RUNNING, scores={"digits": Score(0.455, 0.46, 2)}),
            "wait",
            "no better than its start yet: k-NN 45.5 → 46.0 %",
        ),
        (
            replace(RUNNING, scores={"digits": Score(0.455, 0.4, 2)}),
            "warn",
            "worse than its start: k-NN 45.5 → 40.0 %",
        ),
    ],
)
def test_the_verdict_says_what_the_run_does_and_what_it_has_gained(state: RunState, level: str, text: str) -> None:
    assert verdict(state) == (level, text)


@pytest.mark.parametrize(
    ("change", "level", "said"),
    [
        ({"silent_s": SILENT_LOOP_S}, "bad", "no sign of life"),
        ({"rollbacks": 1, "rolled_back_at": 812}, "bad", "rolled back after a collapse"),
        ({"doubt": 0.6}, "warn", "near a collapse"),
        ({"refused": 2}, "bad", "refusing steps"),
        ({"lost": 12, "lost_lately": 3}, "bad", "losing pairs"),
        ({"lost": 12}, "wait", "12 pairs were lost"),
        ({"behind": MANY_WAITING + 1, "is_falling_behind": True}, "warn", "falling behind"),
        ({"silent": ("rig1",)}, "warn", "rig1 silent"),
        ({"silent": ("a", "b", "c", "d"), "rigs": 9}, "warn", "a, b, c, ... silent"),
        ({"have_ended": True, "silent": ("rig1",)}, "wait", "every rig has ended its stream"),
        ({"endpoints": ("tcp://a:1", "tcp://b:1")}, "wait", "1 of 2 rigs missing"),
        ({"untrusted": 1}, "warn", "keys do not fit"),
        ({"undecodable": 1}, "wait", "damaged pairs dropped"),
        ({"malformed": 1}, "wait", "damaged pairs dropped"),
        ({"free_bytes": LOW_DISK_BYTES - 1}, "bad", "disk nearly full"),
    ],
)
def test_what_is_wrong_is_in_the_verdict_and_has_a_remedy(change: dict[str, object], level: str, said: str) -> None:
    state = replace(LEARNING, **change)  # type: ignore[arg-type]
    assert verdict(state) == (level, f"learning: k-NN 45.5 → 60.9 %; {said}")
    (concern,) = concerns(state)
    assert concern.text.endswith(".")
    assert concern.remedy
    assert concern.remedy.partition("<")[0] in wrong(state).replace("&#x27;", "'")
    assert f'class="verdict {level}"' in verdict_line(state)


def test_the_gravest_comes_first_and_the_others_are_counted() -> None:
    state = replace(LEARNING, undecodable=1, doubt=0.6, lost=3, lost_lately=3)
    assert [concern.level for concern in concerns(state)] == ["bad", "warn", "wait"]
    assert verdict(state).text == "learning: k-NN 45.5 → 60.9 %; losing pairs and 2 more"


def test_a_control_set_that_got_worse_is_named_though_the_mean_got_better() -> None:
    state = replace(RUNNING, scores={"digits": Score(0.4, 0.6, 2), "places": Score(0.2, 0.1, 2)})
    assert verdict(state) == ("wait", "learning: k-NN 30.0 → 35.0 % (mean of 2 control sets); worse on places")


def test_a_backlog_that_falls_is_no_concern_and_a_small_one_neither() -> None:
    for change in ({"behind": 9000}, {"behind": MANY_WAITING, "is_falling_behind": True}):
        assert concerns(replace(LEARNING, **change)) == []  # type: ignore[arg-type]
    assert 0 < MIN_GAIN < 0.05


def test_names_in_the_verdict_are_text() -> None:
    state = replace(LEARNING, silent=("<i>",))
    assert "&lt;i&gt;" in verdict_line(state)
    assert "<i>" not in verdict_line(state) + wrong(state)


class Run:
    """A learner that trained, its page, and a stream whose statistics the test sets."""

    def __init__(self) -> None:
        self.clock = Clock()
        learner = tiny_learner()
        self.live = Live(learner, self.clock)
        for report in trained(learner, make_pairs(22)):
            self.live.observe(report)
        self.device = DeviceStats(epoch=EPOCH, next_seq=22, received=22, last_heard_s=math.inf)  # heard at any moment
        self.stats = SourceStats(devices={"rig1": self.device}, endpoints=("tcp://rig:1",))
        self.backlog = 0

    def seen(self, passed_s: float = TREND_EVERY_S) -> RunState:
        """The state after so many seconds in which nobody watched."""
        self.clock.now_s += passed_s
        self.live.alive(lambda: "", lambda: self.stats, lambda: self.backlog)
        return state_of(self.live, {}, Path("not-there"))


def test_a_run_at_work_is_healthy_in_its_first_minute() -> None:
    run = Run()
    state = run.seen()
    assert concerns(state) == []
    assert (state.phase, state.steps, state.received, state.rigs) == ("running", run.live.learner.steps, 22, 1)


def test_pairs_are_lost_lately_for_ten_minutes_whether_or_not_somebody_watched() -> None:
    run = Run()
    earlier = replace(run.device, lost=5)
    run.stats = replace(run.stats, lost=5, devices={"rig1": earlier}, before={"rig1": earlier})
    assert (run.seen().lost, run.seen().lost_lately) == (5, 0)
    run.stats = replace(run.stats, lost=7, devices={"rig1": replace(earlier, lost=7)})
    assert (run.seen().lost, run.seen().lost_lately) == (7, 2)
    run.stats = replace(run.stats, lost=1, devices={"rig1": replace(earlier, lost=1, returned=6)})
    assert (run.seen().lost, run.seen().lost_lately) == (1, 1)
    run.stats = replace(run.stats, lost=0, devices={"rig1": replace(earlier, lost=0, returned=7)})
    assert (run.seen().lost, run.seen().lost_lately) == (0, 0)
    assert run.seen(TREND_S + 1).lost_lately == 0


def test_what_was_lost_before_the_first_look_of_a_process_is_lost_lately() -> None:
    run = Run()
    run.stats = replace(run.stats, lost=3, devices={"rig1": replace(run.device, lost=3)})
    assert run.seen().lost_lately == 3


def test_dropped_messages_and_keys_that_did_not_fit_are_no_concern_for_ever() -> None:
    run = Run()
    malformed = {"crc": 2, SIGNAL_REASONS[0]: 12}  # of a message whose signal is dropped the pair is received
    run.stats = replace(run.stats, malformed=malformed, failed_handshakes={"wrong_key": 1, "broken_off": 9})
    state = run.seen()
    assert (state.malformed, state.untrusted) == (2, 1)
    assert concerns(run.seen(TREND_S + 1)) == []


def test_a_process_that_began_without_its_rig_waits_for_the_next_pair_and_names_no_simulator() -> None:
    run = Run()
    run.stats = replace(run.stats, devices={"rig1": replace(run.device, last_heard_s=None)})
    assert [concern.short for concern in concerns(run.seen())] == ["1 of 1 rigs missing"]
    assert "waits for its next pair" in title(run.live)
    assert "sim" not in newest(run.live, Guide(endpoints=("tcp://rig:1",)))


def test_it_falls_behind_when_what_waits_has_not_fallen_for_a_minute() -> None:
    run = Run()
    run.backlog, run.stats = 600, replace(run.stats, devices={"rig1": replace(run.device, pending=100)})
    assert not run.seen().is_falling_behind
    run.backlog = 650
    assert run.seen(MINUTE_S).is_falling_behind
    run.backlog = 300
    state = run.seen(MINUTE_S)
    assert (state.behind, state.is_falling_behind) == (400, False)


def test_pairs_on_a_rig_out_of_reach_are_no_reason_to_train_less() -> None:
    run = Run()
    run.stats = replace(run.stats, devices={"rig1": replace(run.device, pending=4000, last_heard_s=run.clock())})
    assert [run.seen(MINUTE_S).behind for _ in range(3)] == [0, 0, 0]
    assert [concern.short for concern in concerns(run.seen())] == ["rig1 silent"]


def test_a_rig_counts_as_silent_after_a_while_and_not_once_it_has_ended() -> None:
    run = Run()
    heard = replace(run.device, last_heard_s=run.clock() - SILENT_S)
    run.stats = replace(run.stats, devices={"rig1": heard})
    assert run.seen().silent == ("rig1",)
    run.stats = replace(run.stats, devices={"rig1": replace(heard, ended=True)})
    state = run.seen()
    assert (state.silent, state.have_ended) == ((), True)


def test_starting_stopping_and_a_silent_loop_are_seen() -> None:
    run = Run()
    assert state_of(run.live, {}, Path()).phase == "starting"
    run.seen()
    run.clock.now_s += SILENT_LOOP_S
    assert verdict(state_of(run.live, {}, Path())).text.endswith("; no sign of life")
    run.live.stopping("committing step 3")
    run.live.pulse.beat()  # the last probe gives signs of life too
    assert verdict(state_of(run.live, {}, Path())).text == "stopping: committing step 3"


def test_a_rollback_is_said_until_the_guard_forgives_it() -> None:
    run = Run()
    guard = run.live.learner.trainer.guard
    guard.rolled_back(7)
    assert run.seen().rolled_back_at == 7
    guard.observe(7 + guard.config.forgiven_after_steps, {})
    assert run.seen().rolled_back_at is None
    assert run.seen().rollbacks == 1
