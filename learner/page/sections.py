"""Draws the sections of the page, from the state of the learner (`learner.page.live`) and the files of its run.

Each section names what its markup depends on, so that it is drawn once for all who watch and sent only where it changed.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from learner.page.history import Column, Tail
from learner.page.live import MAX_DEVICES as LIVE_DEVICES
from learner.page.live import Live, ReservoirPair, Snapshot
from learner.page.sparklines import curve, encoder_curves
from learner.report.html import ENCODER_LEGEND, escape, format_time, grid, missing, number, number_tiles
from learner.report.panels import view_panels, views_note
from learner.report.pictures import photo, shrink
from learner.runs.reading import is_number
from learner.runs.titles import ACCURACIES, curve_names, curve_title, units_of
from stream.calibration.watch import RowWatch
from stream.codec import decode
from stream.errors import MalformedMessage
from stream.image import Image
from stream.pair import EncodedPair
from stream.stats import DeviceStats

CURVES_EVERY_S = 6.0
"""Shortest time between two drawings of the curves: drawing is Python code, beside a training loop that needs the interpreter."""
THUMB_WIDTH = 192
PAIR_WIDTH = 480
MAX_DEVICES = 64
"""Devices that are shown; further ones are only counted."""
BARS = 48
"""Bars of the histogram over arrivals."""
ROWS = {
    "highest": "Highest priority: most is left to learn from these pairs",
    "lowest": "Lowest priority: these pairs are easy",
    "newest": "Newest",
    "oldest": "Oldest",
}


@dataclass(frozen=True)
class Section:
    """A part of the page. title and note are markup."""

    name: str
    title: str
    note: str
    depends_on: Callable[[], Hashable]
    """While it returns an equal value, the markup stays the same; `object`, which returns no value twice, draws it each time."""
    draw: Callable[[], str]


class SectionCache:
    """The sections as they were last drawn. Safe to call from many threads, which wait for each other's drawing."""

    def __init__(self, sections: Iterable[Section]) -> None:
        self.sections = {section.name: section for section in sections}
        self._drawn: dict[str, tuple[Hashable, str, str]] = {}
        self._lock = threading.Lock()

    def newer(self, known: Mapping[str, str]) -> dict[str, tuple[str, str]]:
        """Return version and markup of each section whose version differs from the known one."""
        with self._lock:
            drawn = {name: self._current(section) for name, section in self.sections.items()}
        return {name: each for name, each in drawn.items() if known.get(name) != each[0]}

    def _current(self, section: Section) -> tuple[str, str]:
        cached, dependency = self._drawn.get(section.name), section.depends_on()
        if cached is None or cached[0] != dependency:
            markup = section.draw()
            version = hashlib.sha256(markup.encode()).hexdigest()[:16]
            self._drawn[section.name] = cached = (dependency, version, markup)
        return cached[1], cached[2]


def sections_of(live: Live, run: Path) -> list[Section]:
    """Return all sections of the page in their order. run: the run directory, which may not exist yet."""
    watch = RowWatch(live.clock)
    curves = _Curves(run, units_of(live.learner.trainer.meanings))

    def snapshot_number() -> int:
        return live.snapshot.number if live.snapshot else 0

    def curves_period() -> float:
        return live.clock() // CURVES_EVERY_S

    return [
        Section("now", "", "", object, lambda: _now(live)),
        Section("devices", "Devices", _DEVICES, object, lambda: _devices(live, watch)),
        Section("views", "What it sees", "", snapshot_number, lambda: _views(live)),
        Section("memory", "What the reservoir holds", _MEMORY, snapshot_number, lambda: _memory(live)),
        Section("curves", "Training", _CURVES, curves_period, curves.steps),
        Section("probes", "Probes", _PROBES, curves_period, curves.probes),
    ]


_DEVICES = (
    "The newest received pair of each device, left and right eye. Battery and temperature are the last values that it sent, "
    "where it measures them and has a spool. Rows are compared every half minute while somebody watches."
)
_MEMORY = "The pairs that stay longest in training, and where in time they come from."
_NO_PICTURES = (
    "There are no pictures yet: they are copied while somebody watches, about every ten seconds, "
    "after the first training step."
)
_CURVES = "Each curve is the mean over some steps, in a band from their lowest to their highest value."
_PROBES = (
    "Accuracy on labelled images that are never trained on. The dashed line is the value at the start." + ENCODER_LEGEND
)


def _now(live: Live) -> str:
    learner, report = live.learner, live.report
    stats, counts = live.stats, learner.counts()
    capacity = learner.config.memory.capacity
    tiles: dict[str, object] = {
        "training steps": learner.steps,
        "pairs received": learner.received,
        "samples a second at present, waiting included": live.samples_per_s,
        "loss of the last step": report.loss if report else None,
        f"pairs in the reservoir, of {number(capacity)}": counts.kept,
        "pairs that wait for their first step": counts.fresh,
        "pairs suppressed or left out by the rig": learner.suppressed + learner.junk,
        "rollbacks after a collapse": learner.trainer.guard.rollbacks,
    }
    if stats is not None:
        tiles |= {"pairs lost on the way": stats.lost, "pairs still to come": stats.pending}
    return f'<p class="lead">{escape(live.status).replace("  ", " · ")}</p>{number_tiles(tiles)}'


def _devices(live: Live, watch: RowWatch) -> str:
    latest = live.latest()
    stats = live.stats.devices if live.stats else {}
    names = list(dict.fromkeys((*stats, *latest)))
    if not names:
        return missing("No device is known yet.")
    cards = "".join(
        f'<article class="device"><h3>{escape(name)}</h3>{_both_eyes(latest.get(name))}'
        f"{_facts(_state(latest.get(name), stats.get(name), live.stats_s) | _rows(latest.get(name), watch))}</article>"
        for name in names[:MAX_DEVICES]
    )
    rest = f'<p class="note">and {len(names) - MAX_DEVICES} more</p>' if len(names) > MAX_DEVICES else ""
    return f'<div class="devices">{cards}</div>{rest}'


def _state(pair: EncodedPair | None, stats: DeviceStats | None, now_s: float) -> dict[str, str]:
    """Return the state of a device in words. now_s: when `stats` was read."""
    state = {}
    if pair is not None:
        header = pair.header
        state["pair"] = f"{header.seq} of {header.epoch[:8]}"
        state["captured"] = f"{format_time(header.left_ns)} by its clock"
        state["right eye"] = f"{header.skew_ns / 1e6:+.2f} ms"
        state["size"] = f"{header.width} x {header.height}, {header.codec}, kept as {header.kept}"
    if stats is not None:
        state["received"] = number(stats.received)
        state["missing"] = f"{number(stats.lost)} lost, {number(stats.pending)} to come"
        if stats.clock_offset_ns is not None and stats.clock_error_ns is not None:
            state["clock"] = f"{stats.clock_offset_ns / 1e6:+.1f} ms, to within {stats.clock_error_ns / 1e6:.1f} ms"
        if stats.battery is not None:
            state["battery"] = f"{stats.battery:.0%}"
        if stats.temperature_c is not None:
            state["temperature"] = f"{stats.temperature_c:.0f} °C"
        state["left out"] = f"{number(stats.suppressed)} suppressed, {number(stats.junk)} junk"
        if stats.ended:
            state["last received"] = "its stream is over"
        elif stats.last_received_s is not None:
            state["last received"] = f"{max(0.0, now_s - stats.last_received_s):.0f} s ago"
    return state


def _rows(pair: EncodedPair | None, watch: RowWatch) -> dict[str, str]:
    """Return how far rows are apart, which the rig can correct; nothing where it is not known."""
    offset = None
    if pair is not None:
        with suppress(MalformedMessage):
            offset = watch.offset(pair.header.device, partial(_eyes, pair))
    if pair is None or offset is None:
        return {}
    return {"rows": offset.describe() + ("" if offset.is_level(pair.header.height) else ": see doctor on the rig")}


def _eyes(pair: EncodedPair) -> tuple[Image, Image]:
    decoded = decode(pair)
    return decoded.left, decoded.right


def _facts(facts: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in facts.items())}</dl>"


@lru_cache(maxsize=LIVE_DEVICES + 1)  # one for devices without a pair
def _both_eyes(pair: EncodedPair | None) -> str:
    """Return both eyes as small images, or a note if there is no pair or it does not decode."""
    if pair is None:
        return missing("No pair was received since this process began.")
    try:
        decoded = decode(pair)
    except MalformedMessage as error:
        return missing(f"The newest pair does not decode: {error}")
    eyes = {"left": decoded.left, "right": decoded.right}
    figures = [photo(shrink(image, PAIR_WIDTH), f"{pair.header.device}, {eye} eye") for eye, image in eyes.items()]
    return grid(figures, "both")


def _views(live: Live) -> str:
    albums = live.snapshot.views if live.snapshot else ()
    drawn = "".join(map(view_panels, albums))
    return f'<p class="note">{views_note(albums[0])}</p>{drawn}' if drawn else missing(_NO_PICTURES)


def _memory(live: Live) -> str:
    snapshot = live.snapshot
    if snapshot is None or not len(snapshot.kept):
        return missing(_NO_PICTURES)
    rows = "".join(
        f'<h3>{title}</h3><div class="sheet">{"".join(map(_thumb, snapshot.rows[name]))}</div>'
        for name, title in ROWS.items()
    )
    shared = f'<p class="note">This is the memory of the first of {snapshot.processes} processes.</p>'
    return f"{shared if snapshot.processes > 1 else ''}{_origins(snapshot)}{rows}"


def _thumb(pair: ReservoirPair) -> str:
    image = photo(shrink(pair.left, THUMB_WIDTH, pair.aspect), f"a pair of {pair.device}, left eye")
    lines = (f"priority {number(pair.priority)}", escape(pair.device), format_time(pair.captured_ns)[5:])
    return f"<figure>{image}<figcaption>{'<br>'.join(lines)}</figcaption></figure>"


def _origins(snapshot: Snapshot) -> str:
    """Draw a bar for each range of arrival numbers: the share of its pairs that this process received and still keeps."""
    arrived = snapshot.arrived
    edges = np.linspace(0, arrived, min(BARS, arrived) + 1)
    counts, _ = np.histogram(snapshot.kept, edges)
    received = np.diff(np.ceil(edges))
    shares = np.minimum(1, counts * snapshot.processes / np.maximum(received, 1))
    bars = "".join(
        f'<rect x="{index}.1" y="{1 - share:.4f}" width="0.8" height="{share:.4f}"/>'
        for index, share in enumerate(shares.tolist())
    )
    label = f"share of the received pairs that are still kept, from the first to number {arrived - 1}"
    return (
        f'<figure class="origins"><svg viewBox="0 0 {len(counts)} 1" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}">{bars}</svg><figcaption><span>pair 0</span><span>full height: all of these pairs are '
        f"kept</span><span>pair {number(arrived - 1)}</span></figcaption></figure>"
    )


class _Curves:
    """Draws the curves of a run, after reading the new lines of its files."""

    def __init__(self, run: Path, units: Mapping[str, str]) -> None:
        self._units = units
        self._steps: dict[str, Column] = {}
        self._probes: dict[tuple[str, str], dict[str, Column]] = {}
        self._step_lines = Tail(run / "steps.jsonl", self._steps.clear)
        self._probe_lines = Tail(run / "probes.jsonl", self._probes.clear)

    def steps(self) -> str:
        """Return a figure for each number of a step."""
        for line in self._step_lines.lines():
            for name in curve_names([name for name, value in line.items() if is_number(value)]):
                self._steps.setdefault(name, Column()).add(line.get("step"), line[name])
        points = {name: self._steps[name].points for name in curve_names(self._steps)}
        figures = [curve(curve_title(name, self._units), drawn) for name, drawn in points.items() if len(drawn[0])]
        return grid(figures) if figures else missing("There was no step yet.")

    def probes(self) -> str:
        """Return, for each control set, a figure for each accuracy and one for the rank of the features."""
        for line in self._probe_lines.lines():
            for kind in (*ACCURACIES, "rankme"):
                lines = self._probes.setdefault((str(line.get("set")), kind), {})
                lines.setdefault(str(line.get("encoder")), Column()).add(line.get("step"), line.get(kind))
        figures = [_probe(name, kind, columns) for (name, kind), columns in self._probes.items()]
        return grid(figures) if figures else missing("No probe has run yet.")


def _probe(name: str, kind: str, columns: Mapping[str, Column]) -> str:
    lines = {encoder: column.points for encoder, column in columns.items()}
    drawn = {encoder: points for encoder, points in lines.items() if len(points[0])}
    if not drawn:
        return missing(f"{name}: {kind} has no number.")
    title, scale = (f"{ACCURACIES[kind]}, %", 100.0) if kind in ACCURACIES else ("effective rank", 1.0)
    return encoder_curves(f"{name}: {title}", drawn, scale=scale)
