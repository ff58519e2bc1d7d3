"""The interface of a way to send pairs over TCP: a sender and a receiver, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from stream.image import Image
from stream.pair import EncodedPair

ENDS = 20
END_EVERY_S = 0.1
"""Seconds between two repetitions of the end by a sender that may drop messages, until the receiver's queue is empty."""

Data = bytes | memoryview
Send = Callable[[EncodedPair], None]
"""Sends one pair. It may block, or drop the pair, as this way of sending does."""


class Arrival(NamedTuple):
    """A pair that reached its receiver: its number, its capture time, and its images, which are not decoded yet."""

    seq: int
    captured_ns: int
    size_bytes: int
    """Bytes of both encoded images."""
    decode: Callable[[], tuple[Image, Image]]


@dataclass(frozen=True)
class Contender:
    """One way to send pairs from one process to another on a port of this machine."""

    sender: Callable[[int], AbstractContextManager[Send]]
    """Opens one end. Its exit announces that no more pairs follow, and frees the socket."""
    receiver: Callable[[int], AbstractContextManager[Iterator[Arrival]]]
    """Opens the other end, which yields every pair that arrives, until the sender's exit."""
    receiver_binds: bool = False
    """Whether the receiver listens on the port and the sender connects; otherwise the sender listens."""
    needs: str | None = None
    """The package that the contender needs; empty for one of ours."""


def decode_jpegs(left: Data, right: Data) -> tuple[Image, Image]:
    """Decode both eyes with OpenCV, [H, W, 3] BGR. Raises ValueError if one of them is not an image."""
    return _decode(left), _decode(right)


def _decode(data: Data) -> Image:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"OpenCV could not decode {len(data)} bytes")
    return np.asarray(image, np.uint8)
