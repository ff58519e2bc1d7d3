"""The command `python -m stream replay`: publishes a recording again as its rig did, with the same identities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated

import tyro

from stream.errors import EndOfStream, StreamError
from stream.host.command import Command
from stream.host.program import Result, Stop
from stream.host.progress import Progress
from stream.host.typed import here
from stream.live.publisher import Publisher
from stream.pair import EncodedPair, Header
from stream.recording.foreign import EyeTopics, device_of
from stream.recording.source import RecordingSource
from stream.transport.endpoint import security_for

RECEIVE_S = 0.2
SEND_WAIT_S = 0.5
LINGER_S = 60.0
"""How long a learner may take to receive the last pairs, which wait in its queue."""

DESCRIPTION = """Publish recordings as the rig did, in the order they were made.

  python -m stream replay walk.mcap                    at the pace of the rig, for all subscribers
  python -m stream replay walk.mcap --speed 0          as fast as the learner takes them; waits for it, loses nothing
  python -m stream replay walk.mcap walk-2.mcap --bind 'tcp://*:5555'

  python -m learner --connect tcp://127.0.0.1:5555     receives them

Pairs keep their device, epoch and number: a learner drops the pairs that it already has. Other tools' recordings replay too:
MCAP files with images of Foxglove or ROS 2, and ROS bags (docs/recordings.md). Several of them are one device, which has the name
of the first file. Ctrl-C ends it."""


@dataclass(frozen=True, kw_only=True)
class ReplaySettings:
    """Publish recordings as the rig did."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """Recordings, in their order."""
    bind: str = "tcp://127.0.0.1:5555"
    """Where learners connect to; port 0 takes any free one."""
    keys: Path | None = None
    """Folder of the keys. By default the usual folder is used for an address on the network, and no keys for a loopback
    address."""
    insecure: bool = False
    """Use no keys across the network."""
    speed: float = 1.0
    """Multiple of real time; 0: as fast as the learner takes them."""
    device: str | None = None
    """The device to replay, if a recording has several."""
    topics: Annotated[EyeTopics, tyro.conf.arg(name="")] = field(default_factory=EyeTopics)
    json: bool = False
    """End with one line of JSON on the standard output."""


def run(settings: ReplaySettings, stop: Stop) -> Result:
    """Replay until the end or `stop`. Raises StreamError for recordings without a pair, or with pairs of several devices."""
    if not settings.files:
        raise StreamError(f"replay needs a recording: {here('stream', 'replay')} FILE")
    with (
        closing(_source(settings)) as source,
        Progress() as progress,
    ):
        pairs = _pairs(source, settings.device, stop)
        first = next(pairs, None)
        if first is None:
            of = f" of {settings.device}" if settings.device else ""
            raise StreamError(f"{', '.join(map(str, settings.files))}: there is no pair{of} to replay")
        with _publisher(settings, first.header) as publisher:
            progress.log(f"replaying {publisher.device} at {publisher.endpoint}")
            replayed = replay(chain([first], pairs), publisher, settings.speed == 0, stop, progress)
    figures = {"replayed": replayed, "sent": publisher.sent}
    return Result(f"replayed {replayed} pairs, {publisher.sent} of them to at least one subscriber", figures)


def replay(pairs: Iterable[EncodedPair], publisher: Publisher, lossless: bool, stop: Stop, progress: Progress) -> int:
    """Publish the pairs of one device, then a bye; return how many pairs were published.

    lossless: send each pair again until a subscriber takes it. Raises StreamError at the first pair of another device.
    """
    replayed = 0

    def state() -> str:
        waiting = "" if publisher.subscribers() else f", waiting for a learner at {publisher.endpoint}"
        return f"{replayed} pairs replayed{waiting}"

    for pair in pairs:
        if pair.header.device != publisher.device:
            raise StreamError(f"there are pairs of {pair.header.device} too: choose, as in --device {publisher.device}")
        if pair.header.epoch != publisher.epoch:
            publisher.begin(pair.header.epoch, pair.header.seq)
        while not publisher.send(pair) and lossless and not stop.is_set():
            progress.update(state)
        if stop.is_set():
            break
        replayed += 1
        progress.update(state)
    publisher.bye()
    return replayed


def _source(settings: ReplaySettings) -> RecordingSource:
    """Open the recordings. Those of another tool are one device, so that one in several files replays."""
    device = device_of(str(settings.files[0])) if settings.device is None else None
    return RecordingSource(settings.files, speed=settings.speed, topics=settings.topics, device=device)


def _publisher(settings: ReplaySettings, header: Header) -> Publisher:
    return Publisher(
        settings.bind,
        device=header.device,
        epoch=header.epoch,
        on_full="drop" if settings.speed else "wait",
        wait_s=SEND_WAIT_S,
        linger_s=LINGER_S,
        security=security_for([settings.bind], keys=settings.keys, insecure=settings.insecure),
        insecure=settings.insecure,
    )


def _pairs(source: RecordingSource, device: str | None, stop: Stop) -> Iterator[EncodedPair]:
    """Yield the pairs of a recording when they are due; where a device is named, only the pairs of that device."""
    while not stop.is_set():
        try:
            pairs = source.receive(1, RECEIVE_S)
        except EndOfStream:
            return
        yield from (pair for pair in pairs if device in (None, pair.header.device))


COMMAND = Command(run=run, settings=ReplaySettings, description=DESCRIPTION)
