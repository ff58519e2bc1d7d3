"""Ranges against the plain set they stand for."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from stream.ranges import Ranges

number = st.integers(0, 40)
changes = st.lists(st.tuples(st.booleans(), number, number), max_size=30)


def built(steps: list[tuple[bool, int, int]]) -> tuple[Ranges, set[int]]:
    ranges, model = Ranges(), set[int]()
    for adds, first, last in steps:
        numbers = set(range(first, last))
        if adds:
            assert ranges.add(first, last) == len(numbers - model)
            model |= numbers
        else:
            ranges.remove(first, last)
            model -= numbers
    return ranges, model


@settings(max_examples=500)
@given(changes, number, number)
def test_ranges_are_the_set_of_numbers_that_was_put_in_and_not_taken_out(
    steps: list[tuple[bool, int, int]], first: int, last: int
) -> None:
    ranges, model = built(steps)
    asked = set(range(first, last))
    assert {n for n in range(45) if n in ranges} == model
    assert {n for a, b in ranges for n in range(a, b)} == model
    assert ranges.count == len(model)
    assert ranges.end == max(model, default=-1) + 1
    assert ranges.overlap(first, last) == len(asked & model)
    assert {n for a, b in ranges.missing(first, last) for n in range(a, b)} == asked - model
    assert ranges.reach(first) == next(n for n in range(first, 90) if n not in model)


@given(changes)
def test_ranges_are_sorted_and_never_touch_so_that_they_stay_few(steps: list[tuple[bool, int, int]]) -> None:
    ranges, model = built(steps)
    ends = [end for pair in ranges for end in pair]
    assert ends == sorted(set(ends))
    assert len(ranges) == sum(n not in model and n + 1 in model for n in range(-1, 45))


@given(changes, number, number)
def test_a_copy_is_equal_and_changes_alone(steps: list[tuple[bool, int, int]], first: int, last: int) -> None:
    ranges, _ = built(steps)
    twin = Ranges(ranges)
    assert twin == ranges
    before = list(ranges)
    twin.add(first, last)
    twin.remove(5, 9)
    assert list(ranges) == before
