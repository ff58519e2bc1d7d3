"""Pairs by the nearest time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream.pairing import (
    MAX_NAMES,
    MAX_WAITING,
    MAX_WAITING_BYTES,
    ROUNDING_NS,
    STEP_BACK_NS,
    EyeName,
    Pairing,
    TimedImage,
    Unpaired,
    half_frame_ns,
    interval_ns,
)

MS = 1_000_000


def shot(captured_ms: int, size: int = 1) -> TimedImage:
    return TimedImage(captured_ms * MS, bytes(size))


def paired(
    events: list[tuple[EyeName, int]], tolerance_ms: int | None = 20, interval_ms: int = 0
) -> tuple[list[tuple[int, int]], int]:
    """The pairs of these images, in milliseconds, and how many have none."""
    pairing = Pairing[TimedImage](None if tolerance_ms is None else tolerance_ms * MS, interval_ns=interval_ms * MS)
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
    pairing = Pairing[TimedImage]()
    assert pairing.add("right", shot(7)) == []
    assert pairing.add("left", shot(7)) == [(shot(7), shot(7))]


def test_an_image_older_than_its_side_has_no_partner() -> None:
    assert paired([("left", 10), ("left", 4), ("right", 4), ("right", 10)]) == ([(10, 10)], 2)


def test_what_waits_is_bounded_in_number_and_in_bytes() -> None:
    for size, most in ((1, MAX_WAITING), (MAX_WAITING_BYTES // 4, 4), (2 * MAX_WAITING_BYTES, 1)):
        pairing = Pairing[TimedImage]()
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
    assert all(abs(left - right) <= 20 for left, right in pairs)


def rig(left_ms: float, right_ms: float, *, shift_ms: float = 0, seconds: int = 4) -> list[tuple[EyeName, int]]:
    """Images of two free running eyes in the order of time, whose right one is shifted."""
    lefts: list[tuple[float, EyeName]] = [(k * left_ms, "left") for k in range(int(seconds * 1000 / left_ms))]
    rights: list[tuple[float, EyeName]] = [
        (k * right_ms + shift_ms, "right") for k in range(int(seconds * 1000 / right_ms))
    ]
    return [(eye, round(at)) for at, eye in sorted([*lefts, *rights])]


@given(
    period_ms=st.sampled_from([10, 1000 / 30, 40, 100, 500]),
    shift=st.floats(0, 1),
    interval_known=st.booleans(),
)
def test_by_default_eyes_of_one_rate_are_paired_whatever_their_shift_is(
    period_ms: float, shift: float, interval_known: bool
) -> None:
    events = rig(period_ms, period_ms, shift_ms=shift * period_ms)
    pairs, unpaired = paired(events, None, int(period_ms) if interval_known else 0)
    assert all(abs(left - right) * MS <= half_frame_ns(round(period_ms * MS)) + ROUNDING_NS for left, right in pairs)
    if abs(shift - 0.5) > 0.1:  # at exactly half a frame the rounded times decide
        assert unpaired <= 2, "one at either end"


def test_by_default_the_tolerance_is_half_of_the_shorter_interval() -> None:
    pairs, unpaired = paired(rig(100, 40), None)
    assert (
        pairs == [(at, round(at / 40) * 40 if at % 40 != 20 else at - 20) for at in range(0, 4000, 100)][: len(pairs)]
    )
    assert len(pairs) == 40
    assert unpaired == 60


def test_a_lost_image_costs_one_pair_and_shifts_no_other() -> None:
    events = [(eye, at) for eye, at in rig(100, 100, shift_ms=30) if (eye, at) != ("right", 330)]
    assert paired(events, None) == ([(at, at + 30) for at in range(0, 4000, 100) if at != 300], 1)


def test_two_single_images_that_are_near_are_a_pair() -> None:
    assert paired([("left", 0), ("right", 15)], None) == ([(0, 15)], 0)
    assert paired([("left", 0), ("right", 25)], None) == ([], 2)


def test_with_a_known_interval_near_images_are_a_pair_at_once() -> None:
    for apart_ms, certain in ((5, True), (30, False)):
        pairing = Pairing[TimedImage](interval_ns=33 * MS)
        assert pairing.add("left", shot(100)) == []
        assert bool(pairing.add("right", shot(100 + apart_ms))) is certain


def test_a_clock_that_is_set_back_costs_only_what_waits() -> None:
    before, after = rig(100, 100), [(eye, at + 10_000) for eye, at in rig(100, 100)]
    pairs, unpaired = paired([*after, ("left", 14_000), *before], None)
    assert len(pairs) == 80
    assert unpaired == 1
    assert STEP_BACK_NS < 6000 * MS


def test_what_has_no_partner_is_handed_over_counted_and_named() -> None:
    unpaired = Unpaired()
    assert unpaired.describe() == ""
    pairing = Pairing[TimedImage](
        5 * MS, on_unpaired=lambda eye, image: unpaired.add(eye, f"{image.captured_ns // MS}")
    )
    for at in (0, 10, 20, 30, 40, 50, 60):
        pairing.add("left", shot(at))
    pairing.add("right", shot(60))
    pairing.add("right", shot(70))
    pairing.end()
    assert pairing.unpaired == 7
    assert unpaired.counts == {"left": 6, "right": 1}
    assert unpaired.describe() == "left 6 (0, 10, 20, 30, ...), right 1 (70)"
    assert MAX_NAMES == 4


def test_the_interval_of_an_eye_is_the_median_so_that_a_lost_image_does_not_count() -> None:
    assert interval_ns([0, 10, 20, 40, 50]) == 10
    assert interval_ns([5, 5]) is None
    assert interval_ns([]) is None
