"""Sets of integers as half-open ranges: the numbers of a year of pairs with three holes need only four ranges."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Ranges:
    """A set of integers, kept as sorted, disjoint ranges [a, b) that do not touch.

    Operations take logarithmic time in their number.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._first: list[int] = []
        self._last: list[int] = []
        for first, last in ranges:
            self.add(first, last)

    def __contains__(self, number: object) -> bool:
        if not isinstance(number, int):
            return False
        at = bisect_right(self._first, number) - 1
        return at >= 0 and number < self._last[at]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield the ranges [a, b), in order."""
        return zip(self._first, self._last, strict=True)

    def __len__(self) -> int:
        """Return the number of ranges; `count` is the number of integers."""
        return len(self._first)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    @property
    def count(self) -> int:
        """The number of integers in the set."""
        return sum(self._last) - sum(self._first)

    @property
    def end(self) -> int:
        """One past the largest number, 0 if there is none."""
        return self._last[-1] if self._last else 0

    def add(self, first: int, last: int) -> int:
        """Add [first, last); return how many of these numbers are new."""
        if first >= last:
            return 0
        new = last - first - self.overlap(first, last)
        begin, end = bisect_left(self._last, first), bisect_right(self._first, last)
        if begin < end:
            first, last = min(first, self._first[begin]), max(last, self._last[end - 1])
        self._first[begin:end], self._last[begin:end] = [first], [last]
        return new

    def remove(self, first: int, last: int) -> None:
        """Remove [first, last)."""
        if first >= last:
            return
        begin, end = bisect_right(self._last, first), bisect_left(self._first, last)
        if begin >= end:
            return
        kept = [(a, b) for a, b in ((self._first[begin], first), (last, self._last[end - 1])) if a < b]
        self._first[begin:end], self._last[begin:end] = [a for a, _ in kept], [b for _, b in kept]

    def overlap(self, first: int, last: int) -> int:
        """Return how many numbers of [first, last) are in the set."""
        if first >= last:
            return 0
        begin, end = bisect_right(self._last, first), bisect_left(self._first, last)
        return sum(min(last, self._last[at]) - max(first, self._first[at]) for at in range(begin, end))

    def missing(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges of [first, last) that are not in the set, in order."""
        at = bisect_right(self._last, first)
        while first < last:
            begin, end = (self._first[at], self._last[at]) if at < len(self._first) else (last, last)
            if first < begin:
                yield first, min(begin, last)
            first, at = max(first, end), at + 1

    def reach(self, start: int) -> int:
        """Return the first number from `start` on that is not in the set."""
        at = bisect_right(self._first, start) - 1
        return max(start, self._last[at]) if at >= 0 else start
