"""A line of text that ends with its checksum, so that a flipped bit or a torn line is noticed."""

from __future__ import annotations

import zlib


def to_line(text: str) -> bytes:
    """Return an ASCII text without spaces as a line with its checksum."""
    data = text.encode("ascii")
    return b"%b %08x\n" % (data, zlib.crc32(data))


def from_line(line: bytes) -> str | None:
    """Return the text of the first line, or None if the line is damaged. Bytes after the line are ignored."""
    data, _, checksum = line.partition(b"\n")[0].partition(b" ")
    return data.decode("ascii", "replace") if checksum == b"%08x" % zlib.crc32(data) else None
