"""Damage to files that may be read-only: a flipped bit, a lost tail."""

from __future__ import annotations

import os
from pathlib import Path


def flip_bit(path: Path, at: int, bit: int) -> None:
    """Flip a bit, 0 to 7, of the byte at this offset."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


def cut_off(path: Path, size_bytes: int) -> None:
    """Keep only so many bytes of a file."""
    path.chmod(0o644)
    os.truncate(path, size_bytes)
