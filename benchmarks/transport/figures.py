"""The figures of the transport bench: medians, ratios, percentiles and goals of its trips, and their tables. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.shared.bench import Goal, figure_table
from benchmarks.transport.trip import Trip

RATIOS = ("imagezmq_req", "base64", "lerobot", "tcp")
"""The peers with whose pairs per second ours are compared."""
OURS = ("ours", "ours_curve", "ours_rig")
AT_LEAST = {"ratio imagezmq_req": 2.2, "ratio lerobot": 18.0, "ratio tcp": 0.75, "curve_mb_s": 250.0}
AT_MOST = {"lost": 0.0, "p99_ms": 30.0}
WARM_UP_PAIRS = 10
"""Number of first pairs of a trip whose latency is left out: libraries initialise their tables with the first images."""
Trips = Mapping[str, Sequence[Trip]]
"""The trips of each contender, one in each round."""
Rows = Mapping[str, Mapping[str, float]]
"""The figures of each contender."""


def summarise(*, full_speed: Trips, paced: Trips, wire: Rows, stall: Rows) -> dict[str, Any]:
    """Return the figures of all parts, and the goals for the contenders that were measured."""
    ratios = {peer: _ratios(full_speed, peer) for peer in RATIOS if {"ours", peer} <= full_speed.keys()}
    latency = {name: _latency(trips) for name, trips in paced.items()}
    figures: dict[str, Any] = {"ratio": {peer: spread["median"] for peer, spread in ratios.items()}}
    if "ours_curve" in full_speed:
        figures["curve_mb_s"] = _median([trip.mb_per_s for trip in full_speed["ours_curve"]])
    lost = [trip.lost for part in (full_speed, paced) for name in OURS for trip in part.get(name, ())]
    lost += [round(stall[name]["lost"]) for name in OURS if name in stall]
    if lost:
        figures["lost"] = sum(lost)
    if "ours" in latency:
        figures["p99_ms"] = latency["ours"]["p99_ms"]
    return figures | {
        "goals": {
            goal.name: {"reached": goal.reached, "goal": goal.bound, "met": goal.met} for goal in goals_of(figures)
        },
        "ratio_spread": ratios,
        "full_speed": {name: _speed(trips) for name, trips in full_speed.items()},
        "paced": latency,
        "wire": dict(wire),
        "stall": dict(stall),
    }


def goals_of(figures: Mapping[str, Any]) -> Iterator[Goal]:
    """Yield the goals for the figures that were measured."""
    reached = {**figures, **{f"ratio {peer}": ratio for peer, ratio in figures["ratio"].items()}}
    for name, bound in (AT_LEAST | AT_MOST).items():
        if name in reached:
            yield Goal(name, reached[name], bound, at_least=name in AT_LEAST)


def tables(figures: Mapping[str, Any]) -> Iterator[Table]:
    """Yield a table for each part."""
    for part, (title, columns, cells) in _TABLES.items():
        yield figure_table(title, ("", *columns), {name: cells(row) for name, row in figures[part].items()})


def _ratios(full_speed: Trips, peer: str) -> dict[str, float]:
    """Return the ratio of our pairs per second to a peer's, in each round; a peer that failed has fewer rounds."""
    rounds = zip(full_speed["ours"], full_speed[peer], strict=False)
    return _spread([ours.pairs_per_s / theirs.pairs_per_s for ours, theirs in rounds])


def _speed(trips: Sequence[Trip]) -> dict[str, Any]:
    return {
        "pairs_per_s": _spread([trip.pairs_per_s for trip in trips]),
        "mb_per_s": _median([trip.mb_per_s for trip in trips]),
        "sent": sum(trip.sent.pairs for trip in trips),
        "lost": sum(trip.lost for trip in trips),
        "sender_cpu_ms_per_pair": _median([1e3 * trip.sent.cpu_s / trip.sent.pairs for trip in trips]),
        "receiver_cpu_ms_per_pair": _median([1e3 * trip.received.cpu_s / trip.received.pairs for trip in trips]),
    }


def _latency(trips: Sequence[Trip]) -> dict[str, float]:
    """Return percentiles over the pairs of all rounds, in milliseconds. Trips that are too short keep their warm-up."""
    of_trips = [trip.received.latencies_ms for trip in trips]
    latencies_ms = [latency_ms for one in of_trips for latency_ms in one[WARM_UP_PAIRS:] or one]
    p50_ms, p95_ms, p99_ms = (float(f"{value:.4g}") for value in np.percentile(latencies_ms, [50, 95, 99]))
    lost = sum(trip.lost for trip in trips)
    return {"p50_ms": p50_ms, "p95_ms": p95_ms, "p99_ms": p99_ms, "pairs": len(latencies_ms), "lost": lost}


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": _median(values), "min": float(f"{min(values):.4g}"), "max": float(f"{max(values):.4g}")}


def _median(values: Sequence[float]) -> float:
    return float(f"{statistics.median(values):.4g}")


def _speed_cells(row: Mapping[str, Any]) -> list[str]:
    rate = row["pairs_per_s"]
    cpu = " + ".join(f"{row[f'{side}_cpu_ms_per_pair']:.2f}" for side in ("sender", "receiver"))
    spread, lost = f"{rate['min']:.0f}-{rate['max']:.0f}", f"{row['lost']} of {row['sent']}"
    return [f"{rate['median']:.0f}", spread, f"{row['mb_per_s']:.0f}", lost, cpu]


def _latency_cells(row: Mapping[str, Any]) -> list[object]:
    return [*(f"{row[key]:.1f}" for key in ("p50_ms", "p95_ms", "p99_ms")), row["pairs"], row["lost"]]


def _wire_cells(row: Mapping[str, Any]) -> list[object]:
    return [f"{row['bytes_per_pair']:.0f}", f"{row['bytes_per_pair'] / row['image_bytes_per_pair'] - 1:.2%}"]


def _stall_cells(row: Mapping[str, Any]) -> list[object]:
    return [f"{row['rss_growth_mb']:.1f}", row["sent"], row["skipped"], row["lost"]]


_TABLES: dict[str, tuple[str, Sequence[str], Callable[[Mapping[str, Any]], Sequence[object]]]] = {
    "full_speed": ("one core a side", ("pairs/s", "min-max", "MB/s", "lost of sent", "CPU ms a pair"), _speed_cells),
    "paced": ("30 Hz, capture to decoded", ("p50 ms", "p95 ms", "p99 ms", "pairs", "lost"), _latency_cells),
    "wire": ("on the wire", ("bytes a pair", "beyond the images"), _wire_cells),
    "stall": ("receiver stopped", ("sender grows by MB", "sent", "shots not taken", "lost"), _stall_cells),
}
"""Title, columns and cells of each part."""
