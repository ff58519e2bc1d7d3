"""A run as one HTML file without scripts and outside resources, for light and dark screens and for phones.

It is built from the run directory alone (see `learner.runs.folder`), so it can be built again at any time. Only `summary.json`
is required; where a run stopped too early for another file, the report has a note in its place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import log
from pathlib import Path

import cv2
import numpy as np

from learner.errors import LearnerError
from learner.report.figures import curve, encoder_curves, evenly, time_map
from learner.report.html import (
    ENCODERS,
    encoder_legend,
    escape,
    format_time,
    grid,
    legend,
    missing,
    number,
    number_tiles,
    page,
    section,
)
from learner.report.layout import Layout, layout_of
from learner.report.panels import view_panels, views_note
from learner.report.pictures import photo, shades
from learner.report.tables import by_day, by_rotation, of_stream
from learner.runs.reading import Album, Line, by_encoder, is_number, points, read_album, read_lines, read_object
from learner.runs.start import start_words
from learner.runs.titles import ACCURACIES, FIGURES, curve_names, curve_title, forgetting_words
from stream.fsync import replace_file

STRIP = 12
"""Pictures of the recent pairs, evenly spread over them."""


def write_report(run: Path, path: Path | None = None) -> Path:
    """Write the report of a run directory to `path`, by default `run`/report.html, and return its path.

    Raises LearnerError if the directory has no readable summary.json.
    """
    summary = read_object(run / "summary.json")
    if not run.is_dir():
        raise LearnerError(f"there is no run directory {run}")
    if summary is None:
        raise LearnerError(f"{run / 'summary.json'} is missing or damaged: give the folder of a run that has ended")
    path = run / "report.html" if path is None else path
    replace_file(path, page(run.resolve().name, _sections(run, summary)).encode())
    return path


_PROBE_CURVES = "The dashed line is the value before the first step."
_STREAM = (
    "Pairs of stretches that are never trained on look for a picture by their features, without labels. Beside this stands what "
    "the start of the run finds on the same pairs, and what chance finds. A triplet is right where a picture is nearer to one of "
    "its stretch, at most 10 pairs away, than to one of another stretch. The margin is 2, between squared distances of features "
    "that have length 10."
)
_DAYS = "The last probe of each day on which pairs were captured, by the rig's clock in UTC."
_ROTATED = (
    "Accuracy after the run with upright training images and test images rotated counter-clockwise; at most 2000 and 500 "
    "images of a set. The last column is the standard deviation of the accuracies (0 to 1) over the angles."
)
_NEWEST = (
    "The newest pairs in memory in the order of their capture, by the student's features of their left images. Matrix: the "
    "cosine of any two pairs, in the order of time, bright where they are similar. Map: the same distances by t-SNE, from "
    "violet (first) to yellow (last)."
)
_HELD_OUT = (
    "The same for pairs that are never trained on. Where pairs that follow each other are near, the map shows a thread for each "
    'stretch. The table "On the stream itself" says how many triplets are right.'
)


def _sections(run: Path, summary: Line) -> list[str]:
    config = read_object(run / "config.json")
    steps, probes = read_lines(run / "steps.jsonl"), read_lines(run / "probes.jsonl")
    held_out, album = read_lines(run / "holdout.jsonl"), read_album(run / "album.npz")
    return [
        _headline(summary),
        section(
            "What it learned",
            "Accuracy on labelled images that are never trained on, before and after.",
            _probe_table(summary),
        ),
        section("Probes over time", _PROBE_CURVES + _legend(probes), _probe_curves(probes)),
        section(
            "On the stream itself", _STREAM + _legend(held_out) + legend("the start", "trace"), of_stream(held_out)
        ),
        section("Day by day", _DAYS, by_day(probes)),
        section("Rotated images", _ROTATED, by_rotation(summary.get("rotation"))),
        section(
            "Training",
            "Each curve is a mean, in a band from the lowest to the highest value.",
            _curves(steps, config, summary.get("units") or {}),
        ),
        section("What it sees", views_note(album), _views(album)),
        section(
            "What came in",
            "Received pairs, left and right eye, from the newest to the oldest in memory.",
            _received(album),
        ),
        section(
            "What the reservoir ranks highest",
            "Pairs of the highest priority: most is left to learn from them.",
            _extremes(album, "high"),
        ),
        section(
            "What it ranks lowest",
            "Pairs of the lowest priority: the student finds them easy.",
            _extremes(album, "low"),
        ),
        section("The newest pairs", _NEWEST, _layout(run)),
        section("Held-out pairs", _HELD_OUT, _held_out(run, config)),
        section("All figures and settings", "", _details("Summary", summary) + _details("Settings", config)),
    ]


def _headline(summary: Line) -> str:
    loss = f"loss {number(summary.get('loss_first'))} → {number(summary.get('loss_last'))}"
    lead = f"<p class=lead>{number(summary.get('seconds'))} s, {number(summary.get('samples'))} training samples, {loss}</p>"
    lead += f"<p>Started from {escape(start_words(summary.get('start')))}.</p>"
    if went_back := forgetting_words(summary):
        lead += f"<p>Control sets are compared with those of the start: {escape(went_back)}.</p>"
    return f"<section>{lead}{number_tiles({words: summary.get(key) for key, words in FIGURES.items()})}</section>"


def _legend(lines: Sequence[Line] | None) -> str:
    return encoder_legend(str(line.get("encoder")) for line in lines or ())


def _probe_table(summary: Line) -> str:
    rows = [
        f"<tr><th>{escape(name)}</th><th>{encoder}</th>{''.join(_change(change, kind, encoder) for kind in ACCURACIES)}</tr>"
        for name, change in (summary.get("probe") or {}).items()
        for encoder in ENCODERS
        if any(key.endswith(f"_{encoder}") for key in change.get("before", {}))
    ]
    if not rows:
        return missing("No control set was probed.")
    head = "".join(f"<th>{title}</th>" for title in ("control set", "encoder", *ACCURACIES.values()))
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _change(change: Line, kind: str, encoder: str) -> str:
    before, after = (change.get(when, {}).get(f"{kind}_{encoder}") for when in ("before", "after"))
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
    figures, groups = [], by_encoder(probes)
    for control in dict.fromkeys(control for control, _ in groups):
        for kind, title in ACCURACIES.items():
            curves = {encoder: points(lines, kind) for (name, encoder), lines in groups.items() if name == control}
            if drawn := {encoder: curve for encoder, curve in curves.items() if len(curve[0])}:
                figures.append(encoder_curves(f"{control}: {title}, %", drawn))
    return grid(figures)


def _curves(steps: Sequence[Line] | None, config: Line | None, units: Mapping[str, str]) -> str:
    if not steps:
        return missing("steps.jsonl is missing or empty: the run stopped before its first step.")
    numeric = dict.fromkeys(key for line in steps for key, value in line.items() if is_number(value))
    prototypes = ((config or {}).get("objective") or {}).get("prototypes")
    levels = {"teacher_entropy": ("uniform: ln K", log(prototypes))} if prototypes else {}
    curves = {name: points(steps, name) for name in curve_names(numeric)}
    return grid(
        [curve(curve_title(n, units), points, level=levels.get(n)) for n, points in curves.items() if len(points[0])]
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


def _views(album: Album) -> str:
    return view_panels(album) or missing("album.npz has no views: the run stopped before it received a pair.")


def _held_out(run: Path, config: Line | None) -> str:
    if not (config or {}).get("holdout"):
        return missing("No pairs were held out (--holdout).")
    return _layout(run, held_out=True)


def _layout(run: Path, *, held_out: bool = False) -> str:
    try:
        layout = layout_of(run, held_out=held_out)
    except LearnerError as error:
        return missing(f"Not drawn: {error}.")
    images = layout.images
    strip = grid([photo(images[i], f"pair {i}, left") for i in evenly(len(images), STRIP)], "strip")
    return f'<p class="note">{_span(layout)}</p>{strip}{grid([_matrix(layout), time_map("t-SNE", layout.positions)], "layout")}'


def _matrix(layout: Layout) -> str:
    count = len(layout.distances)
    side = max(1, round(480 / count)) * count
    cosines = cv2.resize(shades(-layout.distances), (side, side), interpolation=cv2.INTER_NEAREST)
    return photo(np.asarray(cosines, np.uint8), "cosine between any two pairs")


def _span(layout: Layout) -> str:
    first, last = format_time(layout.captured_ns[0]), format_time(layout.captured_ns[-1])
    lowest, highest = 1 - layout.distances.max(), 1 - layout.distances[~np.eye(len(layout.distances), dtype=bool)].min()
    return (
        f"{len(layout.images)} pairs, captured from {first} to {last} UTC; cosines from {lowest:.3f} to {highest:.3f}."
    )


def _details(title: str, values: Line | None) -> str:
    if values is None:
        return missing(f"{title}: the file is missing or damaged.")
    text = escape(json.dumps(values, indent=2, ensure_ascii=False))
    return f"<details><summary>{title}</summary><pre>{text}</pre></details>"
