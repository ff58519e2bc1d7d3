"""A line of text with its checksum behind it, so that a flipped bit or a torn line is not taken for another text."""

from __future__ import annotations

import zlib


def to_line(text: str) -> bytes:
    """The line of an ASCII text without spaces."""
    data = text.encode("ascii")
    return b"%b %08x\n" % (data, zlib.crc32(data))


def from_line(line: bytes) -> str | None:
    """The text; None where it is not what was written. What follows the line is not looked at."""
    data, _, checksum = line.partition(b"\n")[0].partition(b" ")
    return data.decode("ascii", "replace") if checksum == b"%08x" % zlib.crc32(data) else None
