"""Writes steps and probes as TensorBoard event files too.

A file is a row of records (TFRecord): the length, 8 bytes little-endian, its checksum, the data, their checksum. The data are an
`Event` in protobuf: wall time, step, and a `Summary` of scalars. Our own writer, because tensorboardX hands events to a thread
that dies with a full disk, after which the trainer waits for ever; TensorBoard's own needs gRPC and much else.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from learner.runs.reading import Line, is_number

log = logging.getLogger(__name__)

_POLYNOMIAL = 0x82F63B78  # CRC-32C, reflected
_MASK = 0xA282EAD8  # a checksum of data that hold checksums is weak: so they are stored masked


def _entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_TABLE = tuple(map(_entry, range(256)))


class EventFiles:
    """Appends the lines of a run to an event file in `folder`, which is made with the first line.

    A disk that refuses it is logged, and the run goes on. clock: seconds since 1970.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock
        self._path: Path | None = None
        self._missing = 0

    def write(self, name: str, line: Line) -> None:
        """Write the finite numbers of a line of `name`.jsonl, as `step/loss`, `digits/student/knn` or `stream/student/right`."""
        prefix = "step"
        if name != "steps":
            prefix = f"{line['set'] if name == 'probes' else 'stream'}/{line['encoder']}"
        numbers = {key: value for key, value in line.items() if key != "step" and is_number(value)}
        summary = b"".join(_scalar(f"{prefix}/{key}", value) for key, value in numbers.items())
        try:
            if self._path is None:
                self._path = self._begin(line["step"] + (name != "steps"))
            self._append(self._path, self._event(line["step"], _field(5, summary)))
        except OSError as error:
            self._missing += 1
            if self._missing & (self._missing - 1) == 0:  # the 1st, 2nd, 4th, ...
                log.warning("%s: %d lines are missing there so far: %s", self._folder, self._missing, error)

    def _begin(self, step: int) -> Path:
        """Begin a file. TensorBoard then forgets what earlier files say of `step` and later: the run was taken back to there."""
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"events.out.tfevents.{int(self._clock()):010}.babyagent"
        start = b"\x08\x01"  # SessionLog.status START
        self._append(path, self._event(0, _field(3, b"brain.Event:2")), self._event(step, _field(7, start)))
        return path

    def _append(self, path: Path, *events: bytes) -> None:
        with path.open("ab", buffering=0) as file:
            end, data = file.tell(), b"".join(map(_record, events))
            if file.write(data) < len(data):
                file.truncate(end)  # a torn record hides all that follow
                raise OSError("the disk is full")

    def _event(self, step: int, content: bytes) -> bytes:
        return b"\x09" + struct.pack("<d", self._clock()) + b"\x10" + _varint(step) + content


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of some bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _checksum(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF)


def _scalar(tag: str, value: float) -> bytes:
    single = struct.pack("<f", max(-3.4e38, min(3.4e38, value)))
    return _field(1, _field(1, tag.encode()) + b"\x15" + single)


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    return bytes(_septets(number))


def _septets(number: int) -> Iterator[int]:
    while number > 0x7F:
        yield number & 0x7F | 0x80
        number >>= 7
    yield number
