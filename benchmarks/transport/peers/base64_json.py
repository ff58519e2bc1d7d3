"""Base64 in JSON, as in LeRobot's ZMQ camera: a PUB socket sends a string with the newest images, a SUB keeps the newest.

LeRobot's client gives decoded images only, and `decodes` measures that; without it, the same transport is compared with those
that do not decode the JPEG. One client reads both eyes of a string, while LeRobot's two cameras would parse it twice.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import zmq

from benchmarks.shared.machine import HOST
from benchmarks.transport.peers.contender import END_EVERY_S, ENDS, Arrival, decode_jpegs
from stream.pair import EncodedPair

QUEUED_STRINGS = 20


class Sender:
    """A PUB socket with a short queue; strings that do not fit are dropped."""

    def __init__(self, port: int) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        self._socket.set(zmq.SNDHWM, QUEUED_STRINGS)
        self._socket.set(zmq.LINGER, 0)
        self._socket.bind(f"tcp://{HOST}:{port}")

    def send(self, pair: EncodedPair) -> None:
        """See `contender.Sender`."""
        header = pair.header
        images = {"left": _text(pair.left), "right": _text(pair.right)}
        self._put(
            {"seq": header.seq, "timestamps": {"left": header.left_ns, "right": header.right_ns}, "images": images}
        )

    def end(self) -> None:
        """See `contender.Sender`."""
        for _ in range(ENDS):
            time.sleep(END_EVERY_S)  # first: an end sent at once would replace the last pair
            self._put({"images": {}})
        self._context.destroy()

    def _put(self, message: dict[str, object]) -> None:
        with suppress(zmq.Again):
            self._socket.send_string(json.dumps(message), zmq.NOBLOCK)


class Receiver:
    """A SUB socket that keeps only the newest string; with `decodes`, it also decodes the images."""

    def __init__(self, port: int, *, decodes: bool) -> None:
        self._decodes = decodes
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.set(zmq.SUBSCRIBE, b"")
        self._socket.set(zmq.CONFLATE, 1)
        self._socket.connect(f"tcp://{HOST}:{port}")

    def arrivals(self) -> Iterator[Arrival]:
        """See `contender.Receiver`."""
        while True:
            message = json.loads(self._socket.recv_string())
            images = message["images"]
            if not images:
                self._context.destroy()
                return
            left, right = base64.b64decode(images["left"]), base64.b64decode(images["right"])
            decode = partial(decode_jpegs, left, right)
            if self._decodes:
                decode()
            yield Arrival(message["seq"], message["timestamps"]["left"], len(left) + len(right), decode)


def _text(image: bytes) -> str:
    return base64.b64encode(image).decode()
