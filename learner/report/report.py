"""A run as one HTML file that needs nothing else: no script, no outside resource, light and dark, readable on a phone.

It is built from the run's folder alone (see `learner.runs.folder`), so it can be built again at any time. Only `summary.json`
must be there; where a run stopped too early for the rest, the report says what is missing in its place.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from math import log
from pathlib import Path

import cv2
import numpy as np

from learner.errors import LearnerError
from learner.report.figures import journey, race, trace
from learner.report.html import grid, legend, missing, number, page, section
from learner.report.layout import Layout, layout_of
from learner.report.panels import looks
from learner.report.pictures import photo, shades
from learner.report.tables import by_day, by_rotation
from learner.runs.folder import replace_file
from learner.runs.reading import Album, Line, is_number, points, read_album, read_lines, read_object
from learner.runs.titles import ACCURACIES, CURVES, FIGURES

STRIP = 12
"""Pictures of a stretch, evenly spread over it."""
NOT_CURVES = {"step", "samples", "received", "seconds", "waited_s"}


def write_report(run: Path, path: Path | None = None) -> Path:
    """Build `path`, by default `run`/report.html, and return it.

    Raises LearnerError where `run` holds no readable summary.json.
    """
    summary = read_object(run / "summary.json")
    if summary is None:
        raise LearnerError(f"{run / 'summary.json'} is missing or damaged: give the folder of a run that has ended")
    config = read_object(run / "config.json")
    steps, probes, album = (
        read_lines(run / "steps.jsonl"),
        read_lines(run / "probes.jsonl"),
        read_album(run / "album.npz"),
    )
    sections = [
        _headline(summary),
        section(
            "What it learned",
            "Accuracy on labelled images it never trains on, before and after.",
            _probe_table(summary),
        ),
        section("Probes over time", _PROBE_CURVES, _probe_curves(probes)),
        section("Day by day", _DAYS, by_day(probes)),
        section("Turned images", _TURNED, by_rotation(summary.get("rotation"))),
        section("Training", "Each curve is a mean, in the band of its least and greatest.", _curves(steps, config)),
        section("Where the teacher looks", _LOOKS, _looks(album)),
        section(
            "What the rig sent",
            "Pairs as received, left and right eye, from the newest back over all that is remembered.",
            _received(album),
        ),
        section(
            "What the reservoir ranks highest",
            "Pairs the student understands least: largest KL.",
            _extremes(album, "high"),
        ),
        section("What it ranks lowest", "Pairs the student finds easy: smallest KL.", _extremes(album, "low")),
        section("A stretch of the stream", _STRETCH, _layout(run)),
        section("All figures and settings", "", _details("Summary", summary) + _details("Settings", config)),
    ]
    path = run / "report.html" if path is None else path
    replace_file(path, page(run.resolve().name, sections).encode())
    return path


_PROBE_CURVES = (
    "The dashed line is the value before the first step." + legend("student", "student") + legend("teacher", "teacher")
)
_DAYS = "The last probe of each day on which pairs were captured, by the rig's clock in UTC."
_TURNED = (
    "Upright training images, test images turned counter-clockwise, after the run; at most 2000 and 1000 images of a set. "
    "The last column is the standard deviation over the angles, of 1."
)
_STRETCH = (
    "The newest pairs in memory in the order of their capture, as the student sees their left images. Matrix: the cosine of "
    "any two moments, time running right and down, bright where they are alike. Map: the same by t-SNE, from violet to yellow."
)
_LOOKS = (
    "On the left image, the Gaussian fitted to one attention head (cross: mean; rings: one and two deviations) places the "
    "teacher's window. The student's crops lie at the same place of the right image. Below: every head from its least "
    "to its greatest attention, the chosen one framed, and the augmented views that the networks were given."
)


def _headline(summary: Line) -> str:
    tiles = [f"<div><b>{number(summary.get(key))}</b><span>{what}</span></div>" for key, what in FIGURES.items()]
    loss = f"loss {number(summary.get('loss_first'))} → {number(summary.get('loss_last'))}"
    lead = f"<p class=lead>{number(summary.get('seconds'))} s, {number(summary.get('samples'))} samples trained, {loss}</p>"
    return f'<section>{lead}<div class="tiles">{"".join(tiles)}</div></section>'


def _probe_table(summary: Line) -> str:
    rows = [
        f"<tr><th>{escape(name)}</th><th>{who}</th>{''.join(_change(change, kind, who) for kind in ACCURACIES)}</tr>"
        for name, change in (summary.get("probe") or {}).items()
        for who in ("student", "teacher")
    ]
    if not rows:
        return missing("No control set was probed.")
    head = "".join(f"<th>{title}</th>" for title in ("control set", "encoder", *ACCURACIES.values()))
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _change(change: Line, kind: str, who: str) -> str:
    before, after = (change.get(when, {}).get(f"{kind}_{who}") for when in ("before", "after"))
    if before is None:
        return "<td>&ndash;</td>"
    if after is None:
        return f"<td>{100 * before:.1f} % → not measured again</td>"
    points = 100 * (after - before)
    sign = "up" if points > 0 else "down" if points < 0 else ""
    return f'<td>{100 * before:.1f} → <b>{100 * after:.1f} %</b> <span class="{sign}">{points:+.1f}</span></td>'


def _probe_curves(probes: Sequence[Line] | None) -> str:
    if not probes:
        return missing("probes.jsonl is missing or empty: no probe ran.")
    figures = []
    for name in dict.fromkeys(str(line.get("set")) for line in probes):
        lines = [line for line in probes if str(line.get("set")) == name]
        encoders = dict.fromkeys(str(line.get("encoder")) for line in lines)
        for kind, title in ACCURACIES.items():
            curves = {who: points([line for line in lines if line.get("encoder") == who], kind) for who in encoders}
            drawn = {who: points for who, points in curves.items() if len(points[0])}
            if drawn:
                figures.append(race(f"{name}: {title}, %", drawn))
    return grid(figures)


def _curves(steps: Sequence[Line] | None, config: Line | None) -> str:
    if not steps:
        return missing("steps.jsonl is missing or empty: the run stopped before its first step.")
    numeric = dict.fromkeys(key for line in steps for key, value in line.items() if is_number(value))
    names = [name for name in CURVES if name in numeric] + [n for n in numeric if n not in CURVES.keys() | NOT_CURVES]
    prototypes = ((config or {}).get("objective") or {}).get("prototypes")
    levels = {"teacher_entropy": ("uniform: ln K", log(prototypes))} if prototypes else {}
    curves = {name: points(steps, name) for name in names}
    return grid(
        [trace(CURVES.get(n, n), points, level=levels.get(n)) for n, points in curves.items() if len(points[0])]
    )


def _received(album: Album) -> str:
    pairs = zip(album.get("received_left", ()), album.get("received_right", ()), strict=False)
    figures = [
        photo(left, f"pair {i}, left") + photo(right, f"pair {i}, right") for i, (left, right) in enumerate(pairs)
    ]
    return grid(figures, "pairs") if figures else missing("album.npz has no received pairs: none arrived.")


def _extremes(album: Album, which: str) -> str:
    pairs = zip(album.get(f"{which}_left", ()), album.get(f"{which}_priority", ()), strict=False)
    figures = [
        f"{photo(image, 'a pair of the reservoir, left')}<figcaption>priority {number(float(priority))}</figcaption>"
        for image, priority in pairs
    ]
    return grid(figures, "thumbs") if figures else missing("album.npz has no scored pairs.")


def _looks(album: Album) -> str:
    return looks(album) or missing("album.npz has no looks: the run stopped before there was a pair to look at.")


def _layout(run: Path) -> str:
    try:
        layout = layout_of(run)
    except LearnerError as error:
        return missing(f"Not drawn: {error}.")
    images = layout.stretch.images
    shown = np.linspace(0, len(images) - 1, min(STRIP, len(images))).round().astype(int)
    strip = grid([photo(images[i], f"moment {i}, left") for i in shown], "strip")
    return f'<p class="note">{_span(layout)}</p>{strip}{grid([_matrix(layout), journey("t-SNE", layout.places)], "layout")}'


def _matrix(layout: Layout) -> str:
    count = len(layout.distances)
    side = max(1, round(480 / count)) * count
    alike = cv2.resize(shades(-layout.distances), (side, side), interpolation=cv2.INTER_NEAREST)
    return photo(np.asarray(alike, np.uint8), "cosine between any two moments")


def _span(layout: Layout) -> str:
    first, last = (
        datetime.fromtimestamp(int(time_ns) // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        for time_ns in layout.stretch.captured_ns[[0, -1]]
    )
    least, most = 1 - layout.distances.max(), 1 - layout.distances[~np.eye(len(layout.distances), dtype=bool)].min()
    return f"{len(layout.stretch)} pairs, captured from {first} to {last} UTC; cosines from {least:.3f} to {most:.3f}."


def _details(title: str, values: Line | None) -> str:
    if values is None:
        return missing(f"{title}: the file is missing or damaged.")
    text = escape(json.dumps(values, indent=2, ensure_ascii=False))
    return f"<details><summary>{title}</summary><pre>{text}</pre></details>"
