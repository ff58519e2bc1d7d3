"""The sections of the page: each is drawn once for all who watch, and sent only where it changed."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from learner.page import memory, overview, rigs
from learner.page.curves import Curves
from learner.page.guide import NOTHING, Guide
from learner.page.live import Live
from learner.page.verdict import RunState
from learner.runs.titles import units_of
from stream.calibration.watch import RowWatch

CURVES_EVERY_S = 6.0
"""Shortest time between two drawings of the curves: drawing is Python code, beside a training loop that needs the interpreter."""


@dataclass(frozen=True)
class Section:
    """A part of the page that changes."""

    name: str
    depends_on: Callable[[], Hashable]
    """While it returns an equal value, the markup stays the same; `object`, which returns no value twice, draws it each time."""
    draw: Callable[[], str]
    """Returns the markup."""


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


def sections_of(live: Live, run: Path, guide: Guide = NOTHING) -> list[Section]:
    """Return all sections of the page. run: the run directory, which may not exist yet; guide: what a rig needs to know."""
    watch = RowWatch(live.clock)
    curves = Curves(run, units_of(live.learner.trainer.meanings))

    def state() -> RunState:
        return overview.state_of(live, curves.scores(), run)

    def newest_pairs() -> Hashable:
        return tuple((name, pair.header.epoch, pair.header.seq) for name, pair in live.latest().items())

    def snapshot_number() -> int:
        return live.snapshot.number if live.snapshot else 0

    def curves_period() -> float:
        return live.clock() // CURVES_EVERY_S

    return [
        Section("title", lambda: tuple(live.latest()), partial(overview.title, live, guide)),
        Section("verdict", object, lambda: overview.verdict_line(state())),
        Section("newest", newest_pairs, partial(rigs.newest, live, guide)),
        Section("proof", curves_period, curves.proof),
        Section("now", object, partial(overview.now, live)),
        Section("devices", object, partial(rigs.devices, live, watch, guide)),
        Section("views", snapshot_number, partial(memory.views, live)),
        Section("probes", curves_period, curves.probes),
        Section("stream", curves_period, curves.stream),
        Section("curves", curves_period, lambda: f"<h3>Training</h3>{curves.steps()}"),
        Section("memory", snapshot_number, partial(memory.memory, live)),
        Section("wrong", object, lambda: overview.wrong(state())),
    ]
