"""imagezmq: a message is one image and a text. A pair is two messages, whose texts hold number, eye and capture time.

With `replies` the sender waits for a reply to each image (REQ); without them images may be dropped (PUB).
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

from benchmarks.shared.machine import HOST
from benchmarks.transport.peers.contender import END_EVERY_S, ENDS, Arrival, Data, Send, decode_jpegs
from stream.pair import EncodedPair

END = "end"


@contextmanager
def sender(port: int, *, replies: bool) -> Iterator[Send]:
    """Open an ImageSender."""
    imagezmq = importlib.import_module("imagezmq")
    with closing(imagezmq.ImageSender(f"tcp://{HOST}:{port}", REQ_REP=replies)) as images:

        def send(pair: EncodedPair) -> None:
            for eye, data in (("left", pair.left), ("right", pair.right)):
                images.send_jpg(f"{pair.header.seq} {pair.header.left_ns} {eye}", data)

        yield send
        for _ in range(1 if replies else ENDS):
            time.sleep(0.0 if replies else END_EVERY_S)
            images.send_jpg(END, b"-")


@contextmanager
def receiver(port: int, *, replies: bool) -> Iterator[Iterator[Arrival]]:
    """Open an ImageHub; a left image whose right one was dropped is dropped too."""
    imagezmq = importlib.import_module("imagezmq")
    with closing(imagezmq.ImageHub(f"tcp://{HOST}:{port}", REQ_REP=replies)) as hub:
        yield _arrivals(hub, replies)


def _arrivals(hub: Any, replies: bool) -> Iterator[Arrival]:
    left_of = -1
    left: Data = b""
    for text, data in _images(hub, replies):
        seq, captured_ns, eye = text.split()
        if eye == "left":
            left_of, left = int(seq), data
        elif left_of == int(seq):
            yield Arrival(left_of, int(captured_ns), len(left) + len(data), partial(decode_jpegs, left, data))


def _images(hub: Any, replies: bool) -> Iterator[tuple[str, Data]]:
    while True:
        text, data = hub.recv_jpg()
        if replies:
            hub.send_reply()
        if text == END:
            return
        yield text, data
