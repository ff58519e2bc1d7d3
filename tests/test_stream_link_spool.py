"""Publisher, spool and subscriber over real TCP: what the live stream dropped comes all the same, and comes once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

import pytest
import zmq
from link_steps import EPOCH, LOOPBACK, NEXT_EPOCH, all_received, in_background, make_pair, make_pairs, received
from memory_shelf import MemoryShelf
from waiting import until

from stream import codec
from stream.live import announcements
from stream.live.announcements import Hello
from stream.live.backfill_messages import (
    AckReply,
    PairsReply,
    PairsRequest,
    Request,
    Span,
    SpansReply,
    SpansRequest,
    decode_request,
    encode_message,
)
from stream.live.backfill_plan import CREDIT_BYTES, MAX_PAIRS
from stream.live.books.epoch_book import MAX_TRIES
from stream.live.publisher import Publisher
from stream.live.subscriber import Subscriber
from stream.pair import EncodedPair
from stream.source import Cursor
from stream.transport.endpoint import backfill_endpoint

patient = partial(Subscriber, farewell_s=60.0)
"""A subscriber that waits for its rig to confirm when it closes, however busy the machine is."""


PAIR_BYTES = sum(len(eye) for eye in (make_pair(0, big=True).left, make_pair(0, big=True).right))


@contextmanager
def rig(
    shelf: MemoryShelf, endpoint: str = LOOPBACK, *, epoch: str = EPOCH, high_water: int = 32
) -> Iterator[Publisher]:
    with Publisher(
        endpoint, device=shelf.device, epoch=epoch, shelf=shelf, high_water=high_water, linger_s=0.5
    ) as publisher:
        yield publisher


def kept_and_sent(publisher: Publisher, shelf: MemoryShelf, pairs: Sequence[EncodedPair]) -> None:
    """As a rig does it: on the shelf first."""
    for pair in pairs:
        shelf.append([pair])
        publisher.send(pair)


def names(pairs: Sequence[EncodedPair]) -> list[tuple[str, int]]:
    return sorted((pair.header.epoch, pair.header.seq) for pair in pairs)


def committed(source: Subscriber) -> Cursor:
    """The cursor as a store gives it back."""
    cursor: Cursor = json.loads(json.dumps(source.cursor()))
    return cursor


# What a rig dropped


def test_what_the_live_stream_drops_is_pulled_from_the_spool() -> None:
    shelf, pairs = MemoryShelf(), make_pairs(600, big=True)
    with (
        rig(shelf, high_water=2) as publisher,
        Subscriber([publisher.endpoint], capacity_pairs=2, high_water=2, end_on_bye=True) as source,
    ):
        assert publisher.wait_for_subscriber(60)
        kept_and_sent(publisher, shelf, pairs)
        publisher.bye()
        assert sorted(all_received(source), key=lambda pair: pair.header.seq) == pairs
        stats = source.stats()
    assert (stats.received, stats.lost, stats.pending, stats.malformed) == (600, 0, 0, {})
    assert shelf.reads  # there was something to pull


def test_a_learner_that_comes_late_has_everything_that_the_spool_holds() -> None:
    shelf = MemoryShelf()
    with rig(shelf) as publisher:
        kept_and_sent(publisher, shelf, make_pairs(100))
        shelf.evict(10)
        with Subscriber([publisher.endpoint], end_on_bye=True) as source:
            assert publisher.wait_for_subscriber(60)
            kept_and_sent(publisher, shelf, make_pairs(50, first=100))
            publisher.bye()
            assert names(all_received(source)) == [(EPOCH, seq) for seq in range(10, 150)]
            assert source.stats().lost == 0


def test_what_came_while_the_link_was_down_comes_when_it_is_back() -> None:
    shelf = MemoryShelf()
    with rig(shelf) as publisher, Subscriber([publisher.endpoint]) as source:
        assert publisher.wait_for_subscriber(60)
        kept_and_sent(publisher, shelf, make_pairs(3))
        pairs = received(source, 3)
        endpoint = publisher.endpoint
        publisher.close()
        shelf.append(make_pairs(40, first=3))
        with rig(shelf, endpoint) as publisher:
            pairs += received(source, 40)
            assert publisher.wait_for_subscriber(60)
            kept_and_sent(publisher, shelf, make_pairs(2, first=43))
            pairs += received(source, 2)
            assert names(pairs) == [(EPOCH, seq) for seq in range(45)]
            assert (source.stats().lost, source.stats().repeated) == (0, 0)


def test_live_pairs_come_before_a_backlog_of_thousands_and_the_queue_stays_within_its_bounds() -> None:
    shelf = MemoryShelf()
    shelf.append(make_pairs(4000))
    with rig(shelf) as publisher, Subscriber([publisher.endpoint], capacity_pairs=50) as source:
        pairs = received(source, 100)
        until(lambda: source.backlog() >= 50)
        time.sleep(0.3)  # the learner rests, and both answers that are under way come
        assert 50 <= source.backlog() < 50 + MAX_PAIRS
        assert publisher.wait_for_subscriber(60)
        kept_and_sent(publisher, shelf, make_pairs(1, first=4000))
        deepest = 0
        while len(pairs) < 4001:
            pairs += received(source, 1)
            deepest = max(deepest, source.backlog())
        assert names(pairs) == [(EPOCH, seq) for seq in range(4001)]
        assert [pair.header.seq for pair in pairs].index(4000) < 100 + 2 * (50 + MAX_PAIRS)
        assert deepest < 50 + MAX_PAIRS


def test_the_bytes_of_the_queue_stay_within_their_bound_while_a_backlog_is_pulled() -> None:
    shelf = MemoryShelf()
    shelf.append(make_pairs(200, big=True))
    with rig(shelf) as publisher, Subscriber([publisher.endpoint], capacity_bytes=10 * PAIR_BYTES) as source:
        deepest, pairs = 0, list[EncodedPair]()
        while len(pairs) < 200:
            pairs += received(source, 1)
            deepest = max(deepest, source.backlog())
    assert names(pairs) == [(EPOCH, seq) for seq in range(200)]
    assert 10 <= deepest < 10 + CREDIT_BYTES / PAIR_BYTES


def test_what_is_rotten_or_evicted_is_lost_and_counted_and_the_rest_comes() -> None:
    shelf = MemoryShelf()
    with rig(shelf) as publisher, Subscriber([publisher.endpoint], end_on_bye=True) as source:
        until(lambda: "baby" in source.stats().devices)
        shelf.trouble = OSError("nothing can be read yet")
        shelf.append(make_pairs(60))
        assert publisher.wait_for_subscriber(60)
        publisher.send(make_pair(59))
        publisher.bye()
        until(lambda: source.stats().pending == 59)
        shelf.evict(5)
        shelf.rot(7, 8, 50)
        _, head, left, right = codec.to_parts(make_pair(9))
        shelf.rot(9, row=(head, left, right + b"?"))
        shelf.trouble = None
        assert names(all_received(source)) == [(EPOCH, seq) for seq in range(5, 60) if seq not in (7, 8, 9, 50)]
        stats = source.stats()
    assert (stats.received, stats.lost, stats.pending, stats.malformed) == (51, 9, 0, {"crc": MAX_TRIES})


def test_the_end_waits_for_what_is_missing_however_long_the_spool_cannot_be_read() -> None:
    shelf = MemoryShelf()
    with rig(shelf) as publisher, Subscriber([publisher.endpoint], end_on_bye=True) as source:
        assert publisher.wait_for_subscriber(60)
        shelf.trouble = OSError("the card is busy")
        shelf.append(make_pairs(10))
        publisher.send(make_pair(9))
        publisher.bye()
        assert received(source, 1) == [make_pair(9)]
        assert source.receive(1, 1.5) == []
        shelf.trouble = None
        assert names(all_received(source)) == [(EPOCH, seq) for seq in range(9)]


def test_a_rig_that_starts_again_gives_the_rest_of_its_last_run_and_all_of_the_new_one() -> None:
    shelf = MemoryShelf()
    with rig(shelf) as publisher:
        source = Subscriber([publisher.endpoint], end_on_bye=True)
        assert publisher.wait_for_subscriber(60)
        kept_and_sent(publisher, shelf, make_pairs(5))
        pairs = received(source, 5)
        endpoint = publisher.endpoint
    shelf.append(make_pairs(20, first=5))  # the link was down, then the rig died
    shelf.begin(NEXT_EPOCH)
    with source, rig(shelf, endpoint, epoch=NEXT_EPOCH) as publisher:
        assert publisher.wait_for_subscriber(60)
        kept_and_sent(publisher, shelf, make_pairs(30, epoch=NEXT_EPOCH))
        publisher.bye()
        pairs += all_received(source)
        stats = source.stats()
    assert names(pairs) == [(EPOCH, seq) for seq in range(25)] + [(NEXT_EPOCH, seq) for seq in range(30)]
    assert (stats.lost, stats.devices["baby"].epoch) == (0, NEXT_EPOCH)


def test_two_rigs_with_a_spool_each_come_through_one_subscriber() -> None:
    shelves = MemoryShelf("baby"), MemoryShelf("toddler")
    with rig(shelves[0]) as baby, rig(shelves[1]) as toddler:
        for shelf in shelves:
            shelf.append(make_pairs(300, device=shelf.device))
        with Subscriber([baby.endpoint, toddler.endpoint], capacity_pairs=40, end_on_bye=True) as source:
            for publisher, shelf in zip((baby, toddler), shelves, strict=True):
                assert publisher.wait_for_subscriber(60)
                kept_and_sent(publisher, shelf, make_pairs(5, first=300, device=shelf.device))
                publisher.bye()
            pairs = all_received(source)
    assert sorted((pair.header.device, pair.header.seq) for pair in pairs) == [
        (device, seq) for device in ("baby", "toddler") for seq in range(305)
    ]


# Learners that die, and what the rig keeps for them


def test_a_learner_that_is_killed_goes_on_behind_its_last_commit_and_has_every_pair_once() -> None:
    shelf = MemoryShelf()
    learned: list[EncodedPair] = []
    cursor: Cursor | None = None
    with rig(shelf) as publisher:
        shelf.append(make_pairs(1000))
        for _ in range(8):
            source = patient([publisher.endpoint], consumer="run-1", cursor=cursor, capacity_pairs=64)
            learned += received(source, 100)
            cursor = committed(source)
            source.acknowledge(cursor)
            received(source, 70)  # not committed
            until(lambda source=source: source.backlog() > 0)  # type: ignore[misc]
            source.close()
        with patient([publisher.endpoint], consumer="run-1", cursor=cursor, end_on_bye=True) as source:
            publisher.next_seq = 1000
            until(lambda: publisher.subscribers() == 1)
            publisher.bye()
            learned += all_received(source)
            stats = source.stats()
            assert (stats.received, stats.lost, stats.pending) == (1000, 0, 0)
            source.acknowledge(committed(source))
        assert names(learned) == [(EPOCH, seq) for seq in range(1000)]
        assert shelf.held() == 0


def test_the_rig_keeps_a_pair_until_every_learner_it_knows_has_acknowledged_it() -> None:
    shelf = MemoryShelf()
    with (
        rig(shelf) as publisher,
        Subscriber([publisher.endpoint], consumer="quick") as quick,
        Subscriber([publisher.endpoint], consumer="slow") as slow,
    ):
        until(lambda: set(shelf.consumers) == {"quick", "slow"})
        until(lambda: publisher.subscribers() == 2)
        kept_and_sent(publisher, shelf, make_pairs(20))
        received(quick, 20)
        quick.acknowledge(quick.cursor())
        until(lambda: shelf.consumers["quick"] == {EPOCH: 20})
        assert shelf.held() == 20
        received(slow, 15)
        assert shelf.held() == 20
        slow.acknowledge(slow.cursor())
        until(lambda: shelf.consumers["slow"] == {EPOCH: 15})
        assert shelf.held() == 5


@pytest.mark.parametrize("capacity_bytes", [1 << 20, PAIR_BYTES])
def test_the_last_acknowledgement_is_confirmed_when_a_subscriber_has_closed(capacity_bytes: int) -> None:
    """Also where its queue is full by then."""
    shelf = MemoryShelf()
    with rig(shelf) as publisher:
        source = patient([publisher.endpoint], consumer="run-1", capacity_bytes=capacity_bytes)
        assert publisher.wait_for_subscriber(60)
        until(lambda: any(device.clock_offset_ns for device in source.stats().devices.values()))  # the spool is known
        kept_and_sent(publisher, shelf, make_pairs(20, big=True))
        received(source, 10)
        until(lambda: source.backlog() > 0)
        source.acknowledge(source.cursor())
        source.close()
        assert not any(spool.plan.owes_acknowledgement for spool in source._links.spools)
        assert shelf.held() == 20 - shelf.consumers["run-1"][EPOCH]
        assert 1 <= shelf.consumers["run-1"][EPOCH] <= 10


def test_a_learner_that_died_between_its_commit_and_the_acknowledgement_makes_up_for_it_when_it_starts() -> None:
    shelf = MemoryShelf()
    with rig(shelf) as publisher:
        with Subscriber([publisher.endpoint], consumer="run-1") as source:
            assert publisher.wait_for_subscriber(60)
            kept_and_sent(publisher, shelf, make_pairs(20))
            received(source, 20)
            cursor = committed(source)
        assert shelf.held() == 20
        with Subscriber([publisher.endpoint], consumer="run-1", cursor=cursor):
            until(lambda: shelf.held() == 0)


def test_a_consumer_that_leaves_is_kept_no_pairs_for_and_its_last_acknowledgement_counts() -> None:
    shelf, pairs = MemoryShelf(), make_pairs(6)
    with rig(shelf) as publisher:
        kept_and_sent(publisher, shelf, pairs)
        with patient([publisher.endpoint], consumer="goes") as goes, patient([publisher.endpoint], consumer="stays"):
            assert len(received(goes, 6)) == 6
            until(lambda: shelf.consumers.keys() == {"goes", "stays"})
            goes.acknowledge(goes.cursor())
            goes.leave()
        assert shelf.consumers.keys() == {"stays"}


def test_closing_does_not_hang_on_a_rig_that_is_away() -> None:
    shelf = MemoryShelf()
    with rig(shelf) as publisher:
        source = Subscriber([publisher.endpoint], consumer="run-1")
        assert publisher.wait_for_subscriber(60)
        kept_and_sent(publisher, shelf, make_pairs(5))
        received(source, 5)
        until(lambda: shelf.consumers == {"run-1": {}})
    source.acknowledge(source.cursor())
    source.close()
    assert shelf.held() == 5


# Hostile ends


def test_a_learner_that_floods_the_rig_with_questions_does_not_keep_the_others_from_their_pairs() -> None:
    shelf = MemoryShelf()
    shelf.append(make_pairs(500))
    over = threading.Event()

    def flood() -> None:
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.set(zmq.LINGER, 0)
            socket.set(zmq.SNDTIMEO, 10)
            socket.connect(backfill_endpoint(publisher.endpoint))
            while not over.is_set():
                for body in (
                    b"garbage",
                    bytes(1 << 20),
                    encode_message(PairsRequest(2, "", EPOCH, 0, (1 << 63) - 1, 4 << 20)),
                ):
                    with suppress(zmq.Again):
                        socket.send(body)

    with rig(shelf) as publisher, in_background(flood):
        try:
            with Subscriber([publisher.endpoint], end_on_bye=True) as source:
                assert publisher.wait_for_subscriber(60)
                kept_and_sent(publisher, shelf, make_pairs(20, first=500))
                publisher.bye()
                assert names(all_received(source)) == [(EPOCH, seq) for seq in range(520)]
        finally:
            over.set()
        assert publisher.backfill is not None
        assert publisher.backfill.failures.counts["malformed"] > 0


Answers = Callable[[Request, int], list[list[bytes]]]
"""What a rig says to a question, the so-and-so-many-th one: as many messages as it likes."""


@contextmanager
def hostile_rig(answers: Answers, live: Sequence[list[bytes]] = ()) -> Iterator[str]:
    """Both sockets of a rig that says what it likes; it sends `live` to whoever joins."""
    with zmq.Context() as context, context.socket(zmq.XPUB) as xpub, context.socket(zmq.ROUTER) as router:
        for socket in (xpub, router):
            socket.set(zmq.LINGER, 0)
            socket.set(zmq.SNDHWM, 0)
        port = xpub.bind_to_random_port("tcp://127.0.0.1", max_port=60_000)
        while True:
            try:
                router.bind(f"tcp://127.0.0.1:{port + 1}")
                break
            except zmq.ZMQError:
                xpub.unbind(f"tcp://127.0.0.1:{port}")
                port = xpub.bind_to_random_port("tcp://127.0.0.1", max_port=60_000)
        over = threading.Event()

        def serve() -> None:
            count = 0
            while not over.is_set():
                if xpub.poll(5) and xpub.recv()[:1] == b"\1":
                    for message in live:
                        xpub.send_multipart(message)
                if router.poll(5):
                    asker, *question = router.recv_multipart()
                    for message in answers(decode_request(question), count):
                        router.send_multipart([asker, *message])
                    count += 1

        with in_background(serve):
            try:
                yield f"tcp://127.0.0.1:{port}"
            finally:
                over.set()


def epoch(number: int) -> str:
    return f"{number:032x}"


def here(question: Request, *spans: Span, device: str = "evil") -> list[bytes]:
    asked_ns = question.sent_ns if isinstance(question, SpansRequest) else 0
    return [encode_message(SpansReply(2, device, list(spans), asked_ns, (1 << 63) - 1))]


def says_that_there_is_no_end(question: Request, count: int) -> list[list[bytes]]:
    if isinstance(question, SpansRequest):
        return [here(question, *[Span(epoch(number), 0, 1 << 62, number == 9) for number in range(10)])]
    if isinstance(question, PairsRequest):
        return [[encode_message(PairsReply(2, "evil", question.epoch, question.first, (1 << 63) - 1 - count, []))]]
    return [[encode_message(AckReply(2, "evil", question.sent_ns))]]


def takes_back_what_it_said(question: Request, count: int) -> list[list[bytes]]:
    tail = max(0, 1000 - 7 * count)
    return [here(question, Span(epoch(count // 9), tail, 2 * tail, count % 2 == 0))]


def gives_what_nobody_asked_for(question: Request, count: int) -> list[list[bytes]]:
    messages = [here(question, Span(EPOCH, 0, 1000, True))]
    for device, name, seq in (
        ("evil", EPOCH, 5),
        ("evil", NEXT_EPOCH, 5),
        ("baby", EPOCH, 10_000),
        ("other", EPOCH, 5),
    ):
        row = codec.to_parts(make_pair(seq + count, device=device, epoch=name))[1:]
        messages.append([encode_message(PairsReply(2, device, name, 0, 20_000, [])), *row])
        messages.append([encode_message(PairsReply(2, "evil", EPOCH, count, count + 1, [])), *row])
    return messages


def gives_garbage(question: Request, count: int) -> list[list[bytes]]:
    return [
        [b""],
        [b"\xc1" * 100, b"", b"", b""],
        [bytes(count)] * 5,
        [encode_message(question)],
        [b"\x91" * 50_000],
    ] * 5


def answers_a_thousand_times(question: Request, count: int) -> list[list[bytes]]:
    return [here(question, Span(EPOCH, 0, 3, True)), [encode_message(AckReply(2, "evil", 1))]] * 500


def never_answers(question: Request, count: int) -> list[list[bytes]]:
    return []


LIVE_LIES = [
    *[
        announcements.to_parts(Hello(device="evil", epoch=epoch(n), next_seq=n << 40, backfill=True))
        for n in range(500)
    ],
    *[codec.to_parts(make_pair((1 << 63) - 2 - 2 * seq, device="evil")) for seq in range(500)],
]


@pytest.mark.parametrize(
    "answers",
    [
        says_that_there_is_no_end,
        takes_back_what_it_said,
        gives_what_nobody_asked_for,
        gives_garbage,
        answers_a_thousand_times,
        never_answers,
    ],
)
def test_a_rig_that_lies_leaves_the_learner_running_within_its_bounds_and_the_pairs_of_the_others_coming(
    answers: Answers,
) -> None:
    shelf = MemoryShelf()
    shelf.append(make_pairs(2000))
    with (
        hostile_rig(answers, LIVE_LIES) as evil,
        rig(shelf) as publisher,
        Subscriber([publisher.endpoint, evil], consumer="run-1", capacity_pairs=64, farewell_s=0.2) as source,
    ):
        assert publisher.wait_for_subscriber(60)
        mine: list[EncodedPair] = []
        deepest = 0
        while len(mine) < 2100:
            mine += [pair for pair in received(source, 1) if pair.header.device == "baby"]
            deepest = max(deepest, source.backlog())
            if len(mine) in (500, 1500):
                kept_and_sent(publisher, shelf, make_pairs(50, first=shelf.spans()[0].head))
                source.acknowledge(committed(source))
        source.acknowledge(committed(source))
        assert names(mine) == [(EPOCH, seq) for seq in range(2100)]
        assert deepest < 64 + MAX_PAIRS
        assert len(json.dumps(source.cursor())) < 200_000
        until(lambda: shelf.held() == 0)
