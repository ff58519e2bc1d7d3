"""How fast, how late and at what cost are pairs sent, compared with other ways to send them? Measured on the loopback.

Four parts, in each of which the contenders take turns: JPEGs as fast as possible; a 30 Hz camera with encoding and decoding;
bytes on the wire; and what a sender does while its receiver is stopped. Ratios are taken within a round, and the medians over the
rounds are reported. The checksum of the images is computed when they are encoded, for all contenders; we verify it while we
receive. The exit code is 0 only if every goal that could be measured is met.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any

from rich.console import RenderableType

from benchmarks.shared.bench import Bench, RoundsSettings, counted, report_progress
from benchmarks.shared.bounds import SomeOf, Within
from benchmarks.shared.link import Link
from benchmarks.shared.machine import date, describe_machine, free_port, not_installed, resident_bytes
from benchmarks.transport.figures import OURS, goals_of, summarise, tables
from benchmarks.transport.peers.lineup import CONTENDERS
from benchmarks.transport.trip import Plan, Trip, travel
from learner.errors import Failed

CAMERA_HZ = 30.0
STALL_HZ = 60.0
STALL_FLOW_S = 1.0
"""Seconds for which pairs are sent before the receiver is stopped, so that the memory that every sender needs is allocated."""
STALL_AFTER_S = 1.0
"""Seconds for which pairs are sent after the receiver continues, so that queued pairs arrive."""
Length = Annotated[float, Within(0, 600, above=True)]
FULL_SPEED = tuple(name for name in CONTENDERS if name != "ours_rig")
PACED = ("ours", "ours_rig", "imagezmq_req", "base64")
WIRE = tuple(name for name in FULL_SPEED if name != "lerobot")
STALL = tuple(name for name in CONTENDERS if name not in ("ours", "ours_curve", "lerobot"))
"""Who is in which part: `ours` waits for a receiver that is stopped, which a camera cannot, so there it is `ours_rig`, whose
disk is not the question at full speed; `lerobot` sends what `base64` sends."""


@dataclass(frozen=True, kw_only=True)
class TransportSettings(RoundsSettings):
    """Send 720p stereo pairs from one process to another, by our stream and by other tools."""

    full_speed_s: Length = 1.5
    """Seconds of a turn at full speed."""
    paced_s: Length = 4.0
    """Seconds of a turn at 30 Hz, with JPEG encoding and decoding."""
    wire_s: Length = 1.0
    """Seconds at 30 Hz through a relay that counts bytes."""
    stall_s: Length = 5.0
    """Seconds for which the receiver is stopped, while the sender goes on with 60 pairs per second."""
    contenders: Annotated[tuple[str, ...], SomeOf(CONTENDERS)] = tuple(CONTENDERS)
    """The ways to send that are measured."""


def measure(settings: TransportSettings) -> dict[str, Any]:
    """Run all parts; return their figures, and the goals."""
    field = ContenderField(settings.contenders)
    paced = Plan(settings.paced_s, CAMERA_HZ, decoded=True)
    packages = {"pyzmq": "zmq"} | {name: name for contender in CONTENDERS.values() if (name := contender.needs)}
    return {
        "date": date(),
        "machine": describe_machine(packages),
        "rounds": settings.rounds,
        **summarise(
            full_speed=field.take_turns("full speed", FULL_SPEED, Plan(settings.full_speed_s), settings.rounds),
            paced=field.take_turns("30 Hz, encoded and decoded", PACED, paced, settings.rounds),
            wire=field.measure_wire(Plan(settings.wire_s, CAMERA_HZ)),
            stall=field.stall(settings.stall_s),
        ),
        "left_out": field.left_out,
    }


def render(_settings: TransportSettings, figures: dict[str, Any]) -> Iterator[RenderableType]:
    """Yield a table for each part, and a note about contenders that were left out."""
    yield from tables(figures)
    yield "".join(f"{name} is left out: {why}\n" for name, why in figures["left_out"].items())


COMMAND = Bench(TransportSettings, measure, render, goals_of)


class ContenderField:
    """The contenders that can be measured here. A contender that fails is left out from then on; `left_out` holds the reason."""

    def __init__(self, names: Sequence[str]) -> None:
        self.left_out: dict[str, str] = {}
        self._names = list(names)
        for name, why in not_installed({name: CONTENDERS[name].needs for name in names}).items():
            self._leave_out(name, why)

    def take_turns(self, part: str, names: Sequence[str], plan: Plan, rounds: int) -> dict[str, list[Trip]]:
        """Run every contender once in each round; return their trips."""
        trips: dict[str, list[Trip]] = {}
        for _ in counted(range(rounds), f"{part}, round"):
            for name in self._of(names):
                trip = self._travel(name, plan, port=free_port())
                if trip is not None:
                    trips.setdefault(name, []).append(trip)
                    report_progress(f"{name:13} {trip.pairs_per_s:7.0f} pairs/s  {trip.lost} lost")
        return trips

    def measure_wire(self, plan: Plan) -> dict[str, dict[str, float]]:
        """Return the bytes on the wire for each sent pair, in both directions, and how many of them are images."""
        sizes: dict[str, dict[str, float]] = {}
        for name in self._of(WIRE):
            port = free_port()
            with closing(Link()) as link:
                link.point_to(port)
                trip = self._travel(name, plan, port=port, connect_port=link.port)
                count_bytes = link.forwarded_bytes
            if trip is not None:
                wire, images = count_bytes / trip.sent.pairs, trip.received.size_bytes / trip.received.pairs
                sizes[name] = {"bytes_per_pair": round(wire), "image_bytes_per_pair": round(images)}
                report_progress(f"wire  {name:13} {wire / images - 1:.2%} beyond the images")
        return sizes

    def stall(self, stall_s: float) -> dict[str, dict[str, float]]:
        """Stop the receiver for a while.

        Returns the sender's memory, the shots that it skipped, and the pairs that never arrived.
        """
        stalls: dict[str, dict[str, float]] = {}
        plan = Plan(STALL_FLOW_S + stall_s + STALL_AFTER_S, STALL_HZ)
        for name in self._of(STALL):
            stall = Stall(stall_s)
            trip = self._travel(name, plan, port=free_port(), during=stall)
            if trip is not None:
                grown_mb = stall.rss_growth_bytes / 1e6
                counts = {"sent": trip.sent.pairs, "skipped": trip.sent.skipped, "lost": trip.lost}
                stalls[name] = {"rss_growth_mb": grown_mb, **counts}
                report_progress(
                    f"stall  {name:13} {grown_mb:.1f} MB more  {trip.sent.skipped} skipped  {trip.lost} lost"
                )
        return stalls

    def _of(self, names: Sequence[str]) -> list[str]:
        return [name for name in self._names if name in names]

    def _travel(self, name: str, plan: Plan, **how: Any) -> Trip | None:
        try:
            return travel(name, plan, **how)
        except Failed as error:
            if name in OURS:  # a bench of ours without ours would meet every goal
                raise
            self._leave_out(name, str(error))
            return None

    def _leave_out(self, name: str, why: str) -> None:
        self.left_out[name] = why
        self._names.remove(name)
        report_progress(f"{name} is left out: {why}")


class Stall:
    """Stops the receiver for a while, and measures by how much the sender's memory grows."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self.rss_growth_bytes = 0

    def __call__(self, sender: int, receiver: int) -> None:
        """Stop the receiver once pairs are being sent, and measure. sender, receiver: process ids."""
        time.sleep(STALL_FLOW_S)
        before_bytes = resident_bytes(sender)
        os.kill(receiver, signal.SIGSTOP)
        try:
            time.sleep(self._stall_s)
            self.rss_growth_bytes = resident_bytes(sender) - before_bytes
        finally:
            os.kill(receiver, signal.SIGCONT)
