"""A blocking TCP socket that sends sizes, then both images. No validation, queue or reconnecting slows it down."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from functools import partial

from benchmarks.shared.machine import HOST
from benchmarks.transport.peers.contender import Arrival, decode_jpegs
from stream.pair import EncodedPair

HEAD = struct.Struct("!QQII")
"""Format of the head: number, capture time in nanoseconds, bytes of the left and of the right image."""


class Sender:
    """Listens, and sends to the first receiver that connects."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server((HOST, port))
        self._connection: socket.socket | None = None

    def send(self, pair: EncodedPair) -> None:
        """See `contender.Sender`."""
        if self._connection is None:
            self._connection = self._listener.accept()[0]
        head = HEAD.pack(pair.header.seq, pair.header.left_ns, len(pair.left), len(pair.right))
        parts = [memoryview(part) for part in (head, pair.left, pair.right)]
        while parts:
            sent = self._connection.sendmsg(parts)
            while parts and sent >= len(parts[0]):
                sent -= len(parts.pop(0))
            if parts:
                parts[0] = parts[0][sent:]

    def end(self) -> None:
        """See `contender.Sender`."""
        if self._connection is not None:
            self._connection.close()
        self._listener.close()


class Receiver:
    """Connects, and reads each image whole."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST, port))

    def arrivals(self) -> Iterator[Arrival]:
        """See `contender.Receiver`."""
        with self._socket:
            while head := self._read(HEAD.size):
                seq, captured_ns, left_bytes, right_bytes = HEAD.unpack(head)
                left, right = self._read(left_bytes), self._read(right_bytes)
                yield Arrival(seq, captured_ns, len(left) + len(right), partial(decode_jpegs, left, right))

    def _read(self, size: int) -> bytes:
        return self._socket.recv(size, socket.MSG_WAITALL)
