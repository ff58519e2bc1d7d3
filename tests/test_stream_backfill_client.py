"""The consumer's side of the second socket: which requests it sends, and when, and what it makes of the replies."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import zmq
from backfill_steps import EPOCH, NOISE, OTHER_EPOCH, Rig, asked, make_pairs, rows
from link_steps import open_dialer

from stream.errors import MalformedMessage
from stream.live.backfill_client import MAX_REPLY_BYTES, BackfillClient
from stream.live.backfill_messages import (
    MAX_ROWS,
    AckReply,
    AckRequest,
    PairsReply,
    PairsRequest,
    Span,
    SpansReply,
    SpansRequest,
)
from stream.live.backfill_plan import CREDIT_BYTES, MAX_PAIRS, PAUSE_S, SPANS_INTERVAL_S, UNDER_WAY, BackfillPlan
from stream.live.books.epoch_book import MAX_TRIES
from stream.live.ledger import Ledger
from stream.source import Cursor
from stream.transport.dialer import Dialer


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
