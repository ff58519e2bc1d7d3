"""Says in one line how a run is doing, and lists what is wrong with it and what to do. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal, NamedTuple

from learner.report.html import number

Level = Literal["good", "wait", "warn", "bad"]
Phase = Literal["starting", "running", "stopping"]
LEVELS: tuple[Level, ...] = ("good", "wait", "warn", "bad")
"""From what needs nobody to what needs somebody at once."""
MIN_GAIN = 0.01
"""Smallest difference of accuracies, 0 to 1, that counts: probes of a thousand images differ so much by chance."""
SILENT_LOOP_S = 60.0
"""The training loop gives several signs of life a second; without one for this time something is wrong."""
MANY_WAITING = 500
"""So many pairs that wait, while their number does not fall, are too many; deploy/alerts.yml has the same number."""
LOW_DISK_BYTES = 2e9
"""Less free disk than this is too little; deploy/alerts.yml has the same number."""
SHOWN = 3
"""Names in one line at most."""


class Score(NamedTuple):
    """Accuracies of the student's k-NN on one control set, 0 to 1: the first and the newest one, and how many there are."""

    first: float
    newest: float
    probes: int


class Concern(NamedTuple):
    """Something that is wrong: in a few words, as a sentence, and what to do about it."""

    level: Level
    short: str
    text: str
    remedy: str


class Verdict(NamedTuple):
    """How a run is doing, in one line."""

    level: Level
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """What the verdict is made of: counts of pairs and steps, seconds, and names of rigs."""

    phase: Phase = "running"
    working: str = ""
    """What the learner does now, in words."""
    silent_s: float = 0.0
    """Since the last sign of life of the training loop."""
    steps: int = 0
    received: int = 0
    wanted: int = 0
    """Pairs that are missing for the next step; 0 while steps are made."""
    endpoints: tuple[str, ...] = ()
    """Addresses at which rigs are expected; none for a recording."""
    rigs: int = 0
    """Rigs that were heard since this process began."""
    silent: tuple[str, ...] = ()
    """Names of the rigs that have sent nothing for a while."""
    have_ended: bool = False
    """Whether every rig has ended its stream."""
    scores: Mapping[str, Score] = field(default_factory=dict)
    """By control set."""
    lost: int = 0
    lost_lately: int = 0
    """Pairs lost within the last ten minutes."""
    behind: int = 0
    """Pairs that have not reached memory: on their way from a rig in reach, or waiting here."""
    is_falling_behind: bool = False
    """Whether that number did not fall within the last minute."""
    undecodable: int = 0
    malformed: int = 0
    """Messages that were dropped. These three counts are those of the last ten minutes."""
    untrusted: int = 0
    """Handshakes that failed because of a key."""
    rollbacks: int = 0
    rolled_back_at: int | None = None
    """The step of the last rollback, until the guard forgives it."""
    below: str = ""
    """By how much the control sets are below the start, in words, where a guard watches and the last probe was worse."""
    forgot: int = 0
    """How often the networks went back because of that."""
    doubt: float = 0.0
    """How near a collapse is: 0 without a sign, 1 when the networks go back."""
    refused: int = 0
    """Refused steps in a row."""
    free_bytes: float = float("inf")
    """On the disk of the run."""


def verdict(state: RunState) -> Verdict:
    """Return how the run is doing: what it does, what it has gained, and the gravest of what is wrong."""
    if state.phase != "running":
        return Verdict("wait", f"{state.phase}: {state.working}" if state.working else state.phase)
    head, wrong = _progress(state), concerns(state)
    if not wrong:
        return Verdict(head.level, f"{head.text}, healthy" if head.level == "good" else head.text)
    worst = max(head.level, wrong[0].level, key=LEVELS.index)
    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return Verdict(worst, f"{head.text}; {wrong[0].short}{more}")


def concerns(state: RunState) -> list[Concern]:
    """Return all that is wrong, the gravest first."""
    found = chain(_of_training(state), _of_pairs(state), _of_scores(state), _of_rigs(state))
    return sorted(found, key=lambda concern: -LEVELS.index(concern.level))


def _progress(state: RunState) -> Verdict:
    if not state.received:
        where = " or ".join(state.endpoints[:SHOWN])
        return Verdict("wait", f"waiting for a rig at {where}" if where else "waiting for the first pair")
    if not state.steps:
        more = f", {number(state.wanted)} more to the first step" if state.wanted else ""
        return Verdict("wait", f"collecting pairs: {number(state.received)} so far{more}")
    scores = state.scores.values()
    if not scores:
        return Verdict("good", "training, not measured yet")
    first, newest = (100 * sum(values) / len(scores) for values in list(zip(*scores, strict=True))[:2])
    mean = f" (mean of {len(scores)} control sets)" if len(scores) > 1 else ""
    if max(score.probes for score in scores) < 2:
        return Verdict("good", f"training: k-NN {first:.1f} %{mean} at the start, not measured again yet")
    figures, gain = f"k-NN {first:.1f} → {newest:.1f} %{mean}", newest - first
    if gain > 100 * MIN_GAIN:
        return Verdict("good", f"learning: {figures}")
    if gain < -100 * MIN_GAIN:
        return Verdict("warn", f"worse than its start: {figures}")
    return Verdict("wait", f"no better than its start yet: {figures}")


def _of_training(state: RunState) -> Iterator[Concern]:
    if state.silent_s >= SILENT_LOOP_S:
        yield Concern(
            "bad",
            "no sign of life",
            f"The training loop has given no sign of life for {state.silent_s:.0f} s.",
            "Look into the learner's log. Is its machine out of memory or asleep?",
        )
    if state.rolled_back_at is not None:
        yield Concern(
            "bad",
            "rolled back after a collapse",
            f"All images got nearly the same output, so the networks went back at step {number(state.rolled_back_at)} to an "
            f"earlier snapshot ({number(state.rollbacks)} times in this run). They go on at a lower rate.",
            "Are all pairs alike? Else try other temperatures or Sinkhorn centring. After three times in a row training stops.",
        )
    if state.below or state.forgot:
        times = "once" if state.forgot == 1 else f"{number(state.forgot)} times"
        said = [f"At the last probe {state.below}."] * bool(state.below)
        said += [f"The networks went back {times} to those of the last good probe, and go on at a lower rate."] * bool(
            state.forgot
        )
        yield Concern(
            "wait" if not state.below else "bad" if state.forgot else "warn",
            "forgetting" if state.below else "had forgotten",
            " ".join(said),
            "Weights of before are handed out. If it goes on, fork the run with --adapt lora or a lower --adapt.learning-rate.",
        )
    if state.refused:
        yield Concern(
            "bad",
            "refusing steps",
            f"The last {number(state.refused)} steps changed nothing, because their loss or gradient was not finite.",
            "The log names the pairs. Lower --schedule.learning-rate if it goes on.",
        )
    if state.doubt >= 0.5:
        yield Concern(
            "warn",
            "near a collapse",
            f"The outputs hardly tell pairs apart: {state.doubt:.0%} of the way to a rollback.",
            "Look at the pairs below: are they all alike, dark or covered?",
        )


def _of_pairs(state: RunState) -> Iterator[Concern]:
    if state.lost:
        lately = f", {number(state.lost_lately)} of them lately" if state.lost_lately else ", none of them lately"
        yield Concern(
            "bad" if state.lost_lately else "wait",
            "losing pairs" if state.lost_lately else f"{number(state.lost)} pairs were lost",
            f"{number(state.lost)} pairs will never arrive{lately}.",
            "Give the rig a larger --spool-gib, or the learner more time; its log says why they were lost.",
        )
    if state.free_bytes < LOW_DISK_BYTES:
        yield Concern(
            "bad",
            "disk nearly full",
            f"{state.free_bytes / 1e9:.1f} GB are free on the disk of the run.",
            "Make room: on a full disk the learner waits, and the rigs keep what it cannot take.",
        )
    if state.behind > MANY_WAITING and state.is_falling_behind:
        yield Concern(
            "warn",
            "falling behind",
            f"{number(state.behind)} pairs wait, and their number does not fall: the rigs send more than is trained on.",
            "Lower --pacing.replay-ratio, or raise the rigs' --dedupe-threshold.",
        )


def _of_scores(state: RunState) -> Iterator[Concern]:
    worse = [name for name, score in state.scores.items() if score.newest < score.first - MIN_GAIN]
    if worse and len(state.scores) > 1:
        names = ", ".join(worse[:SHOWN])
        yield Concern(
            "wait",
            f"worse on {names}",
            f"On {names} the features tell images apart less well than at the start.",
            "In the first minutes that passes. If it stays, the pairs of the stream may be too unlike that set.",
        )


def _of_rigs(state: RunState) -> Iterator[Concern]:
    if state.silent and not state.have_ended:
        names = ", ".join(state.silent[:SHOWN]) + (", ..." if len(state.silent) > SHOWN else "")
        is_all = len(state.silent) >= state.rigs
        yield Concern(
            "warn",
            f"{names} silent",
            f"Nothing comes from {names}" + (", so no pair is new." if is_all else "."),
            "Is it on, in reach of the Wi-Fi? Its log says more.",
        )
    if state.untrusted:
        yield Concern(
            "warn",
            "keys do not fit",
            f"{number(state.untrusted)} handshakes failed because of a key in the last ten minutes.",
            "The log has the command. `python -m stream keys` on both sides shows the keys.",
        )
    if state.have_ended:
        text = "every rig has ended its stream"
        yield Concern("wait", text, f"{text.capitalize()}.", "Start one, or stop here: Ctrl-C.")
    if state.received and state.rigs < len(state.endpoints):
        missing = len(state.endpoints) - state.rigs
        yield Concern(
            "wait",
            f"{missing} of {len(state.endpoints)} rigs missing",
            f"{missing} of the rigs expected at {', '.join(state.endpoints[:SHOWN])} were not heard since this process began.",
            "Is the address right, the rig on, its port open? `python -m learner doctor` checks it.",
        )
    if state.undecodable or state.malformed:
        yield Concern(
            "wait",
            "damaged pairs dropped",
            f"In the last ten minutes {number(state.undecodable)} pairs did not decode, and {number(state.malformed)} messages "
            "were dropped as malformed.",
            "Are rig and learner of the same version? /metrics counts them by reason.",
        )
