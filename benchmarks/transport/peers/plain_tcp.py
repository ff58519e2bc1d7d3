"""A blocking TCP socket that sends sizes, then both images. No validation, queue or reconnecting slows it down."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial

from benchmarks.shared.machine import HOST
from benchmarks.transport.peers.contender import Arrival, Send, decode_jpegs
from stream.pair import EncodedPair

HEAD = struct.Struct("!QQII")
"""Format of the head: number, capture time in nanoseconds, bytes of the left and of the right image."""


def head_of(pair: EncodedPair) -> bytes:
    """Return what is sent before the images of a pair."""
    return HEAD.pack(pair.header.seq, pair.header.left_ns, len(pair.left), len(pair.right))


@contextmanager
def sender(port: int) -> Iterator[Send]:
    """Listen, and send to the first receiver that connects."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((HOST, port)))

        @cache
        def connection() -> socket.socket:
            return stack.enter_context(listener.accept()[0])

        def send(pair: EncodedPair) -> None:
            parts = [memoryview(part) for part in (head_of(pair), pair.left, pair.right)]
            while parts:
                sent = connection().sendmsg(parts)
                while parts and sent >= len(parts[0]):
                    sent -= len(parts.pop(0))
                if parts:
                    parts[0] = parts[0][sent:]

        yield send


@contextmanager
def receiver(port: int) -> Iterator[Iterator[Arrival]]:
    """Connect, and read each image whole."""
    with socket.create_connection((HOST, port)) as connection:
        yield _arrivals(connection)


def _arrivals(connection: socket.socket) -> Iterator[Arrival]:
    while head := connection.recv(HEAD.size, socket.MSG_WAITALL):
        seq, captured_ns, *sizes = HEAD.unpack(head)
        left, right = (connection.recv(size, socket.MSG_WAITALL) for size in sizes)
        yield Arrival(seq, captured_ns, len(left) + len(right), partial(decode_jpegs, left, right))
