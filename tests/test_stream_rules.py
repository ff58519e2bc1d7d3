"""The rules of receiving that need no socket, thread or clock: the queue, the log limit, and a whole backfill."""

from __future__ import annotations

import itertools
import logging
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from link_steps import EPOCH, make_pairs
from memory_shelf import MemoryShelf

from stream import codec
from stream.failures import Failures
from stream.live.announcements import CONFIRMATION, Subscriptions
from stream.live.backfill_messages import Reply, Vitals
from stream.live.backfill_plan import SPANS_INTERVAL_S, BackfillPlan
from stream.live.backfill_server import reply_to
from stream.live.ledger import Ledger
from stream.live.pair_queue import PairQueue
from stream.pair import EncodedPair

PAIRS = make_pairs(40)


@pytest.mark.parametrize("max_bytes", [1, 3 * PAIRS[0].size_bytes, 1 << 30])
def test_a_queue_has_room_until_a_bound_is_reached_and_gives_pairs_in_order(max_bytes: int) -> None:
    queue, pairs = PairQueue(5, max_bytes), iter(PAIRS)
    while queue.has_room():
        queue.extend([next(pairs)])
    assert len(queue) == min(5, -(-max_bytes // PAIRS[0].size_bytes))
    assert queue.pop(1) == PAIRS[:1]
    assert queue.has_room()
    queue.clear()
    assert (len(queue), queue.pop(9)) == (0, [])


def test_a_queue_without_room_for_anything_is_refused() -> None:
    for bounds in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            PairQueue(*bounds)


def test_failures_are_all_counted_and_each_subject_is_logged_once_an_interval(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 0.0
    failures = Failures(logging.getLogger("test"), 10.0, reasons=("crc", "size"), clock=lambda: now_s)
    for subject in "aab":
        failures.add("crc", f"{subject} is damaged", subject)
    now_s = 10.0
    failures.add("crc", "a is damaged", "a")
    assert caplog.messages == ["a is damaged", "b is damaged (3 times in all)", "a is damaged (4 times in all)"]
    assert failures.counts == {"crc": 4, "size": 0}


def test_subscriptions_to_pairs_and_confirmations_are_counted_apart() -> None:
    subscriptions = Subscriptions(codec.TOPIC)
    confirmed = b"\1" + CONFIRMATION + EPOCH.encode()
    read = [
        subscriptions.read(message, EPOCH) for message in (b"\1", b"\1pair", confirmed, b"\0", b"", b"\2pair", b"\1x")
    ]
    assert read == [1, 1, 0, -1, 0, 0, 0]
    assert (subscriptions.count, subscriptions.confirmed) == (1, 1)


@settings(max_examples=100)
@given(st.lists(st.booleans(), max_size=60), st.sets(st.integers(0, 39)))
def test_every_pair_is_pulled_once_and_acknowledged_whatever_requests_and_replies_are_lost(
    losses: list[bool], rotten: set[int]
) -> None:
    shelf, ledger, lost = MemoryShelf(), Ledger(), iter(losses)
    shelf.append(PAIRS)
    for seq in rotten:
        shelf.rot(seq)
    now_s, stamps = 0.0, itertools.count(1)
    plan = BackfillPlan(0, "me", None, clock=lambda: now_s, clock_ns=lambda: next(stamps))
    link: deque[tuple[Reply, list[EncodedPair]]] = deque()
    received: list[int] = []
    for _ in range(200):
        while (request := plan.next_request(ledger, has_room=True)) is not None:
            plan.sent(request)
            if not next(lost, False):
                reply, rows = reply_to(request, shelf, over=False, now_ns=0, vitals=Vitals)
                link.append((reply, [codec.from_parts([codec.TOPIC, *row]) for row in rows]))
        while link:
            reply, pairs = link.popleft()
            if not next(lost, False):
                new = plan.receive(reply, pairs, ledger)
                received += [pair.header.seq for pair in new]
                ledger.deliver(new)
        plan.acknowledge(ledger, ledger.cursor())
        now_s += SPANS_INTERVAL_S
    assert sorted(received) == sorted(set(range(40)) - rotten)
    assert (ledger.stats().lost, ledger.stats().pending) == (len(rotten), 0)
    assert shelf.held() == 0
    assert not plan.owes_acknowledgement
