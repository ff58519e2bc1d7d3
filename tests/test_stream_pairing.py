"""Pairs by the nearest time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream.pairing import MAX_WAITING, MAX_WAITING_BYTES, TOLERANCE_NS, EyeName, Pairing, TimedImage

MS = 1_000_000


def shot(captured_ms: int, size: int = 1) -> TimedImage:
    return TimedImage(captured_ms * MS, bytes(size))


def paired(events: list[tuple[EyeName, int]]) -> tuple[list[tuple[int, int]], int]:
    """The pairs of these images, in milliseconds, and how many have none."""
    pairing = Pairing()
    pairs = [pair for side, at in events for pair in pairing.add(side, shot(at))] + pairing.end()
    return [(left.captured_ns // MS, right.captured_ns // MS) for left, right in pairs], pairing.unpaired


def test_each_image_has_the_nearest_partner_within_the_tolerance() -> None:
    events: list[tuple[EyeName, int]] = [
        ("left", 0),
        ("right", 3),
        ("left", 5),
        ("right", 40),
        ("left", 61),
        ("right", 80),
    ]
    assert paired(events) == ([(5, 3), (61, 80)], 2)


def test_images_at_one_time_are_a_pair_at_once() -> None:
    pairing = Pairing()
    assert pairing.add("right", shot(7)) == []
    assert pairing.add("left", shot(7)) == [(shot(7), shot(7))]


def test_an_image_older_than_its_side_has_no_partner() -> None:
    assert paired([("left", 10), ("left", 4), ("right", 4), ("right", 10)]) == ([(10, 10)], 2)


def test_what_waits_is_bounded_in_number_and_in_bytes() -> None:
    for size, most in ((1, MAX_WAITING), (MAX_WAITING_BYTES // 4, 4), (2 * MAX_WAITING_BYTES, 1)):
        pairing = Pairing()
        image = bytes(size)
        for at in range(MAX_WAITING + 6):
            assert pairing.add("left", TimedImage(at, image)) == []
        assert pairing.unpaired == MAX_WAITING + 6 - most


@given(st.lists(st.tuples(st.sampled_from(["left", "right"]), st.integers(0, 25)), max_size=60))
def test_whatever_comes_every_image_is_in_one_pair_or_counted(steps: list[tuple[EyeName, int]]) -> None:
    now = {"left": 0, "right": 0}
    events: list[tuple[EyeName, int]] = []
    for side, step in steps:
        now[side] += step
        events.append((side, now[side]))
    pairs, unpaired = paired(events)
    assert 2 * len(pairs) + unpaired == len(events)
    assert pairs == sorted(pairs)
    assert all(abs(left - right) * MS <= TOLERANCE_NS for left, right in pairs)
