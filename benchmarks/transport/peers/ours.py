"""Our stream, from `stream.live.publisher` to `stream.live.subscriber`, with header, checksums and ledger."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import zmq
from zmq.utils import z85

from benchmarks.shared.machine import HOST
from benchmarks.shared.pairs import DEVICE, EPOCH, eyes_of
from benchmarks.transport.peers.contender import END_EVERY_S, ENDS, Arrival
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


class Sender:
    """A publisher that waits for its subscriber and loses nothing."""

    def __init__(self, port: int, *, curve: bool = False) -> None:
        self._publisher = Publisher(
            f"tcp://{HOST}:{port}", device=DEVICE, epoch=EPOCH, on_full="wait", security=_keys() if curve else None
        )

    def send(self, pair: EncodedPair) -> None:
        """See `contender.Sender`."""
        if not self._publisher.send(pair):
            raise StreamError(f"no subscriber took {pair.header.name}")

    def end(self) -> None:
        """See `contender.Sender`."""
        self._publisher.bye()
        self._publisher.close()


class RigSender:
    """Sends as a rig does: each pair is first put into the spool, then sent live without waiting.

    Dropped pairs are pulled later.
    """

    def __init__(self, port: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="babyagent-")
        self._spool = Spool(
            Path(self._folder.name), SpoolLimits(SPOOL_BYTES, free_floor_bytes=0), device=DEVICE, epoch=EPOCH
        )
        self._publisher = Publisher(f"tcp://{HOST}:{port}", device=DEVICE, epoch=EPOCH, shelf=self._spool)

    def send(self, pair: EncodedPair) -> None:
        """See `contender.Sender`."""
        self._spool.append(pair)
        self._publisher.send(pair)

    def end(self) -> None:
        """See `contender.Sender`. The receiver pulls its missing pairs until then."""
        for _ in range(ENDS):
            time.sleep(END_EVERY_S)
            self._publisher.bye()
        self._publisher.close()
        self._spool.close()
        self._folder.cleanup()


class Receiver:
    """A subscriber whose queue is emptied as fast as it fills."""

    def __init__(self, port: int, *, curve: bool = False) -> None:
        self._subscriber = Subscriber([f"tcp://{HOST}:{port}"], end_on_bye=True, security=_keys() if curve else None)

    def arrivals(self) -> Iterator[Arrival]:
        """See `contender.Receiver`."""
        with self._subscriber:
            while True:
                try:
                    pairs = self._subscriber.receive(BATCH_PAIRS, 1.0)
                except EndOfStream:
                    return
                for pair in pairs:
                    size_bytes = len(pair.left) + len(pair.right)
                    yield Arrival(pair.header.seq, pair.header.left_ns, size_bytes, partial(eyes_of, pair))


def _keys() -> Security:
    public = zmq.curve_public(z85.encode(SECRET)).decode()
    return Security(folder=Path(), public=public, secret=z85.encode(SECRET).decode(), trusted={DEVICE: public})
