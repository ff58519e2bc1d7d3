"""The rows of signals in our own recordings: one message each, at its own time, in a topic `/signals/NAME`.

So PlotJuggler and the plots of Foxglove draw them as they are: `values[0]`, `values[1]` ... over the log time. A row has the
number of its pair, with which it is put back when the recording is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from google.protobuf.message import DecodeError

from stream.recording.mcap_reader import Message
from stream.recording.payload import protobuf_schema
from stream.recording.protobuf import message_class
from stream.signals.signal import MAX_ROWS, MAX_SIGNALS, MAX_WIDTH, NAME, BadSignal, Signal, check

TOPIC = re.compile(rf"(?P<rig>.*)/signals/(?P<name>{NAME.pattern})")
MAX_TOPICS = 1024
"""Signals of one file. A stream whose names change with every pair would otherwise need a topic for each."""
HELD_PAIRS = 8
"""Rows of so many pairs wait for the rest of their pairs: another tool may have sorted the messages of several rigs by time."""
_MAX_BYTES = 8 * MAX_WIDTH + 256
_Row = message_class("babyagent.Signal", {"values": "doubles", "unit": "string"})
SIGNAL = protobuf_schema(_Row)


def row_messages(signal: Signal) -> Iterator[tuple[int, bytes]]:
    """Yield time and content of the message of each row."""
    for time_ns, values in zip(signal.times_ns.tolist(), signal.values.tolist(), strict=True):
        yield time_ns, _Row(values=values, unit=signal.unit).SerializeToString()


class RowsOfPairs:
    """Collects the rows of pairs until these are complete."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[str, int], dict[str, list[tuple[int, list[float], str]]]] = {}

    def add(self, message: Message, rig: str, name: str) -> None:
        """Add a row. Raises ValueError if it does not decode, or if its pair has more than a pair can have."""
        if len(message.data) > _MAX_BYTES:
            raise ValueError(f"a row of {len(message.data)} bytes is out of bounds")
        try:
            row = _Row.FromString(bytes(message.data))
        except DecodeError as error:
            raise ValueError(f"the row does not decode: {error}") from error
        key = (rig, message.sequence)
        if key not in self._pairs and len(self._pairs) >= HELD_PAIRS:
            del self._pairs[next(iter(self._pairs))]
        signals = self._pairs.setdefault(key, {})
        if (name not in signals and len(signals) >= MAX_SIGNALS) or len(signals.get(name, ())) >= MAX_ROWS:
            raise ValueError("a pair has too many signals or rows")
        signals.setdefault(name, []).append((message.time_ns, list(row.values), row.unit))

    def take(self, rig: str, sequence: int, pair_ns: int, expected: int) -> tuple[dict[str, Signal], int]:
        """Return the signals of a pair, and how many of them are not as they were recorded.

        expected: number of its rows. A signal that is not valid is left out.
        """
        signals, wrong, found = {}, 0, 0
        for name, rows in self._pairs.pop((rig, sequence), {}).items():
            times_ns, values, units = zip(*rows, strict=True)
            try:
                signal = Signal(values, times_ns, units[0])
                check(name, signal, pair_ns)
            except BadSignal:
                wrong += 1
            else:
                signals[name] = signal
                found += len(rows)
        return signals, wrong or int(found != expected)
