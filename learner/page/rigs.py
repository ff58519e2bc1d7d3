"""Draws the rigs: the newest pair of each, and how it is doing."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache, partial

from learner.page.guide import NOTHING, Guide, guide
from learner.page.live import MAX_DEVICES as LIVE_DEVICES
from learner.page.live import Live
from learner.page.memory import clock_time
from learner.report.html import escape, format_time, grid, missing, number
from learner.report.pictures import photo, shrink
from stream.calibration.watch import RowWatch
from stream.codec import decode
from stream.errors import MalformedMessage
from stream.image import Image
from stream.pair import EncodedPair
from stream.stats import DeviceStats

PAIR_WIDTH = 480
MAX_DEVICES = 64
"""Devices that are shown; further ones are only counted."""


def newest(live: Live, its: Guide) -> str:
    """Return the newest pair of each rig, or what to type on a rig before there is one."""
    latest = live.latest()
    if not latest:
        return missing("No pair was received since this process began.") if live.learner.received else guide(its)
    pairs = "".join(
        f'<figure class="newest">{_both_eyes(pair)}<figcaption><b>{escape(name)}</b>, newest pair '
        f"{clock_time(live.received_s(name))}</figcaption></figure>"
        for name, pair in latest.items()
    )
    return f'<div class="{"one" if len(latest) == 1 else "many"}">{pairs}</div>'


def devices(live: Live, watch: RowWatch, its: Guide = NOTHING) -> str:
    """Return a card of facts for each rig, or for what else the pairs come from."""
    latest = live.latest()
    stats = live.stats.devices if live.stats else {}
    names = list(dict.fromkeys((*stats, *latest)))
    if not names:
        return missing("No pair has come yet." if its.origin else "No rig is known yet.")
    cards = "".join(
        f'<article class="device"><h3>{escape(name)}</h3>'
        f"{_facts(_state(latest.get(name), stats.get(name), live.stats_s, its) | _rows(latest.get(name), watch, its))}</article>"
        for name in names[:MAX_DEVICES]
    )
    rest = f'<p class="note">and {len(names) - MAX_DEVICES} more</p>' if len(names) > MAX_DEVICES else ""
    return f'<div class="devices">{cards}</div>{rest}'


def _state(pair: EncodedPair | None, stats: DeviceStats | None, now_s: float, its: Guide) -> dict[str, str]:
    """Return the state of a device in words. now_s: when `stats` was read."""
    state = {}
    if pair is None:
        state["pair"] = "none was received since this process began"
    else:
        header = pair.header
        state["pair"] = str(header.seq) if its.is_made_here else f"{header.seq} of {header.epoch[:8]}"
        if not its.is_made_here:
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


def _rows(pair: EncodedPair | None, watch: RowWatch, its: Guide) -> dict[str, str]:
    """Return how far rows are apart, which can be corrected; nothing where it is not known, or one camera is both eyes."""
    offset = None
    if pair is not None and pair.left != pair.right:
        with suppress(MalformedMessage):
            offset = watch.offset(pair.header.device, partial(_eyes, pair))
    if pair is None or offset is None:
        return {}
    dotted = "rig." if its.is_made_here else ""
    remedy = f": --{dotted}rectify or --{dotted}row-shift-px corrects it" if its.origin else ": see doctor on the rig"
    return {"rows": offset.describe() + ("" if offset.is_level(pair.header.height) else remedy)}


def _eyes(pair: EncodedPair) -> tuple[Image, Image]:
    decoded = decode(pair)
    return decoded.left, decoded.right


def _facts(facts: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in facts.items())}</dl>"


@lru_cache(maxsize=LIVE_DEVICES)
def _both_eyes(pair: EncodedPair) -> str:
    """Return both eyes as small images, or a note if the pair does not decode."""
    try:
        decoded = decode(pair)
    except MalformedMessage as error:
        return missing(f"The newest pair does not decode: {error}")
    eyes = {"left": decoded.left, "right": decoded.right}
    figures = [photo(shrink(image, PAIR_WIDTH), f"{pair.header.device}, {eye} eye") for eye, image in eyes.items()]
    return grid(figures, "both")
