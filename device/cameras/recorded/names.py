"""What the names of image files say: their order, their times, and which two belong together. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_DIGITS = re.compile(r"(\d+)")
_EYE = re.compile(r"left|right|(?<![a-z])(?:[lr](?![a-z])|(?:cam(?:era)?|infra)[_-]?\d{1,2}(?![a-z\d]))")
"""What names the eye in the name of a file: left_0001, R-0001, cam1_0001, aachen_000019_leftImg8bit."""
_WHOLE = re.compile(r"(?<!\d)(?:\d{19}|\d{16}|\d{13})(?!\d)")
"""Nanoseconds, microseconds or milliseconds since 1970."""
_SPLIT = re.compile(r"(?<!\d)(\d{10})(?:[._-](\d{9}|\d{6}|\d{3})|\.(\d{1,9}))(?!\d)")
"""Seconds since 1970 and their fraction."""
_SECONDS = re.compile(r"(\d{1,9})\.(\d{3,9})")
"""Seconds since any moment, which only a whole name can be."""
_FROM_NS, TO_NS = 631_152_000 * 10**9, 4_102_444_800 * 10**9
"""1990 and 2100: other numbers are no times since 1970."""


def is_image(name: str) -> bool:
    """Return whether a file with this name is an image; what macOS and other systems hide is none."""
    return PurePath(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def natural_order(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return a sort key by which numbers stand in their order: frame2 before frame10."""
    parts = _DIGITS.split(name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], name


def times_ns(names: Sequence[str]) -> dict[str, int] | None:
    """Return the time in nanoseconds that each name holds; None unless all hold one, and no two the same.

    A name may hold seconds, milliseconds, microseconds or nanoseconds since 1970 beside other words, as in EuRoC, or be
    seconds with decimals, as in TUM.
    """
    for read in (_since_1970, _since_any):
        found = {name: read(PurePath(name).stem) for name in names}
        times = {name: ns for name, ns in found.items() if ns is not None}
        if len(times) == len(found) and len(set(times.values())) == len(times):
            return times
    return None


def matched(left: Sequence[str], right: Sequence[str]) -> list[tuple[str, str]]:
    """Return the names that belong together, in natural order.

    There are three ways to compare names: as they are, without the suffix and the zeros before a number, and also without the
    word that names the eye. The way that finds most pairs counts; of ways that find as many, the strictest.
    """
    ways: tuple[Callable[[str], str], ...] = (str, _bare, _without_eye)
    found = max((_matched(left, right, way) for way in ways), key=len)
    return sorted(found, key=lambda pair: natural_order(pair[0]))


def _matched(left: Sequence[str], right: Sequence[str], way: Callable[[str], str]) -> list[tuple[str, str]]:
    one, other = _by_key(left, way), _by_key(right, way)
    return [(name, other[key]) for key, name in one.items() if key in other]


def _by_key(names: Sequence[str], way: Callable[[str], str]) -> Mapping[str, str]:
    """Return the names by their keys, without those whose key is also that of another one."""
    count = Counter(map(way, names))
    return {way(name): name for name in names if count[way(name)] == 1}


def _bare(name: str) -> str:
    return _DIGITS.sub(lambda digits: str(int(digits[0])), PurePath(name).stem.lower())


def _without_eye(name: str) -> str:
    return _bare(f"{_EYE.sub('', PurePath(name).stem.lower())}.")


def _since_1970(stem: str) -> int | None:
    whole, split = _WHOLE.findall(stem), [match.groups() for match in _SPLIT.finditer(stem)]
    found = [int(digits) * 10 ** (19 - len(digits)) for digits in whole]
    found += [int(seconds + (fraction or decimals).ljust(9, "0")) for seconds, fraction, decimals in split]
    return found[0] if len(found) == 1 and _FROM_NS <= found[0] < TO_NS else None


def _since_any(stem: str) -> int | None:
    seconds = _SECONDS.fullmatch(stem)
    return int(seconds[1] + seconds[2].ljust(9, "0")) if seconds else None
