"""A recording as a source: its order, its cursor and its pace."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from recorded import EPOCH, NEXT_EPOCH, made, reader_of, recorded, some, to_its_end

from stream.errors import EndOfStream, StreamError
from stream.pair import EncodedPair
from stream.recording.source import MAX_PAUSE_S, RecordingSource


@pytest.mark.parametrize("content", [b"not a recording", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(1000)])
def test_another_kind_of_file_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "walk.mcap"
    path.write_bytes(content)
    with pytest.raises(StreamError, match=r"^\S*walk.mcap: it is not an MCAP file$"):
        RecordingSource([path])


def test_a_file_that_cannot_be_read_is_refused_before_the_first_pair(tmp_path: Path) -> None:
    path = recorded(tmp_path / "walk.mcap", some(1))
    for other in (tmp_path / "none.mcap", tmp_path):
        with pytest.raises(StreamError, match=other.name):
            RecordingSource([path, other])


def test_an_empty_recording_has_no_pairs_which_is_an_error(tmp_path: Path) -> None:
    path = recorded(tmp_path / "walk.mcap", [])
    reader, pairs = reader_of(path.read_bytes())
    assert (pairs, reader.messages.cut) == ([], False)
    with pytest.raises(StreamError, match=r"walk\.mcap: there is no message in it"):
        RecordingSource([path]).receive(1, 0.0)


def test_recordings_are_given_one_after_the_other_and_no_pair_twice(tmp_path: Path) -> None:
    first = recorded(tmp_path / "walk.mcap", some(6))
    second = recorded(tmp_path / "walk-2.mcap", some(10)[4:] + some(3, epoch=NEXT_EPOCH))
    assert to_its_end(RecordingSource([first, second, first])) == some(10) + some(3, epoch=NEXT_EPOCH)


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_as_a_source_it_gives_at_most_what_is_asked_and_stays_ended(tmp_path: Path, limit: int) -> None:
    path = recorded(tmp_path / "walk.mcap", some(7))
    source = RecordingSource([path])
    counts = []
    for expected in [some(7)[begin : begin + limit] for begin in range(0, 7, limit)]:
        assert source.receive(limit, 0.0) == expected
        counts.append(len(expected))
    assert sum(counts) == 7
    assert source.backlog() == 0
    for _ in range(2):
        with pytest.raises(EndOfStream):
            source.receive(1, 0.0)


def test_a_source_closed_before_its_end_gives_no_more(tmp_path: Path) -> None:
    source = RecordingSource([recorded(tmp_path / "walk.mcap", some(7))])
    assert source.receive(2, 0.0) == some(2)
    source.close()
    source.close()
    with pytest.raises(EndOfStream):
        source.receive(1, 0.0)


def test_a_source_goes_on_behind_the_cursor_of_another(tmp_path: Path) -> None:
    pairs = [pair for seq in range(9) for pair in (made(seq), made(seq, device="toddler"))]
    files = [recorded(tmp_path / "a.mcap", pairs[:7]), recorded(tmp_path / "b.mcap", pairs[7:])]
    for count in range(len(pairs) + 1):
        source = RecordingSource(files)
        before = [source.receive(1, 0.0)[0] for _ in range(count)]
        cursor = json.loads(json.dumps(source.cursor()))
        source.acknowledge(cursor)
        after = to_its_end(RecordingSource(files, cursor=cursor))
        assert before + after == pairs


def test_a_cursor_does_not_name_what_was_only_looked_at(tmp_path: Path) -> None:
    now_s = [0.0]
    path = recorded(tmp_path / "walk.mcap", some(3))
    source = RecordingSource([path], speed=1.0, clock=lambda: now_s[0], sleep=lambda _: None)
    assert source.receive(3, 0.0) == some(1)
    assert to_its_end(RecordingSource([path], cursor=source.cursor())) == some(3)[1:]


@pytest.mark.parametrize("cursor", [{}, {"given": 3}, {"devices": {"baby": {EPOCH: [[0, -1]]}}}, {"devices": [1]}])
def test_a_cursor_of_something_else_is_refused(tmp_path: Path, cursor: dict[str, object]) -> None:
    path = recorded(tmp_path / "walk.mcap", some(1))
    with pytest.raises(ValueError, match="cursor"):
        RecordingSource([path], cursor=cursor)


class FakeTime:
    """A clock that only sleep moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds


def due_times(path: Path, speed: float) -> list[float]:
    """When each pair is given, from the first one on."""
    time = FakeTime()
    source = RecordingSource([path], speed=speed, clock=time.clock, sleep=time.sleep)
    times: list[float] = []
    try:
        while True:
            pairs = source.receive(5, 0.25)
            times += [time.now_s] * len(pairs)
    except EndOfStream:
        return [round(at - times[0], 6) for at in times]


@pytest.mark.parametrize("speed", [0.5, 1.0, 10.0])
def test_pairs_come_at_the_pace_of_their_capture(tmp_path: Path, speed: float) -> None:
    path = recorded(tmp_path / "walk.mcap", [made(seq, step_ns=10**9) for seq in (0, 1, 2, 6, 7)])
    assert due_times(path, speed) == [round(second / speed, 6) for second in (0, 1, 2, 6, 7)]


def test_long_pauses_clocks_that_jump_and_the_time_between_epochs_are_left_out(tmp_path: Path) -> None:
    pause = int(MAX_PAUSE_S) + 1
    seconds = [(0, EPOCH), (1, EPOCH), (1 + pause, EPOCH), (2 + pause, EPOCH), (5, EPOCH), (6, EPOCH), (0, NEXT_EPOCH)]
    pairs = []
    for number, (second, epoch) in enumerate(seconds):
        pair = made(second, epoch=epoch, step_ns=10**9)
        pairs.append(EncodedPair(msgspec.structs.replace(pair.header, seq=number), pair.left, pair.right))
    assert due_times(recorded(tmp_path / "walk.mcap", pairs), 1.0) == [0, 1, 1, 2, 2, 3, 3]


def test_a_paced_receive_waits_no_longer_than_it_may(tmp_path: Path) -> None:
    path = recorded(tmp_path / "walk.mcap", [made(seq, step_ns=10**9) for seq in range(2)])
    time = FakeTime()
    source = RecordingSource([path], speed=1.0, clock=time.clock, sleep=time.sleep)
    assert len(source.receive(5, 0.0)) == 1
    assert source.receive(5, 0.4) == []
    assert time.now_s == pytest.approx(100.4)
    assert len(source.receive(5, 10.0)) == 1
    assert time.now_s == pytest.approx(101.0)


@pytest.mark.parametrize("speed", [-1.0, float("inf"), float("nan")])
def test_a_speed_that_is_none_is_refused(tmp_path: Path, speed: float) -> None:
    with pytest.raises(ValueError, match="speed"):
        RecordingSource([recorded(tmp_path / "walk.mcap", some(1))], speed=speed)
