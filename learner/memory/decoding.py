"""Pairs decoded onto the canvas of memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

from learner.memory.canvas import on_canvas
from stream.codec import decode
from stream.errors import MalformedMessage
from stream.pair import EncodedPair, StereoPair

DECODED_AT_ONCE = 64
"""Pairs that are held while they are decoded."""


def decode_onto(canvas: tuple[int, int], pair: EncodedPair) -> StereoPair:
    """Decode a pair and squeeze both images onto the canvas. Raises MalformedMessage where it does not decode."""
    decoded = decode(pair)
    left, right = (on_canvas(image, canvas) for image in (decoded.left, decoded.right))
    return StereoPair(pair.header, left, right, decoded.telemetry)


def decode_or_none(canvas: tuple[int, int], pair: EncodedPair | None) -> StereoPair | None:
    """Do the same, but return None for a pair that does not decode, and for None."""
    try:
        return None if pair is None else decode_onto(canvas, pair)
    except MalformedMessage:
        return None


def decode_all(canvas: tuple[int, int], pairs: Iterable[EncodedPair | None]) -> Iterator[StereoPair | None]:
    """Decode pairs on all cores, in their order, each as `decode_or_none` does."""
    rest = iter(pairs)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        while some := list(islice(rest, DECODED_AT_ONCE)):
            yield from pool.map(partial(decode_or_none, canvas), some)
