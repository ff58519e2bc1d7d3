"""The interface of a way to send pairs over TCP: a sender and a receiver, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from stream.image import Image
from stream.pair import EncodedPair

ENDS = 20
END_EVERY_S = 0.1
"""A sender that may drop messages repeats its end so often and so slowly that the receiver gets it once its queue is empty."""

Data = bytes | memoryview


class Arrival(NamedTuple):
    """A pair that reached its receiver: its number, its capture time, and its images, which are not decoded yet."""

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
        """Announce that no more pairs follow, and free the socket."""


class Receiver(Protocol):
    """The other process's end; the constructor opens it."""

    def arrivals(self) -> Iterator[Arrival]:
        """Every pair that arrives, until the sender's end."""


@dataclass(frozen=True)
class Contender:
    """One way to send pairs from one process to another on a port of this machine."""

    sender: Callable[[int], Sender]
    receiver: Callable[[int], Receiver]
    receiver_binds: bool = False
    """Whether the receiver listens on the port and the sender connects; else it is the other way round."""
    needs: str | None = None
    """The package that it needs, where that is not one of ours."""


def decode_jpegs(left: Data, right: Data) -> tuple[Image, Image]:
    """Return both eyes as OpenCV decodes them, [H, W, 3] BGR; raises ValueError where one is not an image."""
    return _decode(left), _decode(right)


def _decode(data: Data) -> Image:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"OpenCV could not decode {len(data)} bytes")
    return np.asarray(image, np.uint8)
