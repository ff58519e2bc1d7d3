"""Signals as they stand in the header part of a message: packed, and read with what is wrong left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import msgspec
import numpy as np

from stream.signals.signal import (
    MAX_BYTES,
    MAX_NAME,
    MAX_ROWS,
    MAX_SIGNALS,
    MAX_WIDTH,
    BadSignal,
    Signal,
    check,
    size_bytes,
)

Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME, pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?\Z")]
"""The name of an episode or a subject; "" if there is none."""
_encoder = msgspec.msgpack.Encoder()


class SignalParts(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A signal in a message. times: int64, values: float64 row by row, both little-endian."""

    name: str
    unit: str
    width: Annotated[int, msgspec.Meta(ge=1, le=MAX_WIDTH)]
    times: bytes
    values: bytes


_decoder = msgspec.msgpack.Decoder(SignalParts)


def pack(signals: Mapping[str, Signal], pair_ns: int) -> list[msgspec.Raw]:
    """Return signals as parts of a message. Raises BadSignal if one of them, or all together, cannot be sent."""
    if len(signals) > MAX_SIGNALS:
        raise BadSignal("names", f"{len(signals)} signals are more than the {MAX_SIGNALS} that a pair can have")
    for name, signal in signals.items():
        check(name, signal, pair_ns)
    if (size := sum(size_bytes(len(signal), signal.width) for signal in signals.values())) > MAX_BYTES:
        raise BadSignal("form", f"signals of {size} bytes are more than the {MAX_BYTES} that a pair can have")
    return [msgspec.Raw(_encoder.encode(_parts(name, signal))) for name, signal in signals.items()]


def unpack(
    packed: Sequence[msgspec.Raw], pair_ns: int, refuse: Callable[[BadSignal], None] = lambda error: None
) -> dict[str, Signal]:
    """Return the signals of a message by name; of one that is not valid nothing is used.

    The work is bounded: only the first MAX_SIGNALS are looked at. refuse: called for each that is left out, and once for all
    beyond the bound.
    """
    signals: dict[str, Signal] = {}
    for one in packed[:MAX_SIGNALS]:
        try:
            name, signal = _signal(one)
            check(name, signal, pair_ns)
            if name in signals:
                raise BadSignal("names", f"{name} comes twice")
        except BadSignal as error:
            refuse(error)
        else:
            signals[name] = signal
    if (more := len(packed) - MAX_SIGNALS) > 0:
        refuse(BadSignal("names", f"{more} signals are beyond the {MAX_SIGNALS} that a pair can have"))
    return signals


def _parts(name: str, signal: Signal) -> SignalParts:
    times, values = signal.times_ns.astype("<i8"), signal.values.astype("<f8")
    return SignalParts(name, signal.unit, signal.width, times.tobytes(), values.tobytes())


def _signal(packed: msgspec.Raw) -> tuple[str, Signal]:
    try:
        parts = _decoder.decode(packed)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadSignal("form", f"a signal does not decode: {error}") from error
    rows = len(parts.times) // 8
    if len(parts.times) != 8 * rows or len(parts.values) != 8 * rows * parts.width or rows > MAX_ROWS:
        sizes = f"{len(parts.times)} bytes of times, {len(parts.values)} of values, {parts.width} wide"
        raise BadSignal("form", f"{parts.name[:MAX_NAME]!r} has sizes that do not fit: {sizes}")
    times = np.frombuffer(parts.times, "<i8").astype(np.int64, copy=False)
    values = np.frombuffer(parts.values, "<f8").astype(np.float64, copy=False)
    return parts.name, Signal(values.reshape(rows, parts.width), times, parts.unit)
