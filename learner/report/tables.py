"""Tables of the original experiment (2021): accuracy by day of the stream (B.1, B.2), and on rotated images (section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime

import numpy as np

from learner.report.figures import encoder_curves, evenly
from learner.report.html import grid, missing, percent, table
from learner.runs.reading import Line, Points, by_encoder, is_number, points
from learner.runs.titles import ACCURACIES, KINDS

MAX_DAYS = 40
"""Largest number of rows: of a longer stream the days are evenly spread, with the first and the last among them."""
START = "0: start"

_Column = tuple[str, str]
"""A control set and an encoder."""


def by_day(probes: Sequence[Line] | None) -> str:
    """Return a table for each accuracy: a row for each day (UTC) on which pairs were captured, with its last probe."""
    days = _days(probes or [])
    if not days:
        return missing(
            "No probe has the capture time of its newest pair: an earlier version made the probes, or none ran."
        )
    first = min(day for day in days if day is not None) if any(days) else None
    in_order = sorted(days, key=lambda day: (day is not None, day))
    shown = [in_order[index] for index in evenly(len(days), MAX_DAYS)]
    columns = list(dict.fromkeys(column for day in shown for column in days[day]))
    head = ["day of the stream", *(f"{control}, {encoder}" for control, encoder in columns)]
    tables = []
    for kind, title in ACCURACIES.items():
        rows = [
            [_label(day, first), *(percent(days[day].get(column, {}).get(kind)) for column in columns)] for day in shown
        ]
        tables.append(table(head, rows, caption=f"{title}, %"))
    return "".join(tables)


def _days(probes: Sequence[Line]) -> dict[date | None, dict[_Column, Line]]:
    """Return the last line of each day and column; None stands for the time before the first pair."""
    days: dict[date | None, dict[_Column, Line]] = {}
    for column, lines in by_encoder(probes).items():
        for line in lines:
            if "captured_ns" in line:
                days.setdefault(_day(line["captured_ns"]), {})[column] = line
    return days


def _day(captured_ns: object) -> date | None:
    if not is_number(captured_ns):
        return None
    try:
        return datetime.fromtimestamp(captured_ns / 1e9, UTC).date()
    except (ValueError, OverflowError, OSError):
        return None


def _label(day: date | None, first: date | None) -> str:
    return START if day is None or first is None else f"{(day - first).days + 1}: {day.isoformat()}"


_TRIPLETS = {
    "triplets_right": ("triplets that are right", 0.5),
    "triplets_by_margin": ("triplets that are right by the margin", None),
}
"""What a row of triplets is called, and what chance reaches."""


def of_stream(lines: Sequence[Line] | None) -> str:
    """Return a table of the newest recalls on the held-out pairs, and a curve of each over the run."""
    newest = {str(line.get("encoder")): line for line in lines or ()}
    rows = [
        [f"{encoder}: {words}", *(percent(line.get(f"{kind}{what}")) for what in ("_chance", "_start", ""))]
        for encoder, line in newest.items()
        for kind, words in KINDS.items()
        if is_number(line.get(kind))
    ]
    rows += [
        [f"{encoder}: {words}", percent(chance), *(percent(line.get(f"{kind}{what}")) for what in ("_start", ""))]
        for encoder, line in newest.items()
        for kind, (words, chance) in _TRIPLETS.items()
        if is_number(line.get(kind))
    ]
    if not rows:
        return missing("Not measured: no pairs were held out (--holdout), or not enough yet.")
    figures = [
        encoder_curves(f"{words} found, %", curves, dashed=False)
        for kind, words in KINDS.items()
        if (curves := _recalls(lines or (), kind))
    ]
    return table(["found, %", "by chance", "at the start", "at the end"], rows) + grid(figures)


def _recalls(lines: Sequence[Line], kind: str) -> dict[str, Points]:
    """Return the recalls over the run of each encoder and of the start, where there are any."""
    curves: dict[str, Points] = {}
    for encoder in dict.fromkeys(str(line.get("encoder")) for line in lines):
        mine = [line for line in lines if line.get("encoder") == encoder]
        curves |= {"start": points(mine, f"{kind}_start"), encoder: points(mine, kind)}
    return {name: found for name, found in curves.items() if len(found[0])}


def by_rotation(rotation: Mapping[str, Mapping[str, Line]] | None) -> str:
    """Return a table of accuracies on rotated test images with upright training images, and their standard deviation."""
    rows: list[list[str]] = []
    degrees: list[float] = []
    for control, encoders in (rotation or {}).items():
        for encoder, measured in encoders.items():
            degrees = degrees or list(measured["degrees"])
            for kind in ("knn", "linear"):
                values = measured[kind]
                spread = f"{np.std(values):.3f}"
                rows.append([f"{control}, {encoder}, {ACCURACIES[kind]}", *map(percent, values), spread])
    if not rows:
        return missing("This was not measured: the run was stopped by hand, or an earlier version made it.")
    return table(["probe, %", *(f"{angle:g}°" for angle in degrees), "deviation"], rows)
