"""vidgear's NetGear with REQ and REP sockets and without its own compression. It sends one array in each message.

Messages beside an array need two-way traffic, so everything is in the array: head, left and right JPEG in a row.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks.shared.machine import HOST
from benchmarks.transport.peers.contender import Arrival, decode_jpegs
from benchmarks.transport.peers.plain_tcp import HEAD
from stream.pair import EncodedPair

REQ_REP = 1
DRAINED_S = 1.0


class Sender:
    """A NetGear that sends and waits for a reply to each array."""

    def __init__(self, port: int) -> None:
        self._gear = _netgear(port, receive_mode=False)

    def send(self, pair: EncodedPair) -> None:
        """See `contender.Sender`."""
        head = HEAD.pack(pair.header.seq, pair.header.left_ns, len(pair.left), len(pair.right))
        self._gear.send(np.concatenate([np.frombuffer(part, np.uint8) for part in (head, pair.left, pair.right)]))

    def end(self) -> None:
        """See `contender.Sender`."""
        time.sleep(DRAINED_S)  # at the end the receiver discards its queue
        self._gear.close()


class Receiver:
    """A NetGear that receives; its own thread fills a queue."""

    def __init__(self, port: int) -> None:
        self._gear = _netgear(port, receive_mode=True)

    def arrivals(self) -> Iterator[Arrival]:
        """See `contender.Receiver`."""
        while (array := self._gear.recv()) is not None:  # None once the sender is closed
            seq, captured_ns, left_bytes, right_bytes = HEAD.unpack(array[: HEAD.size])
            left, right = (eye.data for eye in np.split(array[HEAD.size :], [left_bytes]))
            yield Arrival(seq, captured_ns, left_bytes + right_bytes, partial(decode_jpegs, left, right))
        self._gear.close()


def _netgear(port: int, *, receive_mode: bool) -> Any:
    make = importlib.import_module("vidgear.gears.netgear").NetGear
    return make(address=HOST, port=str(port), pattern=REQ_REP, receive_mode=receive_mode, jpeg_compression=False)
