"""vidgear's NetGear with REQ and REP sockets and without its own compression. It sends one array in each message.

Messages beside an array need two-way traffic, so everything is in the array: head, left and right JPEG in a row.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import numpy as np

from benchmarks.shared.machine import HOST
from benchmarks.transport.peers.contender import Arrival, Send, decode_jpegs
from benchmarks.transport.peers.plain_tcp import HEAD, head_of
from stream.pair import EncodedPair

REQ_REP = 1
DRAINED_S = 1.0


@contextmanager
def sender(port: int) -> Iterator[Send]:
    """Open a NetGear that sends and waits for a reply to each array."""
    with _netgear(port, receive_mode=False) as gear:

        def send(pair: EncodedPair) -> None:
            parts = (head_of(pair), pair.left, pair.right)
            gear.send(np.concatenate([np.frombuffer(part, np.uint8) for part in parts]))

        yield send
        time.sleep(DRAINED_S)  # at the end the receiver discards its queue


@contextmanager
def receiver(port: int) -> Iterator[Iterator[Arrival]]:
    """Open a NetGear that receives: a thread of its own fills a queue."""
    with _netgear(port, receive_mode=True) as gear:
        yield _arrivals(gear)


def _arrivals(gear: Any) -> Iterator[Arrival]:
    while (array := gear.recv()) is not None:  # None once the sender is closed
        seq, captured_ns, left_bytes, right_bytes = HEAD.unpack(array[: HEAD.size])
        left, right = (eye.data for eye in np.split(array[HEAD.size :], [left_bytes]))
        yield Arrival(seq, captured_ns, left_bytes + right_bytes, partial(decode_jpegs, left, right))


def _netgear(port: int, *, receive_mode: bool) -> closing[Any]:
    make = importlib.import_module("vidgear.gears.netgear").NetGear
    return closing(
        make(address=HOST, port=str(port), pattern=REQ_REP, receive_mode=receive_mode, jpeg_compression=False)
    )
