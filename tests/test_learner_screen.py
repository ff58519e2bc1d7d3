"""What a run says on the screen and in a log, and how often."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from learner.loop import StepReport, Waiting
from learner.service.screen import Screen
from learner.service.summary import probe_table
from learner.service.timing import Rhythm


def a_step(**changed: Any) -> StepReport:
    figures: dict[str, Any] = {"step": 7, "samples": 56, "received": 9, "loss": 1.25, "grad_norm": 1.0}
    return StepReport(**(figures | {"learning_rate": 1e-3, "busy_s": 0.5, "gauges": {"kl": 0.5}} | changed))


def test_in_a_log_a_line_comes_every_few_seconds_and_short_waits_are_not_worth_one() -> None:
    now, text = [0.0], io.StringIO()
    with Screen(Console(file=text, width=200), clock=lambda: now[0]) as screen:
        for tenth in range(120):
            now[0] = tenth / 10
            screen.waiting(Waiting(0, 5, waited_s=0.4), "5 more pairs")
            screen.step(a_step(step=tenth), 8, "3/9 s  pairs 9")
    assert text.getvalue().splitlines() == [
        f"3/9 s  pairs 9  step {step}  16 samples/s  loss 1.250  kl 0.5" for step in (50, 100)
    ]


def test_the_students_last_probe_stays_in_sight_beside_the_loss() -> None:
    now, text = itertools.count(step=10), io.StringIO()
    with Screen(Console(file=text, width=120), clock=lambda: next(now)) as screen:
        screen.probed(7, "digits", "student", {"knn": 0.5, "linear": 0.75})
        screen.probed(7, "digits", "teacher", {"knn": 0.25, "linear": 0.5})
        screen.step(a_step(), 8, "3 s  pairs 9")
    assert text.getvalue().splitlines() == [
        "probe  step 7  digits  student  k-NN 0.500  linear 0.750",
        "probe  step 7  digits  teacher  k-NN 0.250  linear 0.500",
        "3 s  pairs 9  step 7  16 samples/s  loss 1.250  digits k-NN 0.500  kl 0.5",
    ]


def test_on_a_terminal_events_stand_above_one_live_line_that_never_wraps() -> None:
    now, text = itertools.count(step=10), io.StringIO()
    console = Console(file=text, force_terminal=True, width=40, height=20)
    with Screen(console, clock=lambda: next(now)) as screen:
        screen.show("probing the student")
        screen.step(a_step(gauges={f"gauge_{i}": 0.5 for i in range(9)}), 8, "3 s  pairs 9 (2 lost)")
        screen.waiting(Waiting(0, 5, waited_s=3.0), "a device at tcp://127.0.0.1:5555 [not markup]")
        screen.log("an event [0]")
        screen.waiting(Waiting(0, 5, waited_s=0.1), "")
    shown = [line for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text.getvalue()).split("\n") if line.strip()]
    assert "an event [0]" in shown
    assert max(len(line) for line in shown) <= 40
    assert shown[-1].startswith("3 s  pairs 9 (2 lost)  step 7")


def test_under_json_the_screen_is_silent() -> None:
    now, text = itertools.count(step=10), io.StringIO()
    with Screen(Console(file=text, force_terminal=True), quiet=True, clock=lambda: next(now)) as screen:
        screen.log("an event")
        screen.show("something")
        screen.step(a_step(refused=("baby/1",)), 8, "")
        screen.waiting(Waiting(0, 5, waited_s=9.0), "a device")
    assert text.getvalue() == ""


def lines_of(steps: Iterator[tuple[str, str, float]]) -> list[dict[str, Any]]:
    return [
        {"step": step, "set": s, "encoder": w, "knn": v, "knn_10pct": v, "linear": v}
        for step, (s, w, v) in enumerate(steps)
    ]


def test_the_probe_table_is_the_first_and_the_last_of_each() -> None:
    lines = lines_of(iter([("a", "student", 0.1), ("a", "teacher", 0.2), ("a", "student", 0.3), ("a", "student", 0.4)]))
    table = probe_table(lines)
    assert (table["a"]["before"]["knn_student"], table["a"]["after"]["knn_student"]) == (0.1, 0.4)
    assert table["a"]["before"]["linear_teacher"] == 0.2
    assert table["a"]["steps"] == [0, 3]
    assert "linear_teacher" not in table["a"]["after"]  # measured but once: nothing came after


def test_what_interrupts_training_comes_again_only_after_a_step_and_takes_a_twentieth_of_the_time_at_most() -> None:
    rhythm = Rhythm(60.0, step=0, now_s=0.0)
    assert not rhythm.is_due(1, now_s=59.0)
    assert not rhythm.is_due(0, now_s=60.0)
    assert rhythm.is_due(1, now_s=60.0)
    rhythm.interrupted(1, began_s=60.0, ended_s=66.0)
    assert not rhythm.is_due(2, now_s=185.0)
    assert rhythm.is_due(2, now_s=186.0)
    assert not rhythm.is_due(1, now_s=186.0)
