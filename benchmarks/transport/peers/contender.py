"""What a way to bring pairs over TCP has to offer to be measured: a sender and a receiver, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from stream.image import Image
from stream.pair import EncodedPair

HOST = "127.0.0.1"
ENDS = 20
END_EVERY_S = 0.1
"""A sender that may drop anything says its end so often and so slowly: the receiver hears it once its queue is empty."""

Data = bytes | memoryview


class Arrival(NamedTuple):
    """A pair that reached its receiver: what identifies it, and its images still to be decoded."""

    seq: int
    captured_ns: int
    size_bytes: int
    """Both encoded images."""
    decode: Callable[[], tuple[Image, Image]]


class Sender(Protocol):
    """One process's end; the constructor opens it."""

    def send(self, pair: EncodedPair) -> None:
        """Send one pair; blocks where this way of sending blocks, drops where it drops."""

    def end(self) -> None:
        """Say that nothing comes any more and free the socket."""


class Receiver(Protocol):
    """The other process's end; the constructor opens it."""

    def arrivals(self) -> Iterator[Arrival]:
        """Every pair that came, until the sender's end."""


@dataclass(frozen=True)
class Contender:
    """One way to bring pairs from one process to another on a port of this machine."""

    sender: Callable[[int], Sender]
    receiver: Callable[[int], Receiver]
    receiver_binds: bool = False
    """Which of the two listens on the port; the other one connects."""
    needs: str | None = None
    """The package it is measured with, where that is not one of ours."""


def decode_jpegs(left: Data, right: Data) -> tuple[Image, Image]:
    """Both eyes as OpenCV decodes them, [H, W, 3] BGR; raises ValueError where one is no image."""
    return _decode(left), _decode(right)


def _decode(data: Data) -> Image:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"OpenCV could not decode {len(data)} bytes")
    return np.asarray(image, np.uint8)
