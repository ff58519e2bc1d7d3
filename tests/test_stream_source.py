"""The contract of Source, held by everything pairs come from.

A new source adds itself to SOURCES: a context manager that is given how many of its pairs to give and the cursor to go on
behind, and all of its pairs.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from link_steps import received
from memory_shelf import MemoryShelf
from waiting import until

from device.camera import BadShot, CameraSettings, Shot
from device.cameras.recorded.folders import open_folders
from device.capture import capture
from device.dedupe import Dedupe, DedupeConfig
from device.sim.camera import SimCamera, SimConfig
from stream.codec import encode_pair
from stream.errors import EndOfStream, StreamError
from stream.live.publisher import Publisher
from stream.live.subscriber import Subscriber
from stream.pair import EncodedPair
from stream.recording.source import RecordingSource
from stream.recording.writer import RecordingWriter
from stream.source import Cursor, IteratorSource, Source

EPOCH = "a" * 32
IMAGES = np.random.default_rng(0).integers(0, 256, (7, 2, 8, 12), dtype=np.uint8)
PAIRS = [
    encode_pair(left, right, device="baby", epoch=EPOCH, seq=seq, left_ns=seq, right_ns=seq, codec="lz4")
    for seq, (left, right) in enumerate(IMAGES)
]


JPEGS = [
    tuple(
        cv2.imencode(".jpg", np.random.default_rng([seq, eye]).integers(0, 256, (48, 64, 3), np.uint8))[1].tobytes()
        for eye in (0, 1)
    )
    for seq in range(7)
]
FOLDER_PAIRS = [
    encode_pair(left, right, device="baby", epoch=EPOCH, seq=seq, left_ns=seq * 10**8, right_ns=seq * 10**8)
    for seq, (left, right) in enumerate(JPEGS)
]
"""What a folder of these files must give at 10 Hz: the bytes of the files, untouched."""


@contextmanager
def iterated(count: int, cursor: Cursor | None) -> Iterator[Source]:
    with closing(IteratorSource(iter(PAIRS[:count]), cursor=cursor)) as source:
        yield source


@contextmanager
def recorded(count: int, cursor: Cursor | None) -> Iterator[Source]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.mcap"
        with RecordingWriter(path) as writer:
            for pair in PAIRS[:count]:
                writer.write(pair)
        with closing(RecordingSource([path], cursor=cursor)) as source:
            yield source


@contextmanager
def subscribed(count: int, cursor: Cursor | None) -> Iterator[Source]:
    def publish() -> None:
        publisher.wait_for_subscriber(60)
        for pair in PAIRS[:count]:
            shelf.append([pair])
            publisher.send(pair)
        publisher.bye()

    shelf = MemoryShelf()
    with (
        Publisher(
            "tcp://127.0.0.1:0", device="baby", epoch=EPOCH, on_full="wait", wait_s=1.0, shelf=shelf
        ) as publisher,
        Subscriber([publisher.endpoint], consumer="contract", cursor=cursor, end_on_bye=True) as source,
    ):
        thread = threading.Thread(target=publish)
        thread.start()
        yield source
        thread.join()


def captured(shots: Iterable[Shot | BadShot], count: int) -> Iterator[EncodedPair]:
    """A rig that keeps everything: what it would suppress, it audits."""
    return capture(islice(shots, count), Dedupe(DedupeConfig(audit_share=1.0), seed=0), device="baby", epoch=EPOCH)


@contextmanager
def simulated(count: int, cursor: Cursor | None) -> Iterator[Source]:
    with closing(IteratorSource(captured(SimCamera(SIMULATION), count), cursor=cursor)) as source:
        yield source


@contextmanager
def read_from_a_folder(count: int, cursor: Cursor | None) -> Iterator[Source]:
    with tempfile.TemporaryDirectory() as folder:
        eyes = [Path(folder) / eye for eye in ("left", "right")]
        for eye, path in enumerate(eyes):
            path.mkdir()
            for seq, jpegs in enumerate(JPEGS):
                (path / f"{seq}.jpg").write_bytes(jpegs[eye])
        with (
            closing(open_folders(eyes[0], eyes[1], CameraSettings(start_ns=0))) as camera,
            closing(IteratorSource(captured(camera, count), cursor=cursor)) as source,
        ):
            yield source


SIMULATION = SimConfig(size=(48, 64), places=1)


@dataclass(frozen=True)
class Case:
    """A kind of source: how it is opened for its first so many pairs behind a cursor, and all of them."""

    opened: Callable[[int, Cursor | None], AbstractContextManager[Source]]
    pairs: list[EncodedPair]

    def open(self, count: int, cursor: Cursor | None = None) -> AbstractContextManager[Source]:
        return self.opened(count, cursor)


SOURCES = {
    "iterator": Case(iterated, PAIRS),
    "subscriber": Case(subscribed, PAIRS),
    "recording": Case(recorded, PAIRS),
    "simulator": Case(simulated, list(captured(SimCamera(SIMULATION), 7))),
    "folder": Case(read_from_a_folder, FOLDER_PAIRS),
}


@pytest.fixture(params=SOURCES)
def case(request: pytest.FixtureRequest) -> Case:
    return SOURCES[request.param]


def to_its_end(source: Source, limit: int) -> list[list[EncodedPair]]:
    """What each call gave, up to EndOfStream."""
    given: list[list[EncodedPair]] = []

    def is_over() -> bool:
        try:
            given.append(source.receive(limit, 1.0))
        except EndOfStream:
            return True
        return False

    until(is_over)
    return given


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_a_source_gives_every_pair_once_in_order_and_never_more_than_asked(case: Case, limit: int) -> None:
    with case.open(7) as source:
        given = to_its_end(source, limit)
    assert [pair for pairs in given for pair in pairs] == case.pairs
    assert max(len(pairs) for pairs in given) <= limit


def test_a_source_that_ended_stays_ended_with_nothing_waiting(case: Case) -> None:
    with case.open(7) as source:
        to_its_end(source, 4)
        assert source.backlog() == 0
        for _ in range(2):
            with pytest.raises(EndOfStream):
                source.receive(1, 0.0)


def test_the_backlog_is_what_can_be_received_at_once(case: Case) -> None:
    with case.open(7) as source:
        source.receive(1, 60.0)
        waiting = source.backlog()
        assert 0 <= waiting < 7
        if waiting:
            assert len(source.receive(waiting, 0.0)) == waiting


def test_an_empty_source_ends_at_once(case: Case) -> None:
    with case.open(0) as source, suppress(StreamError):  # a recording says why it is empty
        assert not any(to_its_end(source, 4))


def test_a_source_closed_before_its_end_and_closed_twice_gives_no_more_than_was_waiting(case: Case) -> None:
    with case.open(7) as source:
        source.receive(1, 60.0)
        source.close()
        source.close()
        assert sum(map(len, to_its_end(source, 7))) <= 6


@pytest.mark.parametrize("given", [0, 1, 4, 7])
def test_the_next_process_goes_on_behind_the_cursor_and_no_pair_is_given_twice(case: Case, given: int) -> None:
    with case.open(7) as source:
        pairs = received(source, given)
        cursor = json.loads(json.dumps(source.cursor()))  # as a store gives it back
    with case.open(7, cursor) as source:
        pairs += [pair for batch in to_its_end(source, 2) for pair in batch]
    assert pairs == case.pairs


def test_a_cursor_names_what_earlier_processes_gave_too(case: Case) -> None:
    cursor: Cursor | None = None
    pairs: list[EncodedPair] = []
    for _ in range(7):
        with case.open(7, cursor) as source:
            pairs += received(source, 1)
            cursor = source.cursor()
    assert pairs == case.pairs
    with case.open(7, cursor) as source:
        assert not any(to_its_end(source, 4))


def test_a_cursor_is_of_its_moment_and_does_not_change_with_the_source(case: Case) -> None:
    with case.open(7) as source:
        received(source, 2)
        cursor = source.cursor()
        before = json.dumps(cursor)
        received(source, 3)
        assert json.dumps(cursor) == before
        assert source.cursor() != cursor


def test_an_acknowledgement_changes_nothing_of_what_is_given(case: Case) -> None:
    with case.open(7) as source:
        pairs = received(source, 3)
        source.acknowledge(source.cursor())
        pairs += [pair for batch in to_its_end(source, 2) for pair in batch]
        source.acknowledge(source.cursor())
    assert pairs == case.pairs


@pytest.mark.parametrize("cursor", [{}, {"nothing": 3}, {"given": -1}, {"given": "3"}, {"given": True}, {"devices": 3}])
def test_what_is_no_cursor_is_refused_in_one_line(case: Case, cursor: Cursor) -> None:
    with pytest.raises(ValueError, match="cursor") as caught, case.open(7, cursor):
        pass
    assert "\n" not in str(caught.value)
