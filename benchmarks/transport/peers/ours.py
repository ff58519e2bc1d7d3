"""Our stream, from `stream.live.publisher` to `stream.live.subscriber`, with header, checksums and ledger."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import zmq
from zmq.utils import z85

from benchmarks.shared.machine import HOST
from benchmarks.shared.pairs import DEVICE, EPOCH, eyes_of
from benchmarks.transport.peers.contender import END_EVERY_S, ENDS, Arrival, Send
from device.spool.rules import SpoolLimits
from device.spool.spool import Spool
from stream.errors import EndOfStream, StreamError
from stream.live.publisher import Publisher
from stream.live.subscriber import Subscriber
from stream.pair import EncodedPair
from stream.transport.security import Security

BATCH_PAIRS = 64
SPOOL_BYTES = 4 << 30
SECRET = b"it guards nothing, both know it."
"""A key of 32 bytes, which both processes use."""


@contextmanager
def sender(port: int, *, curve: bool = False) -> Iterator[Send]:
    """Open a publisher that waits for its subscriber and loses nothing."""
    security = _keys() if curve else None
    with Publisher(f"tcp://{HOST}:{port}", device=DEVICE, epoch=EPOCH, on_full="wait", security=security) as publisher:

        def send(pair: EncodedPair) -> None:
            if not publisher.send(pair):
                raise StreamError(f"no subscriber took {pair.header.name}")

        yield send
        publisher.bye()


@contextmanager
def rig_sender(port: int) -> Iterator[Send]:
    """Send as a rig does: each pair goes into the spool, then live without waiting; dropped pairs are pulled from the spool."""
    limits = SpoolLimits(SPOOL_BYTES, free_floor_bytes=0)
    with (
        tempfile.TemporaryDirectory(prefix="babyagent-") as folder,
        Spool(Path(folder), limits, device=DEVICE, epoch=EPOCH) as spool,
        Publisher(f"tcp://{HOST}:{port}", device=DEVICE, epoch=EPOCH, shelf=spool) as publisher,
    ):

        def send(pair: EncodedPair) -> None:
            spool.append(pair)
            publisher.send(pair)

        yield send
        for _ in range(ENDS):  # the receiver pulls its missing pairs in the meantime
            time.sleep(END_EVERY_S)
            publisher.bye()


@contextmanager
def receiver(port: int, *, curve: bool = False) -> Iterator[Iterator[Arrival]]:
    """Open a subscriber, which is emptied as fast as it fills."""
    security = _keys() if curve else None
    with Subscriber([f"tcp://{HOST}:{port}"], end_on_bye=True, security=security) as subscriber:
        yield _arrivals(subscriber)


def _arrivals(subscriber: Subscriber) -> Iterator[Arrival]:
    with suppress(EndOfStream):
        while True:
            for pair in subscriber.receive(BATCH_PAIRS, 1.0):
                size_bytes = len(pair.left) + len(pair.right)
                yield Arrival(pair.header.seq, pair.header.left_ns, size_bytes, partial(eyes_of, pair))


def _keys() -> Security:
    public = zmq.curve_public(z85.encode(SECRET)).decode()
    return Security(folder=Path(), public=public, secret=z85.encode(SECRET).decode(), trusted={DEVICE: public})
