"""The contract of Source, held by everything pairs come from.

A new source adds itself to SOURCES: a context manager that is given a few pairs and opens a finite source of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager

import numpy as np
import pytest

from stream.codec import encode_pair
from stream.errors import EndOfStream
from stream.pair import EncodedPair
from stream.publisher import Publisher
from stream.source import IteratorSource, Source
from stream.subscriber import Subscriber

EPOCH = "a" * 32
IMAGES = np.random.default_rng(0).integers(0, 256, (7, 2, 8, 12), dtype=np.uint8)
PAIRS = [
    encode_pair(left, right, device="baby", epoch=EPOCH, seq=seq, left_ns=seq, right_ns=seq, codec="lz4")
    for seq, (left, right) in enumerate(IMAGES)
]


@contextmanager
def iterated(pairs: list[EncodedPair]) -> Iterator[Source]:
    with closing(IteratorSource(iter(pairs))) as source:
        yield source


@contextmanager
def subscribed(pairs: list[EncodedPair]) -> Iterator[Source]:
    def publish() -> None:
        publisher.wait_for_subscriber(10)
        for pair in pairs:
            publisher.send(pair)
        publisher.bye()

    with (
        Publisher("tcp://127.0.0.1:0", device="baby", epoch=EPOCH, on_full="wait", wait_s=1.0) as publisher,
        Subscriber([publisher.endpoint], end_on_bye=True) as source,
    ):
        thread = threading.Thread(target=publish)
        thread.start()
        yield source
        thread.join()


Opener = Callable[[list[EncodedPair]], AbstractContextManager[Source]]
SOURCES: dict[str, Opener] = {"iterator": iterated, "subscriber": subscribed}


@pytest.fixture(params=SOURCES)
def opener(request: pytest.FixtureRequest) -> Opener:
    return SOURCES[request.param]


def to_its_end(source: Source, limit: int) -> list[list[EncodedPair]]:
    """What each call gave, up to EndOfStream."""
    given: list[list[EncodedPair]] = []
    deadline_s = time.monotonic() + 20
    try:
        while time.monotonic() < deadline_s:
            given.append(source.receive(limit, 1.0))
    except EndOfStream:
        return given
    raise AssertionError("the source did not end within 20 s")


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_a_source_gives_every_pair_once_in_order_and_never_more_than_asked(opener: Opener, limit: int) -> None:
    with opener(PAIRS) as source:
        given = to_its_end(source, limit)
    assert [pair for pairs in given for pair in pairs] == PAIRS
    assert max(len(pairs) for pairs in given) <= limit


def test_a_source_that_ended_stays_ended_with_nothing_waiting(opener: Opener) -> None:
    with opener(PAIRS) as source:
        to_its_end(source, 4)
        assert source.backlog() == 0
        for _ in range(2):
            with pytest.raises(EndOfStream):
                source.receive(1, 0.0)


def test_the_backlog_is_what_can_be_received_at_once(opener: Opener) -> None:
    with opener(PAIRS) as source:
        source.receive(1, 10.0)
        waiting = source.backlog()
        assert 0 <= waiting < len(PAIRS)
        if waiting:
            assert len(source.receive(waiting, 0.0)) == waiting


def test_an_empty_source_ends_at_once(opener: Opener) -> None:
    with opener([]) as source:
        assert not any(to_its_end(source, 4))


def test_closing_a_source_twice_or_before_its_end_is_harmless(opener: Opener) -> None:
    with opener(PAIRS) as source:
        source.receive(1, 10.0)
        source.close()
        source.close()
