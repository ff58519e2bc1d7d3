"""What is said on a rig's second socket: the messages, the server over a shelf, and the client that asks; over real TCP."""

from __future__ import annotations

import itertools
import math
import resource
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from link_steps import open_dialer
from memory_shelf import MemoryShelf

from stream import codec
from stream.errors import EndpointError, MalformedMessage
from stream.image import MAX_EYE_BYTES
from stream.live.backfill_client import MAX_REPLY_BYTES, BackfillClient
from stream.live.backfill_messages import (
    MAX_BODY_BYTES,
    MAX_CELSIUS,
    MAX_CREDIT_BYTES,
    MAX_EPOCHS,
    MAX_LOST_RANGES,
    MAX_ROWS,
    MIN_CELSIUS,
    AckReply,
    AckRequest,
    LeaveRequest,
    PairParts,
    PairsReply,
    PairsRequest,
    Reading,
    Reply,
    Request,
    Span,
    SpansReply,
    SpansRequest,
    Vitals,
    decode_reply,
    decode_request,
    encode_message,
)
from stream.live.backfill_plan import CREDIT_BYTES, MAX_PAIRS, PAUSE_S, SPANS_INTERVAL_S, UNDER_WAY, BackfillPlan
from stream.live.backfill_server import BOUNDS, BackfillServer
from stream.live.books.epoch_book import MAX_TRIES
from stream.live.ledger import Ledger
from stream.live.publisher import Publisher
from stream.pair import EncodedPair
from stream.source import Cursor
from stream.transport.acceptor import Acceptor
from stream.transport.dialer import Dialer
from stream.transport.endpoint import backfill_endpoint

EPOCH, OTHER_EPOCH = "a" * 32, "b" * 32
LOOPBACK = "tcp://127.0.0.1:0"
TOP = (1 << 63) - 1
NOISE = np.random.default_rng(0).integers(0, 256, (2, 160, 200), dtype=np.uint8)
"""Incompressible: a pair of 64 kB."""


def make_pairs(
    first: int, last: int, *, epoch: str = EPOCH, device: str = "baby", big: bool = False
) -> list[EncodedPair]:
    left, right = NOISE if big else NOISE[:, :4, :6]
    one = codec.encode_pair(left, right, device=device, epoch=epoch, seq=0, left_ns=0, right_ns=0, codec="lz4")
    return [
        EncodedPair(msgspec.structs.replace(one.header, seq=seq), one.left, one.right) for seq in range(first, last)
    ]


def rows(pairs: Sequence[EncodedPair]) -> list[PairParts]:
    return [(head, left, right) for _, head, left, right in map(codec.to_parts, pairs)]


def parts(answer: Reply, given: Sequence[PairParts] = ()) -> list[bytes]:
    return [encode_message(answer), *itertools.chain(*given)]


# Messages

seqs = st.integers(0, TOP)
epochs = st.text("0123456789abcdef", min_size=32, max_size=32)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
bounds = st.tuples(seqs, seqs).map(sorted).filter(lambda pair: pair[0] < pair[1])
questions: st.SearchStrategy[Request] = st.one_of(
    st.builds(SpansRequest, st.just(2), st.just("") | names, seqs),
    st.builds(
        lambda name, epoch, of, credit: PairsRequest(2, name, epoch, of[0], of[1], credit),
        names,
        epochs,
        bounds,
        st.integers(1, MAX_CREDIT_BYTES),
    ),
    st.builds(AckRequest, st.just(2), names, st.dictionaries(epochs, seqs, max_size=5), seqs),
    st.builds(LeaveRequest, st.just(2), names, seqs),
)
spans = st.builds(lambda epoch, of, goes_on: Span(epoch, of[0], of[1], goes_on), epochs, bounds, st.booleans())
vitals = st.builds(
    Vitals, battery=st.none() | st.floats(0, 1), temperature_c=st.none() | st.floats(MIN_CELSIUS, MAX_CELSIUS)
)
answers: st.SearchStrategy[Reply] = st.one_of(
    st.builds(SpansReply, st.just(2), names, st.lists(spans, max_size=5), seqs, seqs, vitals),
    st.builds(
        lambda name, epoch, of: PairsReply(2, name, epoch, of[0], of[1], [(of[0], of[1])]), names, epochs, bounds
    ),
    st.builds(AckReply, st.just(2), names, seqs),
)


@given(questions, answers)
def test_questions_and_answers_come_back_as_they_were_sent(question: Request, answer: Reply) -> None:
    assert decode_request([encode_message(question)]) == question
    assert decode_reply([encode_message(answer)]) == (answer, [])


def test_the_rows_of_an_answer_come_back_in_order() -> None:
    given_rows = rows(make_pairs(3, 6))
    gave = PairsReply(2, "baby", EPOCH, 3, 6, [])
    assert decode_reply(parts(gave, given_rows)) == (gave, given_rows)


def body(*values: object) -> list[bytes]:
    return [msgspec.msgpack.encode(values)]


WRONG_QUESTIONS = {
    "no part": [],
    "two parts": [encode_message(SpansRequest(2, "me", 0)), b""],
    "too long": [bytes(MAX_BODY_BYTES + 1)],
    "no msgpack": [b"\xc1"],
    "nothing": [b""],
    "text that is none": [b"\xa2\xff\xff"],
    "nested without end": [b"\x91" * 100_000],
    "an answer": [encode_message(AckReply(2, "baby", 0))],
    "another version": body("where", 3, "me", 0),
    "one field more": body("where", 2, "me", 0, 0),
    "one field less": body("where", 2, "me"),
    "a name with a slash": body("where", 2, "../me", 0),
    "a name with a line": body("where", 2, "me\n", 0),
    "an epoch with capitals": body("get", 2, "me", "A" * 32, 0, 1, 1),
    "an empty range": body("get", 2, "me", EPOCH, 5, 5, 1),
    "a range that goes back": body("get", 2, "me", EPOCH, 5, 4, 1),
    "a negative number": body("get", 2, "me", EPOCH, -1, 4, 1),
    "a number of 64 bits": body("get", 2, "me", EPOCH, 0, 1 << 63, 1),
    "no credit": body("get", 2, "me", EPOCH, 0, 1, 0),
    "too much credit": body("get", 2, "me", EPOCH, 0, 1, MAX_CREDIT_BYTES + 1),
    "too many epochs": body("ack", 2, "me", {f"{n:032x}": 0 for n in range(MAX_EPOCHS + 1)}, 0),
}
GAVE = PairsReply(2, "baby", EPOCH, 3, 6, [])
ROW = rows(make_pairs(3, 4))[0]
WRONG_ANSWERS = {
    "no part": [],
    "a row without its right eye": [encode_message(GAVE), b"", b""],
    "too many rows": [encode_message(GAVE)] + [b""] * 3 * (MAX_ROWS + 1),
    "a row too large": [encode_message(GAVE), b"", bytes(MAX_EYE_BYTES + 1), b""],
    "rows behind another answer": parts(AckReply(2, "baby", 0), [ROW]),
    "a question": [encode_message(SpansRequest(2, "me", 0))],
    "a range that goes back": body("gave", 2, "baby", EPOCH, 6, 3, []),
    "lost before the range": body("gave", 2, "baby", EPOCH, 3, 6, [[2, 4]]),
    "lost behind the range": body("gave", 2, "baby", EPOCH, 3, 6, [[5, 7]]),
    "lost backwards": body("gave", 2, "baby", EPOCH, 3, 6, [[5, 4]]),
    "too much lost": body("gave", 2, "baby", EPOCH, 0, TOP, [[2 * n, 2 * n + 1] for n in range(MAX_LOST_RANGES + 1)]),
    "a tail beyond the head": body("here", 2, "baby", [[EPOCH, 5, 4, True]], 0, 0),
    "too many spans": body("here", 2, "baby", [[EPOCH, 0, 0, True]] * (MAX_EPOCHS + 1), 0, 0),
    "a device without a name": body("here", 2, "", [], 0, 0),
    "a battery above full": body("here", 2, "baby", [], 0, 0, [1.1, None]),
    "a battery that is no number": body("here", 2, "baby", [], 0, 0, [math.nan, None]),
    "a temperature that is no number": body("here", 2, "baby", [], 0, 0, [None, math.nan]),
    "a temperature of no rig": body("here", 2, "baby", [], 0, 0, [None, 1e9]),
}


@pytest.mark.parametrize("case", WRONG_QUESTIONS)
def test_a_question_that_is_none_is_refused(case: str) -> None:
    with pytest.raises(MalformedMessage):
        decode_request(WRONG_QUESTIONS[case])


@pytest.mark.parametrize("case", WRONG_ANSWERS)
def test_an_answer_that_is_none_is_refused(case: str) -> None:
    with pytest.raises(MalformedMessage):
        decode_reply(WRONG_ANSWERS[case])


def test_a_rig_that_says_nothing_of_battery_and_temperature_is_understood() -> None:
    answer, _ = decode_reply(body("here", 2, "baby", [], 5, 6))
    assert answer == SpansReply(2, "baby", [], 5, 6, Vitals(battery=None, temperature_c=None))


def test_what_a_newer_rig_tells_beyond_is_passed_over() -> None:
    answer, _ = decode_reply(body("here", 2, "baby", [], 5, 6, [0.5, None, "news"], False, {EPOCH: 7}, "more of it"))
    assert answer == SpansReply(2, "baby", [], 5, 6, Vitals(battery=0.5), kept=False, kept_from={EPOCH: 7})


# Server


@contextmanager
def served(shelf: MemoryShelf, *, now_ns: int = 77, vitals: Vitals | None = None) -> Iterator[BackfillServer]:
    with zmq.Context() as context, Acceptor(context, None) as acceptor:
        read = Vitals if vitals is None else lambda: vitals
        router = context.socket(zmq.ROUTER)
        gate = acceptor.guard(router, BOUNDS)
        server = BackfillServer(router, LOOPBACK, shelf, gate, vitals=read, clock_ns=lambda: now_ns)
        try:
            yield server
        finally:
            server.close()


@contextmanager
def asking(endpoint: str, *, high_water: int = 1000) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RCVHWM, high_water)
        socket.connect(endpoint)
        yield socket


def ask(socket: zmq.Socket[bytes], question: Request) -> tuple[Reply, list[PairParts]]:
    socket.send(encode_message(question))
    return heard(socket)


def heard(socket: zmq.Socket[bytes]) -> tuple[Reply, list[PairParts]]:
    assert socket.poll(60_000), "no answer came within 60 s"
    return decode_reply(socket.recv_multipart())


def get(first: int, last: int, *, epoch: str = EPOCH, credit_bytes: int = 1 << 20) -> PairsRequest:
    return PairsRequest(2, "me", epoch, first, last, credit_bytes)


def test_the_second_socket_is_at_the_next_port() -> None:
    assert backfill_endpoint("tcp://10.0.0.7:5555") == "tcp://10.0.0.7:5556"
    assert backfill_endpoint("tcp://[::1]:9") == "tcp://[::1]:10"
    with pytest.raises(EndpointError, match="choose a lower one"):
        backfill_endpoint("tcp://10.0.0.7:65535")


def test_a_publisher_with_a_shelf_answers_at_its_next_port() -> None:
    shelf = MemoryShelf()
    shelf.append(make_pairs(0, 2))
    with (
        Publisher(LOOPBACK, device="baby", epoch=EPOCH, shelf=shelf) as publisher,
        asking(backfill_endpoint(publisher.endpoint)) as socket,
    ):
        assert publisher.backfill is not None
        assert publisher.backfill.endpoint == backfill_endpoint(publisher.endpoint)
        assert ask(socket, get(0, 2)) == (PairsReply(2, "baby", EPOCH, 0, 2, []), rows(make_pairs(0, 2)))


def test_a_publisher_whose_next_port_is_taken_takes_two_others_or_says_so() -> None:
    with zmq.Context() as context, context.socket(zmq.PULL) as taken:
        port = taken.bind_to_random_port("tcp://127.0.0.1")
        with pytest.raises(EndpointError, match="is in use"):
            Publisher(f"tcp://127.0.0.1:{port - 1}", device="baby", epoch=EPOCH, shelf=MemoryShelf())
        with Publisher(LOOPBACK, device="baby", epoch=EPOCH, shelf=MemoryShelf()) as publisher:
            assert publisher.backfill is not None


def test_where_tells_the_spans_and_the_time_and_makes_the_asker_known() -> None:
    shelf = MemoryShelf()
    shelf.append(make_pairs(0, 5))
    shelf.evict(2)
    shelf.begin(OTHER_EPOCH)
    with served(shelf) as server, asking(server.endpoint) as socket:
        known = [Span(EPOCH, 2, 5, False), Span(OTHER_EPOCH, 0, 0, True)]
        assert ask(socket, SpansRequest(2, "", 4)) == (SpansReply(2, "baby", known, 4, 77), [])
        assert shelf.consumers == {}
        ask(socket, SpansRequest(2, "me", 5))
        assert shelf.consumers == {"me": {}}


def test_where_tells_how_the_rig_is() -> None:
    vitals = Vitals(battery=0.83, temperature_c=61.2)
    with served(MemoryShelf(), vitals=vitals) as server, asking(server.endpoint) as socket:
        here, _ = ask(socket, SpansRequest(2, "", 4))
        assert isinstance(here, SpansReply)
        assert here.vitals == vitals


def test_get_gives_what_there_is_as_far_as_the_credit_goes_and_at_least_one_pair() -> None:
    pairs = make_pairs(0, 10, big=True)
    shelf = MemoryShelf()
    shelf.append(pairs)
    shelf.evict(2)
    shelf.rot(4)
    with served(shelf) as server, asking(server.endpoint) as socket:
        assert ask(socket, get(0, 7)) == (
            PairsReply(2, "baby", EPOCH, 0, 7, [(0, 2), (4, 5)]),
            rows(pairs[2:4] + pairs[5:7]),
        )
        assert ask(socket, get(5, 9, credit_bytes=1)) == (PairsReply(2, "baby", EPOCH, 5, 6, []), rows(pairs[5:6]))
        assert ask(socket, get(5, 9, credit_bytes=130_000)) == (
            PairsReply(2, "baby", EPOCH, 5, 7, []),
            rows(pairs[5:7]),
        )
        assert ask(socket, get(9, 20)) == (PairsReply(2, "baby", EPOCH, 9, 10, []), rows(pairs[9:]))
        assert ask(socket, get(10, 20)) == (PairsReply(2, "baby", EPOCH, 10, 10, []), [])  # not there yet
        assert ask(socket, get(3, 9, epoch="c" * 32)) == (PairsReply(2, "baby", "c" * 32, 3, 9, [(3, 9)]), [])


def test_ack_frees_what_every_known_learner_has() -> None:
    shelf = MemoryShelf()
    shelf.append(make_pairs(0, 5))
    with served(shelf) as server, asking(server.endpoint) as socket:
        for name in ("me", "you"):
            ask(socket, SpansRequest(2, name, 0))
        assert ask(socket, AckRequest(2, "me", {EPOCH: 4}, 9)) == (AckReply(2, "baby", 9), [])
        assert shelf.held() == 5
        ask(socket, AckRequest(2, "you", {EPOCH: 3}, 10))
        assert shelf.held() == 2
        ask(socket, AckRequest(2, "", {EPOCH: 5}, 11))  # nobody that pairs are kept for
        assert (shelf.held(), set(shelf.consumers)) == (2, {"me", "you"})


def test_two_learners_are_answered_each_its_own() -> None:
    shelf = MemoryShelf()
    shelf.append(make_pairs(0, 9))
    with served(shelf) as server, asking(server.endpoint) as one, asking(server.endpoint) as other:
        for seq in range(8):
            one.send(encode_message(get(seq, seq + 1)))
            other.send(encode_message(get(seq + 1, seq + 2)))
        for seq in range(8):
            for socket, at in ((one, seq), (other, seq + 1)):
                assert heard(socket) == (PairsReply(2, "baby", EPOCH, at, at + 1, []), rows(make_pairs(at, at + 1)))


def test_a_question_that_is_none_is_counted_and_said_once_and_the_next_one_is_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with served(MemoryShelf()) as server, asking(server.endpoint) as socket:
        asked = [case for case in WRONG_QUESTIONS.values() if case and len(case[0]) <= MAX_BODY_BYTES]
        for case in asked:
            socket.send_multipart(case)
        socket.send_multipart([b""] * 1000)
        assert ask(socket, SpansRequest(2, "me", 1))[0] == SpansReply(2, "baby", [Span(EPOCH, 0, 0, True)], 1, 77)
        assert server.failures.counts["malformed"] == len(asked) + 1
    assert caplog.text.count("request dropped") == 1


def test_a_question_beyond_all_bounds_costs_its_sender_the_connection_and_nobody_else() -> None:
    with served(MemoryShelf()) as server, asking(server.endpoint) as hostile, asking(server.endpoint) as socket:
        monitor = hostile.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        hostile.send(bytes(MAX_BODY_BYTES + 1))
        assert monitor.poll(60_000)
        hostile.disable_monitor()
        monitor.close(linger=0)
        assert isinstance(ask(socket, SpansRequest(2, "me", 1))[0], SpansReply)
        assert server.failures.counts["malformed"] == 0


def test_a_shelf_in_trouble_answers_nothing_and_the_next_question_when_it_is_well_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shelf = MemoryShelf()
    shelf.append(make_pairs(0, 1))
    with served(shelf) as server, asking(server.endpoint) as socket:
        shelf.trouble = OSError("the card is gone")
        for question in (get(0, 1), SpansRequest(2, "me", 0), AckRequest(2, "me", {}, 0)):
            socket.send(encode_message(question))
        assert not socket.poll(300)
        shelf.trouble = None
        assert ask(socket, get(0, 1))[1] == rows(make_pairs(0, 1))
    assert caplog.text.count("the card is gone") == 1


class EndlessShelf(MemoryShelf):
    """Has a large pair for every number, each with memory of its own."""

    def read(self, epoch: str, first: int, last: int, credit_bytes: int) -> Reading:
        return Reading(first + 1, [], [(b"", b"x" * credit_bytes, b"x")])


def resident_bytes() -> int:
    """The memory that this process takes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_a_learner_that_asks_for_everything_at_once_and_never_reads_leaves_the_rig_its_memory_and_the_others() -> None:
    with (
        served(EndlessShelf()) as server,
        asking(server.endpoint, high_water=1) as hostile,
        asking(server.endpoint) as socket,
    ):
        before_bytes = resident_bytes()
        for number in range(200):
            hostile.send(encode_message(get(number, TOP, credit_bytes=MAX_CREDIT_BYTES)))
        for number in range(200):
            assert isinstance(ask(socket, SpansRequest(2, "me", number))[0], SpansReply)
        assert resident_bytes() - before_bytes < 100 << 20 < 200 * MAX_CREDIT_BYTES


def test_closing_twice_is_harmless() -> None:
    with served(MemoryShelf()) as server:
        server.close()
        assert "backfill" not in {thread.name for thread in threading.enumerate()}


# Client


Q = TypeVar("Q", SpansRequest, PairsRequest, AckRequest)


class Rig:
    """The other end of a client: reads its questions, and answers as the test says."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.socket = socket
        self.asker = b""

    def hears(self, kind: type[Q]) -> Q:
        """The next question, which is of this kind."""
        assert self.socket.poll(60_000), "no question came within 60 s"
        self.asker, *message = self.socket.recv_multipart()
        question = decode_request(message)
        assert isinstance(question, kind)
        return question

    def says(self, answer: Reply, given_rows: Sequence[PairParts] = ()) -> None:
        self.socket.send_multipart([self.asker, *parts(answer, given_rows)])


class Learner:
    """A client with its ledger and a clock that stands."""

    def __init__(
        self,
        dialer: Dialer,
        *,
        consumer: str = "me",
        durable: Cursor | None = None,
        max_reply_bytes: int = MAX_REPLY_BYTES,
    ) -> None:
        self.now_s = 0.0
        self.stamps = itertools.count(1)
        self.ledger = Ledger()
        self.refused: list[MalformedMessage] = []
        self.socket = dialer.socket
        self.client = BackfillClient(
            dialer,
            BackfillPlan(0, consumer, durable, clock=lambda: self.now_s, clock_ns=lambda: next(self.stamps)),
            max_reply_bytes=max_reply_bytes,
        )

    def asks(self, *, has_room: bool = True) -> None:
        self.client.send_requests(self.ledger, has_room=has_room)

    def takes(self) -> list[int]:
        """The numbers of the pairs that are new in the next reply."""
        assert self.socket.poll(60_000), "no reply came within 60 s"
        reply = self.client.receive(self.refused.append)
        assert reply is not None
        return [pair.header.seq for pair in self.client.plan.receive(*reply, self.ledger)]


@contextmanager
def linked(**changes: Any) -> Iterator[tuple[Learner, Rig]]:
    """A client and the socket it asks, connected."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as dealer:
        port = router.bind_to_random_port("tcp://127.0.0.1")
        for socket in (router, dealer):
            socket.set(zmq.LINGER, 0)
        dealer.set(zmq.IMMEDIATE, 1)
        dealer.connect(f"tcp://127.0.0.1:{port}")
        assert dealer.poll(60_000, zmq.POLLOUT)
        with open_dialer(dealer) as dialer:
            yield Learner(dialer, **changes), Rig(router)


def told(learner: Learner, rig: Rig, *known: Span) -> None:
    """The learner asks where everything is, and hears it."""
    learner.asks(has_room=False)
    question = rig.hears(SpansRequest)
    rig.says(SpansReply(2, "baby", list(known), question.sent_ns, 0))
    assert learner.takes() == []


def asked(rig: Rig, count: int) -> list[tuple[int, int]]:
    """The ranges of the next questions, which are gets."""
    questions = [rig.hears(PairsRequest) for _ in range(count)]
    return [(question.first, question.last) for question in questions]


def test_the_first_question_is_where_and_it_comes_again_all_the_time() -> None:
    with linked() as (learner, rig):
        learner.asks()
        assert rig.hears(SpansRequest) == SpansRequest(2, "me", 1)
        learner.asks()
        learner.now_s += SPANS_INTERVAL_S
        learner.asks()
        assert rig.hears(SpansRequest) == SpansRequest(2, "me", 2)


def test_nothing_is_asked_of_a_rig_that_is_away() -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.set(zmq.IMMEDIATE, 1)
        dealer.connect("tcp://127.0.0.1:9")
        with open_dialer(dealer) as dialer:
            learner = Learner(dialer)
            learner.asks()
            assert learner.client.receive(learner.refused.append) is None
        dealer.close(linger=0)


def test_holes_are_pulled_two_questions_at_a_time_while_there_is_room() -> None:
    with linked() as (learner, rig):
        told(learner, rig, Span(EPOCH, 0, 60, True))
        learner.asks(has_room=False)
        learner.asks()
        first, second = asked(rig, UNDER_WAY)
        assert (first[0], second[0], second[1] <= 60) == (0, first[1], True)
        learner.asks()
        rig.says(PairsReply(2, "baby", EPOCH, *first, []), rows(make_pairs(*first)))
        assert learner.takes() == list(range(*first))
        learner.asks()
        (third,) = asked(rig, 1)
        assert third[0] == second[1]


def gives(learner: Learner, rig: Rig, ranges: Sequence[tuple[int, int]], *, big: bool = False) -> None:
    """Every question for these ranges is answered in full."""
    for first, last in ranges:
        rig.says(PairsReply(2, "baby", EPOCH, first, last, []), rows(make_pairs(first, last, big=big)))
        assert learner.takes() == list(range(first, last))


@pytest.mark.parametrize(("big", "limit"), [(True, CREDIT_BYTES // NOISE.nbytes), (False, MAX_PAIRS)])
def test_as_much_is_asked_for_as_a_mebibyte_holds_but_not_more_pairs_than_some(big: bool, limit: int) -> None:
    with linked() as (learner, rig):
        told(learner, rig, Span(EPOCH, 0, 100_000, True))
        for _ in range(10):
            learner.asks()
            ranges = asked(rig, UNDER_WAY)
            gives(learner, rig, ranges, big=big)
        assert [last - first for first, last in ranges] == [limit] * UNDER_WAY


def test_a_question_is_asked_again_once_a_later_one_was_answered_and_never_because_the_link_is_slow() -> None:
    with linked() as (learner, rig):
        told(learner, rig, Span(EPOCH, 0, 20, True))
        learner.asks()
        ranges = asked(rig, UNDER_WAY)
        for _ in range(50):
            learner.now_s += SPANS_INTERVAL_S
            learner.asks()
            where = rig.hears(SpansRequest)  # and no get
        gives(learner, rig, ranges[:1])
        rig.says(SpansReply(2, "baby", [Span(EPOCH, 0, 20, True)], where.sent_ns, 0))
        learner.takes()
        learner.asks()
        assert asked(rig, 1) == ranges[1:]
        gives(learner, rig, ranges[1:])
        assert learner.ledger.stats().pending == 0


def test_an_answer_to_where_is_taken_however_long_it_was_on_its_way() -> None:
    with linked() as (learner, rig):
        for _ in range(50):
            learner.asks()
            learner.now_s += SPANS_INTERVAL_S
        first = rig.hears(SpansRequest)
        rig.says(SpansReply(2, "baby", [Span(EPOCH, 0, 9, True)], first.sent_ns, 0))
        learner.takes()
        assert learner.ledger.stats().pending == 9


def test_an_answer_that_comes_after_its_question_was_asked_again_is_taken_and_the_second_one_is_not() -> None:
    with linked() as (learner, rig):
        told(learner, rig, Span(EPOCH, 0, 3, True))
        learner.asks()
        asked(rig, 1)
        learner.now_s += SPANS_INTERVAL_S
        told(learner, rig, Span(EPOCH, 0, 3, True))
        learner.asks()
        ranges = asked(rig, 1)
        gives(learner, rig, ranges)
        rig.says(PairsReply(2, "baby", EPOCH, 0, 3, []), rows(make_pairs(0, 3)))
        assert learner.takes() == []
        assert learner.ledger.stats().received == 3


def test_a_rig_that_gives_nothing_now_is_asked_again_after_a_pause() -> None:
    with linked() as (learner, rig):
        told(learner, rig, Span(EPOCH, 0, 3, True))
        learner.asks()
        ranges = asked(rig, 1)
        rig.says(PairsReply(2, "baby", EPOCH, 0, 0, []))
        assert learner.takes() == []
        learner.asks()
        assert not rig.socket.poll(100)
        learner.now_s += PAUSE_S
        told(learner, rig, Span(EPOCH, 0, 3, True))
        learner.asks()
        assert asked(rig, 1) == ranges
        gives(learner, rig, ranges)


def test_a_row_that_is_not_the_pair_it_should_be_is_refused_and_asked_for_again_and_the_rest_enters() -> None:
    good = rows(make_pairs(0, 7))
    head, left, right = good[1]
    bad = [
        (head, left, right[:-1] + b"?"),
        (head[:-1] + b"?", left, right),
        (b"", b"", b""),
        rows(make_pairs(2, 3, epoch=OTHER_EPOCH))[0],
        rows(make_pairs(2, 3, device="toddler"))[0],
        rows(make_pairs(9, 10))[0],
    ]
    with linked() as (learner, rig):
        told(learner, rig, Span(EPOCH, 0, 7, True))
        learner.asks()
        assert asked(rig, 1) == [(0, 7)]
        rig.says(PairsReply(2, "baby", EPOCH, 0, 7, []), [good[0], *bad, good[6]])
        assert learner.takes() == [0, 6]
        assert [error.reason for error in learner.refused] == ["crc", "crc", "size", "header", "header", "header"]
        assert (learner.ledger.stats().lost, learner.ledger.stats().pending) == (0, 5)
        learner.asks()
        assert asked(rig, 1) == [(1, 6)]
        rig.says(PairsReply(2, "baby", EPOCH, 1, 6, [(4, 5)]), [good[1], good[2], good[5]])
        assert learner.takes() == [1, 2, 5]
        assert (learner.ledger.stats().lost, learner.ledger.stats().pending) == (1, 1)  # the rig itself lacks pair 4


def test_a_pair_that_comes_broken_each_time_is_lost_in_the_end_and_said(caplog: pytest.LogCaptureFixture) -> None:
    (head, left, right) = rows(make_pairs(0, 1))[0]
    with linked() as (learner, rig):
        told(learner, rig, Span(EPOCH, 0, 1, True))
        for tries in range(MAX_TRIES):
            assert (learner.ledger.stats().lost, learner.ledger.stats().pending) == (0, 1)
            learner.asks()
            assert asked(rig, 1) == [(0, 1)]
            rig.says(PairsReply(2, "baby", EPOCH, 0, 1, []), [(head, left, bytes([tries]) + right)])
            assert learner.takes() == []
        assert (learner.ledger.stats().lost, learner.ledger.stats().pending) == (1, 0)
        assert len(learner.refused) == MAX_TRIES
        assert "LOST pair=baby/" in caplog.text


def test_what_an_answer_says_of_pairs_that_were_not_asked_for_loses_nothing() -> None:
    with linked() as (learner, rig):
        told(learner, rig, Span(EPOCH, 0, 9, True))
        rig.says(PairsReply(2, "baby", EPOCH, 0, 9, [(0, 9)]))
        assert learner.takes() == []
        assert learner.ledger.stats().pending == 9
        learner.asks(has_room=True)
        first, last = asked(rig, 1)[0]
        rig.says(PairsReply(2, "baby", EPOCH, first, 1 << 40, [(last, 1 << 40)]), rows(make_pairs(first, last)))
        assert learner.takes() == list(range(first, last))
        assert (learner.ledger.stats().lost, learner.ledger.stats().pending) == (0, 9 - last)


def test_an_answer_that_is_too_large_is_refused_and_the_question_asked_again() -> None:
    with linked(max_reply_bytes=100_000) as (learner, rig):
        told(learner, rig, Span(EPOCH, 0, 3, True))
        learner.asks()
        ranges = asked(rig, 1)
        rig.says(PairsReply(2, "baby", EPOCH, 0, 3, []), rows(make_pairs(0, 3, big=True)))
        rig.says(PairsReply(2, "baby", EPOCH, 0, 3, []), [(b"", b"", b"")] * (MAX_ROWS + 9))
        for reason in ("size", "parts"):
            assert learner.socket.poll(60_000)
            with pytest.raises(MalformedMessage, match=reason):
                learner.client.receive(learner.refused.append)
        learner.now_s += SPANS_INTERVAL_S
        told(learner, rig, Span(EPOCH, 0, 3, True))
        learner.asks()
        assert asked(rig, 1) == ranges


def test_an_answer_to_where_that_was_not_asked_is_not_taken() -> None:
    with linked() as (learner, rig):
        learner.asks()
        rig.hears(SpansRequest)
        rig.says(SpansReply(2, "baby", [Span(EPOCH, 0, 9, True)], 12345, 0))
        assert learner.takes() == []
        assert learner.ledger.stats().pending == 0


def owes(learner: Learner) -> bool:
    return learner.client.plan.owes_acknowledgement


def committed(learner: Learner, rig: Rig, first: int, last: int) -> None:
    """These pairs were pulled, given and committed."""
    learner.asks()
    assert asked(rig, 1) == [(first, last)]
    gives(learner, rig, [(first, last)])
    learner.ledger.deliver(make_pairs(first, last))
    learner.client.plan.acknowledge(learner.ledger, learner.ledger.cursor())


def test_an_acknowledgement_is_told_once_and_again_only_where_its_answer_was_lost() -> None:
    with linked() as (learner, rig):
        told(learner, rig, Span(EPOCH, 0, 3, True))
        committed(learner, rig, 0, 3)
        assert owes(learner)
        learner.asks()
        learner.asks()
        first = rig.hears(AckRequest)
        assert (first.consumer, first.upto) == ("me", {EPOCH: 3})
        learner.now_s += SPANS_INTERVAL_S
        told(learner, rig, Span(EPOCH, 0, 3, True))  # it was overtaken
        learner.asks()
        again = rig.hears(AckRequest)
        rig.says(AckReply(2, "baby", again.sent_ns))
        learner.takes()
        assert not owes(learner)
        learner.asks()
        assert not rig.socket.poll(100)


def test_a_confirmation_of_an_older_acknowledgement_is_none_of_the_newer_one() -> None:
    with linked() as (learner, rig):
        told(learner, rig, Span(EPOCH, 0, 3, True))
        committed(learner, rig, 0, 3)
        learner.asks()
        first = rig.hears(AckRequest)
        learner.now_s += SPANS_INTERVAL_S
        told(learner, rig, Span(EPOCH, 0, 5, True))
        learner.asks()
        rig.hears(AckRequest)
        rig.hears(PairsRequest)
        gives(learner, rig, [(3, 5)])
        learner.ledger.deliver(make_pairs(3, 5))
        learner.client.plan.acknowledge(learner.ledger, learner.ledger.cursor())
        learner.asks()
        second = rig.hears(AckRequest)
        assert second.upto == {EPOCH: 5}
        rig.says(AckReply(2, "baby", first.sent_ns))
        learner.takes()
        assert owes(learner)
        rig.says(AckReply(2, "baby", second.sent_ns))
        learner.takes()
        assert not owes(learner)


def test_what_the_last_process_committed_is_acknowledged_as_soon_as_the_spool_is_known() -> None:
    with linked() as (learner, rig):
        told(learner, rig, Span(EPOCH, 0, 3, True))
        committed(learner, rig, 0, 3)
    cursor = learner.ledger.cursor()
    with linked(durable=cursor) as (after, rig):
        after.ledger = Ledger(cursor)
        told(after, rig, Span(EPOCH, 0, 3, True))
        after.asks()
        question = rig.hears(AckRequest)
        assert question.upto == {EPOCH: 3}


def test_a_commit_from_before_a_new_epoch_was_named_is_acknowledged_in_full_once_it_is() -> None:
    with linked() as (learner, rig):
        told(learner, rig, Span(EPOCH, 0, 0, True))
        (pair,) = make_pairs(0, 1, epoch=OTHER_EPOCH)
        assert learner.ledger.receive(pair, 0.5)
        learner.ledger.deliver([pair])
        learner.client.plan.acknowledge(learner.ledger, learner.ledger.cursor())
        learner.asks()
        question = rig.hears(AckRequest)
        assert question.upto == {EPOCH: 0}
        rig.says(AckReply(2, "baby", question.sent_ns))
        learner.takes()
        learner.now_s += SPANS_INTERVAL_S
        told(learner, rig, Span(OTHER_EPOCH, 0, 1, True))
        learner.asks()
        question = rig.hears(AckRequest)
        assert question.upto == {OTHER_EPOCH: 1}


def test_a_learner_without_a_name_pulls_and_acknowledges_nothing() -> None:
    with linked(consumer="") as (learner, rig):
        told(learner, rig, Span(EPOCH, 0, 3, True))
        committed(learner, rig, 0, 3)
        assert not owes(learner)
        learner.asks()
        assert not rig.socket.poll(100)
