"""Pairs of free running cameras, over fakes whose frames have given times and which start one after the other."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from itertools import count, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.camera import BadShot, CameraMissing, EyeImage, Shot
from device.cameras.live import Frame, PairedCamera, SplitCamera, split

MS = 1_000_000
FRAME_MS = 1000 / 30


class FakeEye:
    """Gives frames at given times of a clock that starts at 0; `events` are times in ms, or what is raised in their place."""

    def __init__(self, events: Iterator[float | Exception]) -> None:
        self.events = events
        self.held = self.most_held = 0
        self.closed = False

    def take(self) -> Frame:
        event = next(self.events, CameraMissing("the end"))
        if isinstance(event, Exception):
            raise event
        self.held += 1
        self.most_held = max(self.most_held, self.held)
        return Frame(round(event * MS), lambda at_ns: EyeImage(at_ns, np.zeros((4, 6), np.uint8)), self.release, 24)

    def release(self) -> None:
        self.held -= 1

    def close(self) -> None:
        self.closed = True


def times_ms(start_ms: float = 0, shift_ms: float = 0, period_ms: float = FRAME_MS) -> Iterator[float]:
    """The times of a camera that starts at `start_ms`."""
    return (at_ms for number in count() if (at_ms := number * period_ms + shift_ms) >= start_ms)


def taken(left: FakeEye, right: FakeEye, limit: int = 60, fps: float | None = 30) -> list[Shot | BadShot]:
    camera = PairedCamera("fake:0,1", [left, right], fps=fps, now_ns=lambda: 0)
    shots = iter(camera)
    found = list(islice(shots, limit))
    shots.close()  # type: ignore[attr-defined]
    assert left.held == right.held == 0, "every buffer is given back"
    return found


def skews_ms(shots: list[Shot | BadShot]) -> list[float]:
    return [abs(shot.right.captured_ns - shot.left.captured_ns) / MS for shot in shots if isinstance(shot, Shot)]


@given(
    shift=st.floats(0, 1),
    late_ms=st.floats(0, 2000),
    late_eye=st.sampled_from(["left", "right"]),
    fps=st.sampled_from([30.0, None, 10.0]),
)
@settings(max_examples=50)
def test_cameras_that_start_one_after_the_other_are_paired_by_the_nearest_time(
    shift: float, late_ms: float, late_eye: str, fps: float | None
) -> None:
    starts = (late_ms, 0.0) if late_eye == "left" else (0.0, late_ms)
    left, right = FakeEye(times_ms(starts[0])), FakeEye(times_ms(starts[1], shift * FRAME_MS))
    skews = skews_ms(taken(left, right, limit=30, fps=fps))
    assert len(skews) == 30
    first = 1 if fps == 10.0 else 0  # a rate that is stated too low is noticed after the first pair
    assert max(skews[first:]) <= min(shift, 1 - shift) * FRAME_MS + 0.01


def test_no_frame_is_used_twice_and_the_order_is_kept() -> None:
    shots = taken(FakeEye(times_ms()), FakeEye(times_ms(period_ms=FRAME_MS * 0.7)))
    for eye in ("left", "right"):
        stamps = [getattr(shot, eye).captured_ns for shot in shots]
        assert stamps == sorted(set(stamps))
    assert max(skews_ms(shots)) <= FRAME_MS / 2 + 1


def test_an_eye_that_stops_ends_the_camera_and_gives_back_what_was_taken() -> None:
    left, right = FakeEye(times_ms()), FakeEye(islice(times_ms(), 5))
    camera = PairedCamera("fake:0,1", [left, right], fps=30, now_ns=lambda: 0)
    with pytest.raises(CameraMissing, match="the end"):
        list(camera)
    assert left.held == right.held == 0
    camera.close()
    assert left.closed
    assert right.closed


def test_a_frame_that_cannot_be_had_is_a_bad_shot_and_costs_no_later_pair() -> None:
    right = (BadShot("torn") if at_ms == pytest.approx(5 * FRAME_MS) else at_ms for at_ms in times_ms())
    shots = taken(FakeEye(times_ms()), FakeEye(right), limit=20)
    assert [index for index, shot in enumerate(shots) if isinstance(shot, BadShot)] == [5]
    assert max(skews_ms(shots)) == 0


def test_an_image_without_a_partner_is_named_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        taken(FakeEye(times_ms()), FakeEye(times_ms(period_ms=FRAME_MS / 2)))
    assert "fake:0,1: an image of the right eye has no partner within half a frame" in caplog.text
    assert len(caplog.records) == 1
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        taken(FakeEye(times_ms()), FakeEye(times_ms(start_ms=500)))
    assert not caplog.records, "one of the two starts first; that is no loss"


def test_both_eyes_are_moved_to_the_same_clock_also_when_it_is_set_between_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jumps = count(10**18, 3600 * 10**9)
    monkeypatch.setattr(time, "time_ns", lambda: next(jumps))
    assert set(skews_ms(taken(FakeEye(times_ms()), FakeEye(times_ms())))) == {0}


def test_every_eye_is_closed_also_when_one_fails_to_close() -> None:
    left, right = FakeEye(times_ms()), FakeEye(times_ms())
    left.close = lambda: (_ for _ in ()).throw(OSError("gone"))  # type: ignore[method-assign]
    with pytest.raises(OSError, match="gone"):
        PairedCamera("fake:0,1", [left, right], fps=30).close()
    assert right.closed


def test_an_image_with_an_odd_side_cannot_be_split() -> None:
    eye = FakeEye(iter([0.0, 33.0]))
    (first, *_) = islice(SplitCamera(eye, "tb", fps=30, now_ns=lambda: 0), 1)
    assert isinstance(first, Shot)
    assert first.left.shape() == (2, 6, 1)
    assert eye.held == 0
    with pytest.raises(BadShot, match="7x4 has no two equal halves"):
        split(EyeImage(0, np.zeros((4, 7), np.uint8)), "sbs")
    with pytest.raises(BadShot):
        split(EyeImage(0, jpeg=b"\xff\xd8\xff cut off"), "sbs")
