"""A run as one HTML file that needs nothing else: no script, no outside resource, light and dark, readable on a phone.

It is built from the run's folder alone (see `learner.rundir`), so it can be built again at any time. Only `summary.json`
must be there; where a run stopped too early for the rest, the report says what is missing in its place.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import isfinite, log
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learner.card import PROBES
from learner.errors import LearnerError
from learner.figures import Points, race, trace
from learner.pictures import crop_colour, gaussian, heat, photo, window
from learner.rundir import replace_file
from learner.style import STYLE

Line = dict[str, Any]
Album = Mapping[str, NDArray[Any]]

TILES = {
    "pairs_received": "pairs kept by the rig and received",
    "pairs_suppressed": "seen before, suppressed",
    "pairs_junk": "dark or covered, dropped",
    "pairs_lost": "lost on the way",
    "steps": "training steps",
    "rollbacks": "rollbacks after a collapse",
    "samples_per_s": "samples a second, waiting included",
    "replay_ratio": "samples trained per pair",
    "duty_cycle": "share of the time training",
}
"""The figures at the head of the page, and what they are."""
TITLES = {
    "loss": "Loss",
    "kl": "KL of student from teacher, nats",
    "teacher_entropy": "Teacher entropy, nats",
    "prototypes_in_use": "Prototypes in use",
    "crop_cosine": "Cosine between the crops of a pair",
    "teacher_information": "What the target tells of its pair, share",
    "student_information": "What of it the student knows, share",
    "grad_norm": "Gradient norm",
    "learning_rate": "Learning rate",
    "busy_s": "Seconds a step",
}
"""Curves in their order; any other number of a step follows under its own name."""
NOT_CURVES = {"step", "samples", "received", "seconds", "waited_s"}


def write_report(run: Path) -> Path:
    """Build `run`/report.html and return its path.

    Raises LearnerError where `run` holds no readable summary.json.
    """
    summary = _object(run / "summary.json")
    if summary is None:
        raise LearnerError(f"{run / 'summary.json'} is missing or damaged: give the folder of a run that has ended")
    config = _object(run / "config.json")
    steps, probes, album = _lines(run / "steps.jsonl"), _lines(run / "probes.jsonl"), _album(run / "album.npz")
    sections = [
        _headline(summary),
        _section(
            "What it learned",
            "Accuracy on labelled images it never trains on, before and after.",
            _probe_table(summary),
        ),
        _section("Probes over time", _PROBE_CURVES, _probe_curves(probes)),
        _section("Training", "Each curve is a mean, in the band of its least and greatest.", _curves(steps, config)),
        _section("Where the teacher looks", _LOOKS, _looks(album)),
        _section(
            "What the rig sent",
            "Pairs as received, left and right eye, from the newest back over all that is remembered.",
            _received(album),
        ),
        _section(
            "What the reservoir ranks highest",
            "Pairs the student understands least: largest KL.",
            _extremes(album, "high"),
        ),
        _section("What it ranks lowest", "Pairs the student finds easy: smallest KL.", _extremes(album, "low")),
        _section("All figures and settings", "", _details("Summary", summary) + _details("Settings", config)),
    ]
    path = run / "report.html"
    replace_file(path, _page(run.resolve().name, sections).encode())
    return path


_PROBE_CURVES = "The dashed line is the value before the first step." + "".join(
    f'<span class="legend" style="color:var(--{who})">{who}</span>' for who in ("student", "teacher")
)
_LOOKS = (
    "On the left image, the Gaussian fitted to one attention head (cross: mean; rings: one and two deviations) places the "
    "teacher's window. The student's crops lie at the same place of the right image. Below: every head from its least "
    "to its greatest attention, the chosen one framed, and the augmented views that the networks were given."
)


def _page(name: str, sections: Iterable[str]) -> str:
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(name)} - babyagent</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><header><p>babyagent</p><h1>{escape(name)}</h1></header>"
        f"<main>{''.join(sections)}</main></body></html>\n"
    )


def _section(title: str, note: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{f'<p class=note>{note}</p>' if note else ''}{body}</section>"


def _missing(what: str) -> str:
    return f'<p class="missing">{escape(what)}</p>'


def _headline(summary: Line) -> str:
    tiles = [f"<div><b>{number(summary.get(key))}</b><span>{what}</span></div>" for key, what in TILES.items()]
    loss = f"loss {number(summary.get('loss_first'))} → {number(summary.get('loss_last'))}"
    lead = f"<p class=lead>{number(summary.get('seconds'))} s, {number(summary.get('samples'))} samples trained, {loss}</p>"
    return f'<section>{lead}<div class="tiles">{"".join(tiles)}</div></section>'


def _probe_table(summary: Line) -> str:
    rows = [
        f"<tr><th>{escape(name)}</th><th>{who}</th>{''.join(_change(change, kind, who) for kind in PROBES)}</tr>"
        for name, change in (summary.get("probe") or {}).items()
        for who in ("student", "teacher")
    ]
    if not rows:
        return _missing("No control set was probed.")
    head = "".join(f"<th>{title}</th>" for title in ("control set", "encoder", *PROBES.values()))
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _change(change: Line, kind: str, who: str) -> str:
    before, after = (change.get(when, {}).get(f"{kind}_{who}") for when in ("before", "after"))
    if before is None:
        return "<td>&ndash;</td>"
    if after is None:
        return f"<td>{100 * before:.1f} % → not measured again</td>"
    points = 100 * (after - before)
    sign = "up" if points > 0 else "down"
    return f'<td>{100 * before:.1f} → <b>{100 * after:.1f} %</b> <span class="{sign}">{points:+.1f}</span></td>'


def _probe_curves(probes: Sequence[Line] | None) -> str:
    if not probes:
        return _missing("probes.jsonl is missing or empty: no probe ran.")
    figures = []
    for name in dict.fromkeys(str(line.get("set")) for line in probes):
        lines = [line for line in probes if str(line.get("set")) == name]
        encoders = dict.fromkeys(str(line.get("who")) for line in lines)
        for kind, title in PROBES.items():
            curves = {who: _points([line for line in lines if line.get("who") == who], kind) for who in encoders}
            drawn = {who: points for who, points in curves.items() if len(points[0])}
            if drawn:
                figures.append(race(f"{name}: {title}, %", drawn))
    return _grid(figures)


def _curves(steps: Sequence[Line] | None, config: Line | None) -> str:
    if not steps:
        return _missing("steps.jsonl is missing or empty: the run stopped before its first step.")
    numeric = dict.fromkeys(key for line in steps for key, value in line.items() if _is_number(value))
    names = [name for name in TITLES if name in numeric] + [n for n in numeric if n not in TITLES.keys() | NOT_CURVES]
    prototypes = ((config or {}).get("objective") or {}).get("prototypes")
    levels = {"teacher_entropy": ("uniform: ln K", log(prototypes))} if prototypes else {}
    curves = {name: _points(steps, name) for name in names}
    return _grid(
        [trace(TITLES.get(n, n), points, level=levels.get(n)) for n, points in curves.items() if len(points[0])]
    )


def _points(lines: Sequence[Line], name: str) -> Points:
    """Step and finite value of `name` in each line that has both."""
    pairs = [
        (line["step"], line[name]) for line in lines if _is_number(line.get("step")) and _is_number(line.get(name))
    ]
    steps, values = np.array(pairs, np.float64).reshape(-1, 2).T
    return steps, values


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _grid(figures: Iterable[str], classes: str = "curves") -> str:
    return f'<div class="{classes}">{"".join(f"<figure>{figure}</figure>" for figure in figures)}</div>'


def _received(album: Album) -> str:
    pairs = zip(album.get("received_left", ()), album.get("received_right", ()), strict=False)
    figures = [
        photo(left, f"pair {i}, left") + photo(right, f"pair {i}, right") for i, (left, right) in enumerate(pairs)
    ]
    return _grid(figures, "pairs") if figures else _missing("album.npz has no received pairs: none arrived.")


def _extremes(album: Album, which: str) -> str:
    pairs = zip(album.get(f"{which}_left", ()), album.get(f"{which}_loss", ()), strict=False)
    figures = [
        f"{photo(image, 'a pair of the reservoir, left')}<figcaption>KL {number(float(loss))}</figcaption>"
        for image, loss in pairs
    ]
    return _grid(figures, "thumbs") if figures else _missing("album.npz has no scored pairs.")


def _looks(album: Album) -> str:
    needed = (
        "looks_left",
        "looks_right",
        "attention",
        "head",
        "gauss",
        "window",
        "crops",
        "teacher_view",
        "student_views",
    )
    if not all(name in album for name in needed):
        return _missing("album.npz has no looks: the run stopped before there was a pair to look at.")
    columns = zip(*(album[name] for name in needed), strict=False)
    return "".join(_look(*column) for column in columns)


def _look(
    left: NDArray[Any],
    right: NDArray[Any],
    attention: NDArray[Any],
    chosen: int,
    gauss: NDArray[Any],
    focus: NDArray[Any],
    crops: NDArray[Any],
    teacher_view: NDArray[Any],
    student_views: NDArray[Any],
) -> str:
    colours = [crop_colour(i, len(crops)) for i in range(len(crops))]
    eyes = [
        photo(left, "left image and the teacher's window", [gaussian(gauss, left), window(focus, left, "#fff")]),
        photo(
            right,
            "right image and the student's crops",
            [
                window(focus, right, "#fff8"),
                *(window(c, right, colour) for c, colour in zip(crops, colours, strict=True)),
            ],
        ),
    ]
    heads = [
        photo(heat(left, one), f"attention of head {i}", classes="chosen" if i == chosen else "")
        for i, one in enumerate(attention)
    ]
    views = [photo(teacher_view, "the teacher's view", classes="teacher")] + [
        f'<div style="border-color:{colour}">{photo(view, "a view of the student")}</div>'
        for view, colour in zip(student_views, colours, strict=True)
    ]
    below = _grid(heads, "heads") + _grid(views, "views")
    return f'<article class="look">{_grid(eyes, "eyes")}<div class="below">{below}</div></article>'


def _details(title: str, values: Line | None) -> str:
    if values is None:
        return _missing(f"{title}: the file is missing or damaged.")
    text = escape(json.dumps(values, indent=2, ensure_ascii=False))
    return f"<details><summary>{title}</summary><pre>{text}</pre></details>"


def number(value: object) -> str:
    """A figure as a person reads it: thousands apart, three digits of what is not whole, a dash where there is none."""
    if not isinstance(value, int | float) or not isfinite(value):
        return "\N{EN DASH}"
    if isinstance(value, int) or value.is_integer() or abs(value) >= 1000:
        return f"{round(value):,}".replace(",", "\u202f")
    return f"{value:.3g}"


def _object(path: Path) -> Line | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _lines(path: Path) -> list[Line] | None:
    """The lines of a .jsonl, without those that a crash cut."""
    if not path.is_file():
        return None
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return [line for line in lines if isinstance(line, dict)]


def _album(path: Path) -> Album:
    """The arrays of the album; empty where the file is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        return {}
