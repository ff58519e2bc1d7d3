"""Streams of pairs with which clips are tested."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import msgspec
from tiny_learner import make_pair

from learner.memory.config import MemoryConfig
from learner.memory.decoding import decode_onto
from learner.memory.memory import Draw
from stream.pair import EncodedPair, Header, StereoPair

SECOND_NS = 10**9
SMALL = MemoryConfig(capacity=12, fresh_capacity=9, canvas=(8, 8), clip=3, stalest_share=0.2)


def pair_at(
    seq: int, seconds: float, device: str = "baby", epoch: str = "b" * 32, shown: int | None = None
) -> EncodedPair:
    """A pair with a picture that `shown`, or else its seq, decides."""
    pair = make_pair(seq if shown is None else shown)
    ns = round(seconds * SECOND_NS)
    header = msgspec.structs.replace(pair.header, device=device, epoch=epoch, seq=seq, left_ns=ns, right_ns=ns)
    return EncodedPair(header, pair.left, pair.right)


def undecodable(pair: EncodedPair) -> EncodedPair:
    return replace(pair, left=b"no image")


def stream(seed: int, count: int, *, bad: float = 0.0) -> list[EncodedPair]:
    """Pairs of three rigs with restarts, lost and late pairs, pauses, clocks that are set back, and some that do not decode."""
    draw = random.Random(seed)
    rigs = {name: (f"{draw.getrandbits(128):032x}", 0, 0.0) for name in ("a", "b", "c")}
    sent: list[EncodedPair] = []
    late: list[EncodedPair] = []
    for number in range(count):
        name = draw.choice("aaabbc")
        epoch, seq, seconds = rigs[name]
        if draw.random() < 0.02:
            epoch, seq = f"{draw.getrandbits(128):032x}", 0
        seconds += draw.choice([0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 2.0, -0.05, 0.0])
        rigs[name] = epoch, seq + 1, seconds
        pair = pair_at(seq, 100 + seconds, name, epoch, number)
        pair = undecodable(pair) if draw.random() < bad else pair
        fate = draw.random()
        if fate < 0.1:
            late.append(pair)
        elif fate > 0.04 + 0.1:
            sent.append(pair)
        if late and draw.random() < 0.1:
            sent += late
            late = []
    return sent + late


def follows(before: Header, after: Header, max_gap_s: float) -> bool:
    near = 0 <= after.left_ns - before.left_ns <= max_gap_s * SECOND_NS
    return near and (after.device, after.epoch, after.seq) == (before.device, before.epoch, before.seq + 1)


# --- memory of clips


def shown(key: int) -> StereoPair:
    return decode_onto(SMALL.canvas, pair_at(key, key / 10))


def clips_in(draw: Draw) -> list[list[int]]:
    """The keys of each clip of a draw."""
    assert draw.clips is not None
    rows = zip(draw.clips.tolist(), draw.keys.tolist(), strict=True)
    return [[key for _, key in group] for _, group in itertools.groupby(rows, lambda row: row[0])]
