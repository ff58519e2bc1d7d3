"""Steps that tests of the link take: pairs, waiting for what must come, and work beside."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import numpy as np
import zmq

from stream.codec import encode_pair
from stream.errors import EndOfStream
from stream.failures import Failures
from stream.live.publisher import Publisher
from stream.live.subscriber import Subscriber
from stream.pair import EncodedPair
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


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come to pass within 60 s"
        time.sleep(0.005)


def received(source: Subscriber, count: int) -> list[EncodedPair]:
    pairs: list[EncodedPair] = []
    deadline_s = time.monotonic() + 60
    while len(pairs) < count:
        assert time.monotonic() < deadline_s, f"{len(pairs)} of {count} pairs came within 60 s: {source.stats()}"
        pairs += source.receive(count - len(pairs), 0.2)
    return pairs


def all_received(source: Subscriber) -> list[EncodedPair]:
    """Everything up to the end of the stream."""
    pairs: list[EncodedPair] = []
    deadline_s = time.monotonic() + 90
    try:
        while time.monotonic() < deadline_s:
            pairs += source.receive(64, 1.0)
    except EndOfStream:
        return pairs
    raise AssertionError(f"the stream did not end within 90 s: {source.stats()}")


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
        thread.join(90)
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
