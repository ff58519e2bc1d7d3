"""Signals for tests: strategies of valid ones, and pairs that carry them."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from hypothesis import strategies as st

from stream.codec import TOPIC, encode_pair
from stream.errors import MalformedMessage
from stream.pair import Codec, EncodedPair, HeaderWithTelemetry, checksum
from stream.signals.signal import MAX_ROWS, MAX_WIDTH, NOTHING, Signal, Telemetry
from stream.signals.wire import SignalParts

PAIR_NS = 1_800_000_000 * 10**9
EPOCH = "5" * 32
IMAGE = np.arange(24 * 32 * 3, dtype=np.uint8).reshape(24, 32, 3)
_finite = st.floats(allow_nan=False, allow_infinity=False)
_name = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True)
_unit = st.sampled_from(["", "m/s^2", "rad/s", "°C", "x" * 32])


@st.composite
def signal(draw: st.DrawFn, *, max_rows: int = MAX_ROWS) -> Signal:
    """A valid signal near PAIR_NS; the numbers are any that are finite, -0.0 and the smallest too."""
    rows, width = draw(st.integers(1, max_rows)), draw(st.sampled_from([1, 3, 7, MAX_WIDTH]))
    few = draw(st.lists(_finite, min_size=1, max_size=9))
    steps = draw(st.lists(st.integers(0, 10**9), min_size=1, max_size=5))
    times_ns = PAIR_NS - 10**9 + np.cumsum(np.resize(np.array(steps), rows))
    return Signal(np.resize(np.array(few), (rows, width)), times_ns, draw(_unit))


telemetry = st.builds(
    Telemetry,
    signals=st.dictionaries(_name, signal(max_rows=12), max_size=4),
    episode=st.one_of(st.just(""), _name),
    subject=st.one_of(st.just(""), _name),
)


def paired(
    beside: Telemetry = NOTHING, *, seq: int = 0, at_ns: int = PAIR_NS, device: str = "rig", codec: Codec = "lz4"
) -> EncodedPair:
    """A pair with telemetry."""
    moment: dict[str, Any] = {"left_ns": at_ns, "right_ns": at_ns}
    return encode_pair(IMAGE, IMAGE, device=device, epoch=EPOCH, seq=seq, codec=codec, telemetry=beside, **moment)


def unexpected(error: MalformedMessage) -> None:
    """Where no signal may be refused."""
    raise AssertionError(str(error))


def forged(pair: EncodedPair, signals: Sequence[object], *, episode: str = "") -> list[bytes]:
    """The message of a pair with signals that nobody has checked, under a checksum that is right."""
    raw = [msgspec.Raw(msgspec.msgpack.encode(one)) for one in signals]
    data = msgspec.msgpack.encode(HeaderWithTelemetry(header=pair.header, episode=episode, subject="", signals=raw))
    return [TOPIC, data + checksum(data), pair.left, pair.right]


def parts(name: str, rows: Mapping[int, Sequence[float]], *, width: int = 1, unit: str = "") -> SignalParts:
    """A signal as it stands in a message, packed by hand: rows by their time."""
    times = b"".join(struct.pack("<q", time_ns) for time_ns in rows)
    return SignalParts(name, unit, width, times, b"".join(struct.pack("<d", x) for row in rows.values() for x in row))
