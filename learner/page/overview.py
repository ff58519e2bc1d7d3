"""Draws the head of the page: whose images it learns from, the verdict, the numbers of the moment, and all that is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from learner.page.guide import NOTHING, Guide
from learner.page.live import Counts, Live
from learner.page.verdict import LEVELS, Level, Phase, RunState, Score, concerns, verdict
from learner.report.html import escape, number, number_tiles
from stream.stats import SILENT_S, SourceStats

MINUTE_S = 60.0
SIGNS: dict[Level, str] = dict(zip(LEVELS, ("●", "◌", "▲", "■"), strict=True))
"""Colours alone would not tell the levels apart for everybody."""


def title(live: Live, its: Guide = NOTHING) -> str:
    """Return in words what this is."""
    names = [*live.latest()]
    if not names:
        awaited = "its next" if live.learner.received else "the first"
        return f"<h1>A vision model that waits for {awaited} pair of images</h1>"
    if its.origin:
        return f"<h1>A vision model that learns from {escape(its.origin)}</h1>"
    whose = escape(names[0]) if len(names) == 1 else f"{len(names)} rigs"
    return f"<h1>A vision model that learns from what {whose} see{'s' if len(names) == 1 else ''}</h1>"


def verdict_line(state: RunState) -> str:
    """Return the verdict as markup."""
    level, text = verdict(state)
    sign = f'<span aria-hidden="true">{SIGNS[level]}</span>'
    return f'<p class="verdict {level}" data-phase="{state.phase}">{sign} {escape(text)}</p>'


def wrong(state: RunState) -> str:
    """Return all that is wrong, with what to do about it."""
    found = concerns(state)
    if not found:
        return '<p class="fine">Nothing that this page knows of. /metrics and the learner\'s log know more.</p>'
    rows = "".join(
        f'<li class="concern {level}"><b>{escape(text)}</b> {escape(remedy)}</li>' for level, _, text, remedy in found
    )
    return f"<ul>{rows}</ul>"


def now(live: Live) -> str:
    """Return the numbers of the moment."""
    learner, report = live.learner, live.report
    stats, counts = live.stats, learner.counts()
    capacity = learner.config.memory.capacity
    tiles: dict[str, object] = {
        "training steps": learner.steps,
        "pairs received": learner.received,
        "samples a second at present, waiting included": live.samples_now(),
        "loss of the last step": report.loss if report else None,
        f"pairs in the reservoir, of {number(capacity)}": counts.kept,
        "pairs that wait for their first step": counts.fresh,
        "pairs held out, never trained on": learner.held_out.count,
        "pairs suppressed or left out before they came": learner.suppressed + learner.junk,
        "rollbacks after a collapse": learner.trainer.guard.rollbacks,
    }
    if learner.config.memory.clip > 1:
        tiles |= {f"pairs in a clip on average, of {learner.config.memory.clip}": counts.kept / max(1, counts.clips)}
    if stats is not None:
        tiles |= {"pairs lost on the way": stats.lost, "pairs still to come": stats.pending}
    return f'<p class="lead">{escape(live.status).replace("  ", " · ")}</p>{number_tiles(tiles)}'


def state_of(live: Live, scores: Mapping[str, Score], run: Path) -> RunState:
    """Return the state of a run for its verdict. run: the run directory, which may not exist yet."""
    learner, guard, forgetting = live.learner, live.learner.trainer.guard, live.learner.trainer.forgetting
    stats = live.stats or SourceStats()
    free_bytes = float("inf")
    with suppress(OSError):
        free_bytes = shutil.disk_usage(run).free
    lately, is_falling_behind = _trend(live)
    waits = live.waiting is not None or live.report is None
    return RunState(
        phase=_phase(live),
        working=live.status if _phase(live) != "running" else "",
        silent_s=live.pulse.silent_s,
        steps=learner.steps,
        received=learner.received,
        wanted=learner.wanted() if waits else 0,
        endpoints=stats.endpoints,
        rigs=len(stats.heard),
        silent=_silent(live, stats),
        have_ended=bool(stats.heard) and all(device.ended for device in stats.heard),
        scores=scores,
        lost=stats.lost,
        lost_lately=min(stats.lost, lately.lost),
        behind=live.trend[-1].behind if live.trend else 0,
        is_falling_behind=is_falling_behind,
        undecodable=lately.undecodable,
        malformed=lately.malformed,
        untrusted=lately.untrusted,
        rollbacks=guard.rollbacks,
        rolled_back_at=guard.since if guard.setbacks else None,
        below=str(forgetting.last) if forgetting.last is not None and forgetting.last.is_worse else "",
        forgot=forgetting.rollbacks,
        doubt=guard.doubt_ratio,
        refused=learner.trainer.refused_in_a_row,
        free_bytes=free_bytes,
    )


def _phase(live: Live) -> Phase:
    if live.pulse.is_stopping:
        return "stopping"
    return "running" if live.pulse.is_ready else "starting"


def _silent(live: Live, stats: SourceStats) -> tuple[str, ...]:
    return tuple(name for name, device in stats.devices.items() if (device.silent_s(live.stats_s) or 0.0) >= SILENT_S)


def _trend(live: Live) -> tuple[Counts, bool]:
    """Return what was added to the counts within the remembered time, and whether as many pairs wait as a minute before."""
    trend = list(live.trend)
    if not trend:
        return Counts(*(0 for _ in Counts._fields)), False
    newest = trend[-1]
    before = [counts for counts in trend if counts.at_s <= newest.at_s - MINUTE_S]
    first = trend[0]
    added = newest._replace(
        lost=newest.lost - first.lost,
        undecodable=newest.undecodable - first.undecodable,
        malformed=newest.malformed - first.malformed,
        untrusted=newest.untrusted - first.untrusted,
    )
    return added, bool(before) and newest.behind >= before[-1].behind
