"""Draws the curves of a run: its steps, its probes, and the proof of learning at the top of the page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from learner.page.history import Column, Tail
from learner.page.sparklines import curve, encoder_curves
from learner.page.verdict import Score
from learner.report.figures import MAX_RUNS
from learner.report.html import encoder_legend, escape, grid, legend, missing
from learner.runs.reading import is_number
from learner.runs.titles import ACCURACIES, KINDS, curve_names, curve_title, stream_words

PROVEN_BY = "student"
"""The encoder of the proof of learning: the one that is trained."""


class Curves:
    """Reads the new lines of a run's files whenever something is drawn. units: of the gauges of its steps."""

    def __init__(self, run: Path, units: Mapping[str, str]) -> None:
        self._units = units
        self._steps: dict[str, Column] = {}
        self._probes: dict[tuple[str, str], dict[str, Column]] = {}
        self._step_lines = Tail(run / "steps.jsonl", self._steps.clear)
        self._probe_lines = Tail(run / "probes.jsonl", self._probes.clear)
        self._held: dict[str, dict[str, Column]] = {}
        self._held_words: dict[str, str] = {}
        self._held_lines = Tail(run / "holdout.jsonl", self._held.clear)

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
        self._read_probes()
        figures = [_probe(name, kind, columns) for (name, kind), columns in self._probes.items()]
        names = encoder_legend(encoder for columns in self._probes.values() for encoder in columns)
        return f"<p>{names}</p>{grid(figures)}" if figures else missing("No probe has run yet.")

    def stream(self) -> str:
        """Return a figure for each question to the held-out pairs of the stream, and the last answers in words."""
        for line in self._held_lines.lines():
            encoder = str(line.get("encoder"))
            self._held_words[encoder] = stream_words(line)
            for kind in KINDS:
                columns = self._held.setdefault(kind, {})
                columns.setdefault("start", Column()).add(line.get("step"), line.get(f"{kind}_start"))
                columns.setdefault(encoder, Column()).add(line.get("step"), line.get(kind))
        figures = [_found(f"{KINDS[kind]} found, %", columns) for kind, columns in self._held.items()]
        if not self._held_words:
            return missing(
                "Not enough pairs of the stream have been held out to measure them; --holdout 0 holds out none."
            )
        said = "".join(f"<p>{escape(encoder)} {escape(words)}</p>" for encoder, words in self._held_words.items())
        return f"<h3>On the stream itself, without labels</h3>{said}{grid(filter(None, figures))}"

    def scores(self) -> dict[str, Score]:
        """Return the first and the newest k-NN accuracy of the student on each control set."""
        values = {name: column.points[1] for name, column in self._proof().items()}
        return {name: Score(float(found[0]), float(found[-1]), len(found)) for name, found in values.items()}

    def proof(self) -> str:
        """Return one figure with the k-NN accuracy of the student: on one control set as it is, on several above its start."""
        columns = dict(list(self._proof().items())[:MAX_RUNS])
        if not columns:
            return missing(
                "Nothing was measured yet. With --control a probe on labelled images runs at the start, then about every minute."
            )
        points = {name: column.points for name, column in columns.items()}
        title, is_gain = "Labelled images told apart, %", len(points) > 1
        if is_gain:  # accuracies that lie far apart would make flat lines of all gains
            title = "Points above the start"  # with a value for each set beside it
            points = {name: (steps, values - values[0]) for name, (steps, values) in points.items()}
        lines = {f"run{index}": drawn for index, drawn in enumerate(points.values())}
        names = "".join(legend(name, f"run{index}") for index, name in enumerate(points))
        figure = encoder_curves(title, lines, scale=100.0, is_gain=is_gain)
        names += " (k-NN on labelled images; dashed: at the start)"
        return f'<figure class="proof">{figure}<figcaption>{names}</figcaption></figure>'

    def _proof(self) -> dict[str, Column]:
        self._read_probes()
        found = {
            name: columns[PROVEN_BY]
            for (name, kind), columns in self._probes.items()
            if kind == "knn" and PROVEN_BY in columns
        }
        return {name: column for name, column in found.items() if len(column.points[0])}

    def _read_probes(self) -> None:
        for line in self._probe_lines.lines():
            for kind in (*ACCURACIES, "rankme"):
                lines = self._probes.setdefault((str(line.get("set")), kind), {})
                lines.setdefault(str(line.get("encoder")), Column()).add(line.get("step"), line.get(kind))


def _found(title: str, columns: Mapping[str, Column]) -> str:
    lines = {"trace" if name == "start" else name: column.points for name, column in columns.items()}
    drawn = {role: points for role, points in lines.items() if len(points[0])}
    return encoder_curves(title, drawn, scale=100.0) if drawn else ""


def _probe(name: str, kind: str, columns: Mapping[str, Column]) -> str:
    lines = {encoder: column.points for encoder, column in columns.items()}
    drawn = {encoder: points for encoder, points in lines.items() if len(points[0])}
    if not drawn:
        return missing(f"{name}: {kind} has no number.")
    title, scale = (f"{ACCURACIES[kind]}, %", 100.0) if kind in ACCURACIES else ("effective rank", 1.0)
    return encoder_curves(f"{name}: {title}", drawn, scale=scale)
