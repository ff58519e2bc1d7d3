"""Which requests a consumer sends to one rig's spool, and when. Pure: clocks and messages are passed in.

It decides when to send a request; the ledger decides which pairs to request. Two requests for pairs are under way at a time, so
that the rig reads the next pairs while the last ones travel. Each requests few pairs, so that a live pair never waits long.

Replies come in the order of the requests. So a request is known to be lost, and is sent again, once a later one has a reply; a
slow link alone never makes us send one twice. Requests for spans are sent all the time, for this purpose too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from stream.live import backfill_messages as messages
from stream.live.ledger import Ledger
from stream.pair import EncodedPair
from stream.source import Cursor

log = logging.getLogger(__name__)

CREDIT_BYTES = 1 << 20
UNDER_WAY = 2
MAX_PAIRS = 256
"""Largest number of pairs in one request; it matters where images are small."""
SPANS_INTERVAL_S = 1.0
SPANS_FIRST_INTERVAL_S = 0.2
"""Seconds between two requests for spans until the rig has replied for the first time."""
MAX_SPANS_UNDER_WAY = 64
"""Largest number of requests for spans without a reply; more than one, because on a slow link the replies wait behind pairs."""
PAUSE_S = 1.0
"""Pause after a reply without any pair, so that a rig in trouble gets few requests."""
FIRST_PAIR_BYTES = 64 << 10
"""The assumed size of a pair until one was received."""


class BackfillPlan:
    """Decides which requests one rig's spool gets.

    endpoint: number of the rig's endpoint in the ledger. consumer: name under which the rig keeps pairs for us; empty for none.
    durable: the cursor that the last process left. clock: seconds, monotonic. clock_ns: nanoseconds since 1970.
    """

    def __init__(
        self,
        endpoint: int,
        consumer: str,
        durable: Cursor | None,
        *,
        clock: Callable[[], float],
        clock_ns: Callable[[], int],
    ) -> None:
        self._endpoint = endpoint
        self._consumer = consumer
        self._clock, self._clock_ns = clock, clock_ns
        self._durable = durable
        self._pairs_requests: dict[messages.PairsRequest, float] = {}  # under way, and when they were sent, in seconds
        self._spans_requests: dict[int, float] = {}  # sent_s by sent_ns
        self._spans_due_s = self._pairs_due_s = float("-inf")
        self._answered = False
        self._kept = True
        self._pair_bytes = float(FIRST_PAIR_BYTES)
        self._epochs: set[str] = set()
        self._ack_owed: dict[str, int] = {}
        self._ack_confirmed: dict[str, int] = {}
        self._ack: tuple[messages.AckRequest, float] | None = None  # under way, since when
        self._leaving = False
        self._leave_ns: int | None = None

    def leave(self) -> None:
        """From now on only tell the rig that the consumer does not come back."""
        self._leaving = bool(self._consumer) and self._answered

    @property
    def is_leaving(self) -> bool:
        """Whether the rig has not confirmed that the consumer leaves."""
        return self._leaving

    @property
    def owes_acknowledgement(self) -> bool:
        """Whether the rig has not confirmed the last acknowledgement yet."""
        return self._ack_owed != self._ack_confirmed

    def acknowledge(self, ledger: Ledger, cursor: Cursor) -> None:
        """Note that the pairs of a cursor are durable; the acknowledgement is sent until the rig has confirmed it."""
        self._durable = cursor
        self._update_ack(ledger)

    def next_request(self, ledger: Ledger, *, has_room: bool) -> messages.Request | None:
        """Return the request to send now, or None. Pairs are requested only if there is room for them.

        Call `sent` once it was sent. Otherwise it is due again: a request for spans after its interval, any other one at once.
        """
        now_s = self._clock()
        if self._leaving or self._leave_ns is not None:  # any other request would bring the name back
            return None if self._leave_ns is not None else messages.LeaveRequest(2, self._consumer, self._clock_ns())
        if now_s >= self._spans_due_s:
            self._spans_due_s = now_s + (SPANS_INTERVAL_S if self._answered else SPANS_FIRST_INTERVAL_S)
            return messages.SpansRequest(2, self._consumer, self._clock_ns())
        if self.owes_acknowledgement and (self._ack is None or self._ack[0].upto != self._ack_owed):
            return messages.AckRequest(2, self._consumer, self._ack_owed, self._clock_ns())
        if not has_room or now_s < self._pairs_due_s or len(self._pairs_requests) >= UNDER_WAY:
            return None
        under_way = [(sent.epoch, sent.first, sent.last) for sent in self._pairs_requests]
        max_pairs = min(max(1, int(CREDIT_BYTES / self._pair_bytes)), MAX_PAIRS)
        missing = ledger.next_request(self._endpoint, max_pairs, now_s, under_way)
        return None if missing is None else messages.PairsRequest(2, self._consumer, *missing, CREDIT_BYTES)

    def sent(self, request: messages.Request) -> None:
        """Note that a request is under way."""
        now_s = self._clock()
        match request:
            case messages.SpansRequest():
                self._spans_requests[request.sent_ns] = now_s
                while len(self._spans_requests) > MAX_SPANS_UNDER_WAY:  # the oldest were never answered
                    self._spans_requests.pop(next(iter(self._spans_requests)))
            case messages.AckRequest():
                self._ack = request, now_s
            case messages.LeaveRequest():
                self._leave_ns = request.sent_ns
            case messages.PairsRequest():
                self._pairs_requests[request] = now_s

    def receive(self, reply: messages.Reply, pairs: Sequence[EncodedPair], ledger: Ledger) -> list[EncodedPair]:
        """Enter a reply and its verified pairs into the ledger, and return the pairs that are new. Raises MalformedMessage."""
        match reply:
            case messages.SpansReply():
                sent_s = self._spans_requests.pop(reply.asked_ns, None)
                if sent_s is not None:
                    self._receive_spans(reply, sent_s, ledger)
                return []
            case messages.AckReply():
                if self._ack is not None and self._ack[0].sent_ns == reply.asked_ns:
                    self._ack_confirmed, self._ack = self._ack[0].upto, None
                if reply.asked_ns == self._leave_ns:
                    self._leaving = False
                return []
            case messages.PairsReply():
                return self._receive_pairs(reply, pairs, ledger)

    def _receive_spans(self, reply: messages.SpansReply, sent_s: float, ledger: Ledger) -> None:
        self._answered = True
        if self._kept and not reply.kept:
            text = (
                "rig %s keeps no pairs for %s (its log says why): what this process misses while it is away may be lost"
            )
            log.warning(text, reply.device, self._consumer)
        self._kept = reply.kept
        # Requests that were sent before this one were lost: replies come in order.
        self._pairs_requests = {one: one_s for one, one_s in self._pairs_requests.items() if one_s >= sent_s}
        if self._ack is not None and self._ack[1] < sent_s:
            self._ack = None
        ledger.receive_spans(reply, self._endpoint, sent_s, self._clock_ns())
        epochs = {span.epoch for span in reply.spans}
        if epochs != self._epochs:
            self._epochs = epochs
            self._update_ack(ledger)

    def _receive_pairs(
        self, reply: messages.PairsReply, pairs: Sequence[EncodedPair], ledger: Ledger
    ) -> list[EncodedPair]:
        request = next(
            (one for one in self._pairs_requests if (one.epoch, one.first) == (reply.epoch, reply.first)), None
        )
        if request is None:  # nobody waits for it: it came twice, or was never requested
            return []
        del self._pairs_requests[request]
        self._pairs_due_s = self._clock() + PAUSE_S  # this pause also follows a reply that the ledger refuses
        asked = messages.within(reply, request.last)
        new = ledger.receive_pairs(asked, [pair for pair in pairs if pair.header.seq < asked.next], self._endpoint)
        if reply.next > reply.first:
            self._pairs_due_s = float("-inf")
        for pair in pairs:
            self._pair_bytes += (pair.size_bytes - self._pair_bytes) / 8
        return new

    def _update_ack(self, ledger: Ledger) -> None:
        if self._consumer and self._durable is not None:
            self._ack_owed = ledger.acknowledgement(self._durable, self._endpoint)
