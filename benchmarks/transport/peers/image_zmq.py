"""imagezmq: a message is one image and a text. A pair is two messages, whose texts hold number, eye and capture time."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from functools import partial

from benchmarks.shared.machine import HOST
from benchmarks.transport.peers.contender import END_EVERY_S, ENDS, Arrival, Data, decode_jpegs
from stream.pair import EncodedPair

END = "end"


class Sender:
    """An ImageSender. With `replies` it waits for a reply to each image (REQ); otherwise it may drop images (PUB)."""

    def __init__(self, port: int, *, replies: bool) -> None:
        self._replies = replies
        self._sender = importlib.import_module("imagezmq").ImageSender(f"tcp://{HOST}:{port}", REQ_REP=replies)

    def send(self, pair: EncodedPair) -> None:
        """See `contender.Sender`."""
        for eye, data in (("left", pair.left), ("right", pair.right)):
            self._sender.send_jpg(f"{pair.header.seq} {pair.header.left_ns} {eye}", data)

    def end(self) -> None:
        """See `contender.Sender`."""
        for _ in range(1 if self._replies else ENDS):
            time.sleep(0.0 if self._replies else END_EVERY_S)
            self._sender.send_jpg(END, b"-")
        self._sender.close()


class Receiver:
    """An ImageHub; it also drops a left image whose right one was dropped."""

    def __init__(self, port: int, *, replies: bool) -> None:
        self._replies = replies
        self._hub = importlib.import_module("imagezmq").ImageHub(f"tcp://{HOST}:{port}", REQ_REP=replies)

    def arrivals(self) -> Iterator[Arrival]:
        """See `contender.Receiver`."""
        left_of = -1
        left: Data = b""
        while True:
            text, data = self._receive()
            if text == END:
                self._hub.close()
                return
            seq, captured_ns, eye = text.split()
            if eye == "left":
                left_of, left = int(seq), data
            elif left_of == int(seq):
                size_bytes = len(left) + len(data)
                yield Arrival(left_of, int(captured_ns), size_bytes, partial(decode_jpegs, left, data))

    def _receive(self) -> tuple[str, Data]:
        text, data = self._hub.recv_jpg()
        if self._replies:
            self._hub.send_reply()
        return text, data
