"""A line of text that ends with its checksum, so that a flipped bit or a torn line is noticed."""

from __future__ import annotations

import zlib


def to_line(text: str) -> bytes:
    """Return the line for an ASCII text without spaces."""
    data = text.encode("ascii")
    return b"%b %08x\n" % (data, zlib.crc32(data))


def from_line(line: bytes) -> str | None:
    """Return the text of the first line; None if the line is damaged. Whatever follows the line is ignored."""
    data, _, checksum = line.partition(b"\n")[0].partition(b" ")
    return data.decode("ascii", "replace") if checksum == b"%08x" % zlib.crc32(data) else None
