"""Steps that tests of the link take: pairs, waiting for what must come, and work beside."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import numpy as np
import zmq
from waiting import WAIT_S, until

from stream.codec import encode_pair
from stream.errors import EndOfStream
from stream.failures import Failures
from stream.live.publisher import Publisher
from stream.live.subscriber import Subscriber
from stream.pair import EncodedPair
from stream.source import Source
from stream.transport.crowd import Bounds
from stream.transport.dialer import Dialer
from stream.transport.gate import Gate
from stream.transport.handshake import LOG_INTERVAL_S, REASONS
from stream.transport.security import Security

EPOCH, NEXT_EPOCH = "a" * 32, "b" * 32
LOOPBACK = "tcp://127.0.0.1:0"
NOISE = np.random.default_rng(0).integers(0, 256, (2, 160, 200), dtype=np.uint8)
"""Incompressible: a pair of 64 kB, so that queues and TCP buffers fill soon."""


def make_pair(seq: int, *, device: str = "baby", epoch: str = EPOCH, big: bool = False) -> EncodedPair:
    left, right = NOISE if big else NOISE[:, :4, :6]
    return encode_pair(left, right, device=device, epoch=epoch, seq=seq, left_ns=seq, right_ns=seq, codec="lz4")


def make_pairs(
    count: int, *, first: int = 0, device: str = "baby", epoch: str = EPOCH, big: bool = False
) -> list[EncodedPair]:
    one = make_pair(0, device=device, epoch=epoch, big=big)
    return [
        EncodedPair(msgspec.structs.replace(one.header, seq=seq), one.left, one.right)
        for seq in range(first, first + count)
    ]


def received(source: Source, count: int) -> list[EncodedPair]:
    """The next pairs, so many."""
    pairs: list[EncodedPair] = []

    def are_enough() -> bool:
        if len(pairs) < count:
            pairs.extend(source.receive(count - len(pairs), 0.2))
        return len(pairs) >= count

    until(are_enough, lambda: f"{len(pairs)} of {count} pairs came: {source.stats()}")
    return pairs


def all_received(source: Source) -> list[EncodedPair]:
    """Everything up to the end of the stream."""
    pairs: list[EncodedPair] = []

    def is_over() -> bool:
        try:
            pairs.extend(source.receive(64, 1.0))
        except EndOfStream:
            return True
        return False

    until(is_over, lambda: f"the stream does not end: {source.stats()}")
    return pairs


def until_quiet(source: Subscriber) -> list[EncodedPair]:
    """Everything that is on its way."""
    pairs = received(source, 1)
    while more := source.receive(64, 0.5):
        pairs += more
    return pairs


@contextmanager
def in_background(work: Callable[[], object]) -> Iterator[None]:
    """Run `work` in a thread beside the block, and wait for it."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join(WAIT_S)
        assert not thread.is_alive()


def publish_all(publisher: Publisher, pairs: list[EncodedPair]) -> None:
    for pair in pairs:
        publisher.send(pair)
    publisher.bye()


WIDE = Bounds(pending_bytes=1 << 30, all_pending_bytes=1 << 30)
"""Bounds that no test reaches by accident."""


@contextmanager
def open_dialer(socket: zmq.Socket[bytes], security: Security | None = None, bounds: Bounds = WIDE) -> Iterator[Dialer]:
    """A dialer of a socket, behind a gate of its own."""
    failures = Failures(logging.getLogger(__name__), LOG_INTERVAL_S, reasons=REASONS)
    with Gate(bounds, failures) as gate:
        dialer = Dialer(socket, failures, security, gate)
        try:
            yield dialer
        finally:
            dialer.close()
