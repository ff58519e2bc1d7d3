"""Draws what the networks see and what the reservoir holds, from the newest snapshot, with the time at which it was taken."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from learner.page.live import Live, ReservoirPair, Snapshot
from learner.report.html import escape, format_time, missing, number
from learner.report.panels import view_panels, views_note
from learner.report.pictures import photo, shrink

THUMB_WIDTH = 192
BARS = 48
"""Bars of the histogram over arrivals."""
ROWS = {
    "highest": "Highest priority: most is left to learn from these pairs",
    "lowest": "Lowest priority: these pairs are easy",
    "newest": "Newest in memory",
    "oldest": "Oldest in memory",
}
_NO_PICTURES = (
    "There are no pictures yet: they are copied while somebody watches, about every ten seconds, "
    "after the first training step."
)


def clock_time(time_s: float) -> str:
    """Return a time, seconds since 1970, as an element to which the script adds how long ago it was."""
    moment = datetime.fromtimestamp(int(time_s), UTC)
    return f'<time datetime="{moment:%Y-%m-%dT%H:%M:%SZ}">{moment:%H:%M:%S} UTC</time>'


def views(live: Live) -> str:
    """Return the views of some pairs: where the teacher looks, and what the networks receive."""
    snapshot = live.snapshot
    drawn = "".join(map(view_panels, snapshot.views)) if snapshot else ""
    if snapshot is None or not drawn:
        return missing(_NO_PICTURES)
    return f'{_as_of(snapshot)}<p class="note">{views_note(snapshot.views[0])}</p>{drawn}'


def memory(live: Live) -> str:
    """Return what the reservoir holds: from when its pairs are, and some of them."""
    snapshot = live.snapshot
    if snapshot is None or not len(snapshot.kept):
        return missing(_NO_PICTURES)
    rows = "".join(
        f'<h3>{title}</h3><div class="sheet">{"".join(map(_thumb, snapshot.rows[name]))}</div>'
        for name, title in ROWS.items()
    )
    shared = f'<p class="note">This is the memory of the first of {snapshot.processes} processes.</p>'
    return f"{_as_of(snapshot)}{shared if snapshot.processes > 1 else ''}{_origins(snapshot)}{rows}"


def _as_of(snapshot: Snapshot) -> str:
    return f'<p class="asof">As of step {number(snapshot.step)}, {clock_time(snapshot.taken_s)}</p>'


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
        f'aria-label="{label}">{bars}</svg><figcaption><span>first pair</span><span>full height: all pairs of that time are '
        f"kept</span><span>pair {number(arrived - 1)}</span></figcaption></figure>"
    )
