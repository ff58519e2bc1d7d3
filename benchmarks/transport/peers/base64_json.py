"""Base64 in JSON, as in LeRobot's ZMQ camera: a PUB socket sends a string with the newest images, a SUB keeps the newest.

LeRobot's client gives decoded images only, and `decodes` measures that; without it, the same transport is compared with those
that do not decode the JPEG. One client reads both eyes of a string, while LeRobot's two cameras would parse it twice.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import zmq

from benchmarks.shared.machine import HOST
from benchmarks.transport.peers.contender import END_EVERY_S, ENDS, Arrival, Send, decode_jpegs
from stream.pair import EncodedPair

QUEUED_STRINGS = 20


@contextmanager
def sender(port: int) -> Iterator[Send]:
    """Open a PUB socket with a short queue; strings that do not fit are dropped."""
    with _socket(zmq.PUB) as socket:
        socket.set(zmq.SNDHWM, QUEUED_STRINGS)
        socket.bind(f"tcp://{HOST}:{port}")

        def put(**message: object) -> None:
            with suppress(zmq.Again):
                socket.send_string(json.dumps(message), zmq.NOBLOCK)

        def send(pair: EncodedPair) -> None:
            images = {"left": _text(pair.left), "right": _text(pair.right)}
            times_ns = {"left": pair.header.left_ns, "right": pair.header.right_ns}
            put(seq=pair.header.seq, timestamps=times_ns, images=images)

        yield send
        for _ in range(ENDS):
            time.sleep(END_EVERY_S)  # first: an end sent at once would replace the last pair
            put(images={})


@contextmanager
def receiver(port: int, *, decodes: bool) -> Iterator[Iterator[Arrival]]:
    """Open a SUB socket that keeps the newest string only; with `decodes`, it also decodes the images."""
    with _socket(zmq.SUB) as socket:
        socket.set(zmq.SUBSCRIBE, b"")
        socket.set(zmq.CONFLATE, 1)
        socket.connect(f"tcp://{HOST}:{port}")
        yield _arrivals(socket, decodes)


def _arrivals(socket: zmq.Socket[bytes], decodes: bool) -> Iterator[Arrival]:
    while (message := json.loads(socket.recv_string()))["images"]:
        left, right = (base64.b64decode(message["images"][eye]) for eye in ("left", "right"))
        decode = partial(decode_jpegs, left, right)
        if decodes:
            decode()
        yield Arrival(message["seq"], message["timestamps"]["left"], len(left) + len(right), decode)


@contextmanager
def _socket(kind: int) -> Iterator[zmq.Socket[bytes]]:
    """Open a socket that is closed without waiting."""
    with zmq.Context() as context, context.socket(kind) as socket:
        socket.set(zmq.LINGER, 0)
        yield socket


def _text(image: bytes) -> str:
    return base64.b64encode(image).decode()
