"""How fast, how late and at what cost do pairs travel, compared with other ways to send them? All on this machine's loopback.

Four parts, in each of which the contenders take turns: JPEGs as fast as they go; a 30 Hz camera with encoding and decoding;
bytes on the wire; and what a sender does while its receiver is stopped. Ratios are taken within a round, and the medians
over the rounds are reported. Our checksum of the images is made with the JPEG, in everybody's encoding alike; verifying it
is part of our receiving. The exit code is 0 only where every goal that could be measured is met.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from benchmarks.shared.relay import Relay
from benchmarks.transport.figures import summarise, tables
from benchmarks.transport.peers.lineup import CONTENDERS
from benchmarks.transport.trip import Plan, Trip, TripError, free_port, travel

CAMERA_HZ = 30.0
STALL_HZ = 60.0
STALL_FLOW_S = 1.0
"""Pairs flow so long before the receiver is stopped: memory that any sender takes is taken by then."""
STALL_AFTER_S = 1.0
"""And so long after it goes on, so that what was queued arrives."""
MAX_SPAN_S = 600.0
FULL_SPEED = tuple(name for name in CONTENDERS if name != "ours_rig")
PACED = ("ours", "ours_rig", "imagezmq_req", "base64")
WIRE = tuple(name for name in FULL_SPEED if name != "lerobot")
STALL = tuple(name for name in CONTENDERS if name not in ("ours", "ours_curve", "lerobot"))
"""Who is in which part: `ours` waits for a receiver that is stopped, which a camera cannot, so there it is `ours_rig`, whose
disk is not the question at full speed; `lerobot` sends what `base64` sends."""


@dataclass(frozen=True, kw_only=True)
class TransportSettings:
    """Send 720p stereo pairs from one process to another, ours and theirs."""

    rounds: int = 5
    """Rounds in which every contender takes its turn; the medians are reported."""
    full_speed_s: float = 1.5
    """Seconds of a turn at full speed."""
    paced_s: float = 4.0
    """Seconds of a turn at 30 Hz, with JPEG encoding and decoding."""
    wire_s: float = 1.0
    """Seconds at 30 Hz through a relay that counts bytes."""
    stall_s: float = 5.0
    """Seconds the receiver is stopped while 60 pairs a second go on."""
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    """Who is measured."""
    json: bool = False
    """One JSON object; progress and tables go to the standard error either way."""


def main(arguments: Sequence[str]) -> int:
    """Run all parts and print what came out; returns 1 where a goal was missed."""
    settings = tyro.cli(TransportSettings, args=list(arguments), prog="python -m benchmarks transport")
    _check(settings)
    console = Console(stderr=True, highlight=False)
    field = _Field(
        settings.contenders, lambda text: console.print(f"{time.strftime('%H:%M:%S')}  {text}", soft_wrap=True)
    )
    paced = Plan(settings.paced_s, CAMERA_HZ, decoded=True)
    figures = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        "machine": _machine(),
        "rounds": settings.rounds,
        **summarise(
            full_speed=field.take_turns("full speed", FULL_SPEED, Plan(settings.full_speed_s), settings.rounds),
            paced=field.take_turns("30 Hz, encoded and decoded", PACED, paced, settings.rounds),
            wire=field.weigh(Plan(settings.wire_s, CAMERA_HZ)),
            stall=field.stall(settings.stall_s),
        ),
        "left_out": field.left_out,
    }
    for table in tables(figures):
        console.print(table)
    for name, why in field.left_out.items():
        console.print(f"{name} is left out: {why}", soft_wrap=True)
    if settings.json:
        sys.stdout.write(json.dumps(figures) + "\n")
    return 0 if all(goal["met"] for goal in figures["goals"].values()) else 1


class _Field:
    """The contenders that can be measured here; one that fails is left out from then on, and named."""

    def __init__(self, names: Sequence[str], say: Callable[[str], None]) -> None:
        self._say = say
        self.left_out: dict[str, str] = {}
        self._names = list(names)
        for name in names:
            package = CONTENDERS[name].needs
            if package is not None and importlib.util.find_spec(package) is None:
                self._leave_out(name, f"{package} is not installed: pip install -e '.[peers]'")

    def take_turns(self, part: str, names: Sequence[str], plan: Plan, rounds: int) -> dict[str, list[Trip]]:
        """Every contender's trips, in rounds."""
        trips: dict[str, list[Trip]] = {}
        for turn in range(rounds):
            for name in self._of(names):
                trip = self._travel(name, plan, port=free_port())
                if trip is not None:
                    trips.setdefault(name, []).append(trip)
                    rate = f"{trip.pairs_per_s:7.0f} pairs/s  {trip.lost} lost"
                    self._say(f"{part} {turn + 1}/{rounds}  {name:13} {rate}")
        return trips

    def weigh(self, plan: Plan) -> dict[str, dict[str, float]]:
        """Bytes on the wire for each pair sent, in both directions, and how many of them are images."""
        weights: dict[str, dict[str, float]] = {}
        for name in self._of(WIRE):
            port = free_port()
            with Relay(port) as relay:
                trip = self._travel(name, plan, port=port, connect_port=relay.port)
                count_bytes = relay.count_bytes
            if trip is not None:
                wire, images = count_bytes / trip.sent.pairs, trip.received.size_bytes / trip.received.pairs
                weights[name] = {"bytes_per_pair": round(wire), "image_bytes_per_pair": round(images)}
                self._say(f"wire  {name:13} {wire / images - 1:.2%} beyond the images")
        return weights

    def stall(self, stall_s: float) -> dict[str, dict[str, float]]:
        """What a sender does while its receiver is stopped: memory, shots it did not take, pairs that never came."""
        stalls: dict[str, dict[str, float]] = {}
        plan = Plan(STALL_FLOW_S + stall_s + STALL_AFTER_S, STALL_HZ)
        for name in self._of(STALL):
            stall = _Stall(stall_s)
            trip = self._travel(name, plan, port=free_port(), meanwhile=stall)
            if trip is not None:
                grown_mb = stall.rss_growth_bytes / 1e6
                counts = {"sent": trip.sent.pairs, "skipped": trip.sent.skipped, "lost": trip.lost}
                stalls[name] = {"rss_growth_mb": grown_mb, **counts}
                self._say(f"stall  {name:13} {grown_mb:.1f} MB more  {trip.sent.skipped} skipped  {trip.lost} lost")
        return stalls

    def _of(self, names: Sequence[str]) -> list[str]:
        return [name for name in self._names if name in names]

    def _travel(self, name: str, plan: Plan, **how: Any) -> Trip | None:
        try:
            return travel(name, plan, **how)
        except TripError as error:
            self._leave_out(name, str(error))
            return None

    def _leave_out(self, name: str, why: str) -> None:
        self.left_out[name] = why
        self._names.remove(name)
        self._say(f"{name} is left out: {why}")


class _Stall:
    """Stops the receiver for a while and weighs the sender before and at the end."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self.rss_growth_bytes = 0

    def __call__(self, sender: int, receiver: int) -> None:
        time.sleep(STALL_FLOW_S)
        before_bytes = _rss_bytes(sender)
        os.kill(receiver, signal.SIGSTOP)
        try:
            time.sleep(self._stall_s)
            self.rss_growth_bytes = _rss_bytes(sender) - before_bytes
        finally:
            os.kill(receiver, signal.SIGCONT)


def _check(settings: TransportSettings) -> None:
    if not settings.contenders or not set(settings.contenders) <= CONTENDERS.keys():
        raise ValueError(f"--contenders are some of {', '.join(CONTENDERS)}")
    spans_s = (settings.full_speed_s, settings.paced_s, settings.wire_s, settings.stall_s)
    if settings.rounds < 1 or not all(0 < span_s <= MAX_SPAN_S for span_s in spans_s):
        raise ValueError(f"--rounds must be at least 1, and every span above 0 and at most {MAX_SPAN_S:.0f} seconds")


def _rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    packages = {"pyzmq": "zmq"} | {
        contender.needs: contender.needs for contender in CONTENDERS.values() if contender.needs
    }
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{
            name: importlib.metadata.version(name)
            for name, package in packages.items()
            if importlib.util.find_spec(package)
        },
    }
