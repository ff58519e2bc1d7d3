"""The parts of the page as markup, each from what the training thread handed over or what may be read beside it.

Every part says what its markup depends on, so that it is drawn once for all who watch and sent only where it is new.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import cv2
import numpy as np

from learner.page.history import Column, Tail
from learner.page.live import Live, Row, Snapshot
from learner.page.sparklines import race, trace
from learner.report.html import grid, missing, number
from learner.report.panels import looks
from learner.report.pictures import photo
from learner.runs.titles import ACCURACIES, CURVES
from stream.codec import decode
from stream.errors import MalformedMessage
from stream.pair import EncodedPair, Image
from stream.stats import DeviceStats

CURVES_EVERY_S = 6.0
"""Curves are drawn at most so often: that is pure Python, beside a training loop that is too."""
THUMB_WIDTH = 192
PAIR_WIDTH = 480
MAX_DEVICES = 64
"""In the table of devices; those beyond are counted."""
BARS = 48
"""Of the histogram over arrivals."""
ROWS = {
    "highest": "Highest loss: what the student understands least",
    "lowest": "Lowest loss: what it finds easy",
    "newest": "Newest",
    "oldest": "Oldest",
}


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    name: str
    title: str
    note: str
    depends_on: Callable[[], Hashable]
    """The same value: the same markup."""
    draw: Callable[[], str]


class Shown:
    """The sections as they were last drawn; safe to ask from many threads, which wait for each other's drawing."""

    def __init__(self, sections: Iterable[Section]) -> None:
        self.sections = {section.name: section for section in sections}
        self._drawn: dict[str, tuple[Hashable, str, str]] = {}
        self._lock = threading.Lock()

    def newer(self, known: Mapping[str, str]) -> dict[str, tuple[str, str]]:
        """Version and markup of each section that differs from the version somebody knows."""
        with self._lock:
            drawn = {name: self._now(section) for name, section in self.sections.items()}
        return {name: each for name, each in drawn.items() if known.get(name) != each[0]}

    def _now(self, section: Section) -> tuple[str, str]:
        before, what = self._drawn.get(section.name), section.depends_on()
        if before is None or before[0] != what:
            markup = section.draw()
            version = hashlib.sha256(markup.encode()).hexdigest()[:16]
            self._drawn[section.name] = before = (what, version, markup)
        return before[1], before[2]


def sections_of(live: Live, run: Path) -> list[Section]:
    """All of the page, in its order. run: the folder of the run, which may not be there yet."""
    photographs, curves = _Photographs(), _Curves(run)
    return [
        Section("now", "", "", _always(), lambda: _now(live)),
        Section("devices", "Devices", _DEVICES, _always(), lambda: _devices(live, photographs)),
        Section("looks", "Where the teacher looks", _LOOKS, lambda: _number(live), lambda: _looks(live)),
        Section("memory", "What the reservoir holds", _MEMORY, lambda: _number(live), lambda: _memory(live)),
        Section("curves", "Training", _CURVES, _each(CURVES_EVERY_S, live), curves.steps),
        Section("probes", "Probes", _PROBES, _each(CURVES_EVERY_S, live), curves.probes),
    ]


_DEVICES = (
    "The newest pair of each, left and right eye, as it came; battery and temperature as it told them last, where it knows "
    "them and has a spool."
)
_LOOKS = (
    "On the left image the Gaussian fitted to one attention head (cross: mean; rings: one and two deviations) places the "
    "teacher's window; the student's crops lie at the same place of the right image. Below: each head from its least to its "
    "greatest attention, the chosen one framed, and the augmented views the networks were given."
)
_MEMORY = "The pairs that stay longest in training, and where in time they come from."
_NO_PICTURES = (
    "No pictures yet: they are taken while somebody watches, every ten seconds or so, "
    "once a pair had its first training step."
)
_CURVES = "The mean of each stretch of steps, in the band of its least and greatest."
_PROBES = (
    "Labelled images, never trained on; dashed: at the start."
    '<span class="legend" style="color:var(--student)">student</span>'
    '<span class="legend" style="color:var(--teacher)">teacher</span>'
)


def _always() -> Callable[[], Hashable]:
    return object


def _each(every_s: float, live: Live) -> Callable[[], Hashable]:
    return lambda: live.clock() // every_s


def _number(live: Live) -> int:
    return live.snapshot.number if live.snapshot else 0


def _now(live: Live) -> str:
    learner, report = live.learner, live.report
    stats = live.source.stats() if live.source else None
    tally = learner.tally()
    capacity = learner.config.memory.capacity
    tiles = {
        "training steps": number(learner.steps),
        "pairs received": number(learner.received),
        "samples a second lately, waiting included": number(live.samples_per_s),
        "loss of the last step": number(report.loss if report else None),
        f"pairs in the reservoir, of {number(capacity)}": number(tally.kept),
        "pairs that wait for their first step": number(tally.waiting),
        "seen before or dark, left out by the rig": number(learner.suppressed + learner.junk),
        "rollbacks after a collapse": number(learner.guard.rollbacks),
    }
    if stats is not None:
        tiles |= {"pairs lost on the way": number(stats.lost), "pairs still to come": number(stats.pending)}
    boxes = "".join(f"<div><b>{value}</b><span>{what}</span></div>" for what, value in tiles.items())
    return f'<p class="lead">{escape(live.said).replace("  ", " · ")}</p><div class="tiles">{boxes}</div>'


def _devices(live: Live, photographs: _Photographs) -> str:
    latest = live.latest()
    received = live.source.stats() if live.source else None
    stats = received.devices if received else {}
    names = list(dict.fromkeys((*stats, *latest)))
    if not names:
        return missing("No device has been heard of yet.")
    cards = "".join(
        f'<article class="device"><h3>{escape(name)}</h3>{photographs.of(latest.get(name))}'
        f"{_facts(_state(latest.get(name), stats.get(name), live.clock()))}</article>"
        for name in names[:MAX_DEVICES]
    )
    rest = f'<p class="note">and {len(names) - MAX_DEVICES} more</p>' if len(names) > MAX_DEVICES else ""
    return f'<div class="devices">{cards}</div>{rest}'


def _state(pair: EncodedPair | None, stats: DeviceStats | None, now_s: float) -> dict[str, str]:
    """What is known of a device, as a person reads it."""
    state = {}
    if pair is not None:
        header = pair.header
        state["pair"] = f"{header.seq} of {header.epoch[:8]}"
        state["captured"] = f"{_time(header.left_ns)} by its clock"
        state["right eye"] = f"{header.skew_ns / 1e6:+.2f} ms"
        state["size"] = f"{header.width} x {header.height}, {header.codec}, kept as {header.kept}"
    if stats is not None:
        state["received"] = number(stats.received)
        state["gap"] = f"{number(stats.lost)} lost, {number(stats.pending)} to be pulled"
        if stats.clock_offset_ns is not None and stats.clock_error_ns is not None:
            state["clock"] = f"{stats.clock_offset_ns / 1e6:+.1f} ms, to within {stats.clock_error_ns / 1e6:.1f} ms"
        if stats.battery is not None:
            state["battery"] = f"{stats.battery:.0%}"
        if stats.temperature_c is not None:
            state["temperature"] = f"{stats.temperature_c:.0f} °C"
        state["left out"] = f"{number(stats.suppressed)} seen before, {number(stats.junk)} dark"
        if stats.ended:
            state["last heard"] = "its stream is over"
        elif stats.last_received_s is not None:
            state["last heard"] = f"{max(0.0, now_s - stats.last_received_s):.0f} s ago"
    return state


def _facts(facts: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in facts.items())}</dl>"


class _Photographs:
    """The newest pair of each device as markup, drawn once."""

    def __init__(self) -> None:
        self._drawn: dict[str, tuple[str, str]] = {}

    def of(self, pair: EncodedPair | None) -> str:
        """Both eyes, small; what does not decode is said."""
        if pair is None:
            return missing("No pair since this process began.")
        name, device = pair.header.name, pair.header.device
        if self._drawn.get(device, ("", ""))[0] != name:
            self._drawn[device] = name, _eyes(pair)
        return self._drawn[device][1]


def _eyes(pair: EncodedPair) -> str:
    try:
        opened = decode(pair)
    except MalformedMessage as error:
        return missing(f"The newest pair does not decode: {error}")
    eyes = {"left": opened.left, "right": opened.right}
    figures = [photo(_small(image, PAIR_WIDTH), f"{pair.header.device}, {eye} eye") for eye, image in eyes.items()]
    return grid(figures, "both")


def _small(image: Image, width: int, aspect: float | None = None) -> Image:
    """At most so wide, in the aspect of the scene, colours repeated where there are none."""
    height = image.shape[0]
    aspect = min(image.shape[1] / height if aspect is None else aspect, 8.0)
    width = max(1, min(width, round(height * aspect)))
    size = (width, max(1, round(width / aspect)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(small if small.ndim == 3 else cv2.cvtColor(small, cv2.COLOR_GRAY2BGR), np.uint8)


def _looks(live: Live) -> str:
    drawn = "".join(map(looks, live.snapshot.looks)) if live.snapshot else ""
    return drawn or missing(_NO_PICTURES)


def _memory(live: Live) -> str:
    snapshot = live.snapshot
    if snapshot is None or not len(snapshot.kept):
        return missing(_NO_PICTURES)
    rows = "".join(
        f'<h3>{title}</h3><div class="sheet">{_thumbs(snapshot.rows[name])}</div>' for name, title in ROWS.items()
    )
    shared = f'<p class="note">The share of the first of {snapshot.processes} processes.</p>'
    return f"{shared if snapshot.processes > 1 else ''}{_origins(snapshot)}{rows}"


def _thumbs(row: Row) -> str:
    columns = zip(row.left, row.aspect, row.kl, row.device, row.captured_ns, strict=True)
    return "".join(
        f"<figure>{photo(_small(image, THUMB_WIDTH, aspect), f'a pair of {device}, left eye')}"
        f"<figcaption>KL {number(kl)}<br>{escape(device)}<br>{_time(time_ns)[5:]}</figcaption></figure>"
        for image, aspect, kl, device, time_ns in columns
    )


def _origins(snapshot: Snapshot) -> str:
    """A bar for each stretch of arrivals: how many of its pairs are still here, of those that came to this process."""
    arrived = snapshot.arrived
    edges = np.linspace(0, arrived, min(BARS, arrived) + 1)
    counts, _ = np.histogram(snapshot.kept, edges)
    came = np.diff(np.ceil(edges))
    shares = np.minimum(1, counts * snapshot.processes / np.maximum(came, 1))
    bars = "".join(
        f'<rect x="{index}.1" y="{1 - share:.4f}" width="0.8" height="{share:.4f}"/>'
        for index, share in enumerate(shares.tolist())
    )
    said = f"share of the pairs received that is still kept, from the first to number {arrived - 1}"
    return (
        f'<figure class="origins"><svg viewBox="0 0 {len(counts)} 1" preserveAspectRatio="none" role="img" '
        f'aria-label="{said}">{bars}</svg><figcaption><span>pair 0</span><span>full height: all of that stretch are '
        f"kept</span><span>pair {number(arrived - 1)}</span></figcaption></figure>"
    )


def _time(time_ns: int) -> str:
    """To the second, in UTC."""
    return datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S")


class _Curves:
    """The lines of a run, read on whenever somebody looks."""

    def __init__(self, run: Path) -> None:
        self._step_lines, self._probe_lines = Tail(run / "steps.jsonl"), Tail(run / "probes.jsonl")
        self._steps: dict[str, Column] = {}
        self._probes: dict[tuple[str, str], dict[str, Column]] = {}

    def steps(self) -> str:
        """A figure for each quantity of a step."""
        for line in self._step_lines.lines():
            if line is None:
                self._steps.clear()
                continue
            for name in CURVES.keys() & line.keys():
                self._steps.setdefault(name, Column()).add(line.get("step"), line[name])
        points = {name: self._steps[name].points for name in CURVES if name in self._steps}
        figures = [trace(CURVES[name], drawn) for name, drawn in points.items() if len(drawn[0])]
        return grid(figures) if figures else missing("There was no step yet.")

    def probes(self) -> str:
        """For each labelled set a figure for each probe and for the rank of its features."""
        for line in self._probe_lines.lines():
            if line is None:
                self._probes.clear()
                continue
            for kind in (*ACCURACIES, "rankme"):
                lines = self._probes.setdefault((str(line.get("set")), kind), {})
                lines.setdefault(str(line.get("encoder")), Column()).add(line.get("step"), line.get(kind))
        figures = [_probe(name, kind, columns) for (name, kind), columns in self._probes.items()]
        return grid(figures) if figures else missing("Nothing was probed yet.")


def _probe(name: str, kind: str, columns: Mapping[str, Column]) -> str:
    lines = {who: column.points for who, column in columns.items()}
    drawn = {who: points for who, points in lines.items() if len(points[0])}
    if not drawn:
        return missing(f"{name}: {kind} has no number.")
    if kind == "rankme":
        return race(f"{name}: effective rank", drawn)
    return race(f"{name}: {ACCURACIES[kind]}, %", drawn, scale=100.0)
