"""The figures of a run of the faults bench: the counts of every consumer, what each kind of fault did, how soon pairs arrived."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.faults.check import FAILURES, Entered, Journal, PairCounts, check
from benchmarks.faults.consumers import LearnerProcess
from benchmarks.faults.nemesis import LINK_KINDS
from benchmarks.faults.stage import Stage, Struck

WATCHED_NS = 1_500_000_000
"""Time around a link's fault in which no other fault may happen, so that the first live pair shows the effect of this fault
alone."""
LATE_NS = 500_000_000
"""A pair that arrives this long after it was made does not count as live."""
BIN_NS = 50_000_000

MadeAndArrived = tuple[int, int]
"""When a pair was made and when it arrived, nanoseconds of the machine's monotonic clock."""


def judge(stage: Stage, *, ended_well: bool, evicts: bool) -> dict[str, Any]:
    """Return the figures of a stage whose processes have ended; `failures` names the counts that must be zero and are not.

    evicts: the spools were too small for the cuts, so that lost pairs need no other harm.
    """
    journals = {rig.device: rig.journal for rig in stage.rigs}
    by_consumer: dict[str, PairCounts] = {}
    arrivals = []
    for consumer in stage.consumers:
        entered, cursor = consumer.outcome()
        by_consumer[consumer.name] = check(journals, entered, cursor, stage.harms(consumer), evicts=evicts)
        arrivals.append({device: list(_arrivals(device, journal, entered)) for device, journal in journals.items()})
    total = sum(by_consumer.values(), PairCounts())
    counts, processes = asdict(total), [actor.process for actor in stage.actors]
    crashes = {process.name: process.crashes for process in processes if process.crashes}
    complaints = [text for one in stage.consumers if isinstance(one, LearnerProcess) for text in one.complaints]
    failures = [name for name in FAILURES if counts[name]]
    failures += [f"{name} crashed" for name in crashes] + complaints
    failures += [] if ended_well else ["did not end well"]
    hits = Counter(struck.fault.kind for struck in stage.struck if struck.hit)
    return {
        "failures": failures,
        "pairs": stage.kept,
        "faults": dict(sorted(hits.items())),
        "hits": hits.total(),
        "void": sum(not struck.hit for struck in stage.struck),
        **{name: counts[name] for name in (*FAILURES, "unseen", "indeterminate", "refused")},
        "lost_ranges": {"count": total.lost_ranges, "pairs": total.lost_pairs},
        "consumers": {
            name: {
                "entered": one.entered,
                "lost_pairs": one.lost_pairs,
                **{bad: getattr(one, bad) for bad in one.failed},
            }
            for name, one in by_consumer.items()
        },
        "refusals": dict(stage.refusals),
        "malformed": dict(sum((Counter(one.malformed) for one in stage.consumers), Counter[str]())),
        "crashes": sum(crashes.values()),
        "starts": sum(process.starts for process in processes),
        "full_disk": "a small file system" if stage.rigs[0].disk.mounted else "a limit to the size of files",
        "first_live_s": _spread(list(_first_live_s(stage, arrivals))),
        "backfill_pairs_per_s": _backfill_pairs_per_s(arrivals),
    }


def _arrivals(device: str, journal: Journal, entered: Sequence[Entered]) -> Iterator[MadeAndArrived]:
    """Yield the times of the pairs of a device; only the learner that lists pairs notes when they arrive."""
    for pair in entered:
        attempt = journal.attempts.get((pair.epoch, pair.seq))
        if pair.device == device and attempt is not None and pair.at_ns:
            yield attempt.at_ns, pair.at_ns


def _first_live_s(stage: Stage, arrivals: Sequence[Mapping[str, Sequence[MadeAndArrived]]]) -> Iterator[float]:
    """Yield the seconds from the return of a link to the first arrival of a pair made after it.

    Only returns are used that no other fault disturbed.
    """
    for struck in stage.struck:
        if struck.fault.kind not in LINK_KINDS or not _is_alone(struck, stage.struck):
            continue
        back_ns, device = struck.until_ns, stage.rigs[struck.fault.rig].device
        pairs = arrivals[struck.fault.consumer][device]
        arrived = [arrived_ns for made_ns, arrived_ns in pairs if back_ns <= made_ns < back_ns + WATCHED_NS]
        if arrived:
            yield 1e-9 * (min(arrived) - back_ns)


def _is_alone(struck: Struck, others: Sequence[Struck]) -> bool:
    from_ns, until_ns = struck.from_ns - WATCHED_NS, struck.until_ns + WATCHED_NS
    return not any(
        other is not struck
        and other.from_ns < until_ns
        and other.until_ns > from_ns
        and other.fault.hits(struck.fault.rig, struck.fault.consumer)
        for other in others
    )


def _backfill_pairs_per_s(arrivals: Sequence[Mapping[str, Sequence[MadeAndArrived]]]) -> float | None:
    """Return the late pairs per second, over the times in which late pairs arrived at a learner; None if there were none."""
    late = [
        [arrived_ns for pairs in by_device.values() for made_ns, arrived_ns in pairs if arrived_ns - made_ns > LATE_NS]
        for by_device in arrivals
    ]
    bins = sum(len({arrived_ns // BIN_NS for arrived_ns in times}) for times in late)
    return round(sum(map(len, late)) / (1e-9 * BIN_NS * bins)) if bins else None


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {"count": 0}
    p99 = sorted(values)[int(0.99 * len(values))]
    spread = {"median": statistics.median(values), "p99": p99, "max": max(values)}
    return {"count": len(values)} | {name: round(value, 3) for name, value in spread.items()}
