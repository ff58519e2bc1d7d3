"""The learner's end of one rig's second socket: asks what is there, pulls what is missing, acknowledges what is durable.

Used by the subscriber's thread, between live messages. It decides when to ask; what to ask for is the ledger's to say.
Two questions are under way at a time, so that the rig reads the next pairs while the last ones travel; each asks for
little, so that a live pair waits behind little.

Answers come in the order of the questions. So a question is lost, and asked again, once one that was sent after it has
been answered; however slow the link is, none is asked twice because of that. Where is sent all the time, for this too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import zmq

from stream import codec
from stream.errors import MalformedMessage
from stream.live.backfill_messages import MAX_ROWS, Ack, Acked, Gave, Get, Here, Row, Where, read_answer, to_body
from stream.live.ledger import Ledger
from stream.pair import MAX_EYE_BYTES, EncodedPair
from stream.source import Cursor

CREDIT_BYTES = 1 << 20
UNDER_WAY = 2
MAX_PAIRS = 256
"""Of one question: small images."""
WHERE_INTERVAL_S = 1.0
WHERE_FIRST_INTERVAL_S = 0.2
"""Until the rig has answered for the first time."""
MAX_WHERES = 64
"""Under way: on a slow link they wait behind pairs."""
PAUSE_S = 1.0
"""After an answer that brought nothing, so that a rig in trouble is not asked without end."""
HIGH_WATER = 8
MAX_PARTS = 1 + 3 * MAX_ROWS
MAX_ANSWER_BYTES = CREDIT_BYTES + 2 * MAX_EYE_BYTES
"""Of pairs; one is given even if it is larger than the credit. A rig that sends more gets its answer refused."""
_FIRST_PAIR_BYTES = 64 << 10  # a guess until a pair came


@dataclass(frozen=True, slots=True)
class _Asked:
    epoch: str
    first: int
    last: int
    sent_s: float


@dataclass(frozen=True, slots=True)
class _Told:
    """An acknowledgement under way."""

    upto: dict[str, int]
    sent_ns: int
    sent_s: float


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer whose pairs have been verified; `refused` are the reasons of those that were not valid."""

    answer: Here | Gave | Acked
    pairs: tuple[EncodedPair, ...] = ()
    refused: tuple[MalformedMessage, ...] = ()


class BackfillClient:
    """One rig's spool as seen from the learner.

    socket: a fresh DEALER, connected, whose security is set; it belongs to the client.
    place: the number of this endpoint in the ledger.
    consumer: name under which the rig keeps pairs for us; empty: it does not.
    durable: the cursor that the last process left.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        place: int,
        consumer: str,
        durable: Cursor | None,
        clock: Callable[[], float],
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.socket = socket
        self.place = place
        self._consumer = consumer
        self._clock = clock
        self._clock_ns = clock_ns
        self._asked: list[_Asked] = []
        self._wheres: dict[int, float] = {}
        self._where_due_s = float("-inf")
        self._answered = False
        self._get_due_s = float("-inf")
        self._pair_bytes = float(_FIRST_PAIR_BYTES)
        self._durable = durable
        self._named: set[str] = set()
        self._owed: dict[str, int] = {}
        self._told: _Told | None = None
        self._confirmed: dict[str, int] = {}

    @property
    def owes_acknowledgement(self) -> bool:
        """Whether the rig has not confirmed the last acknowledgement yet."""
        return self._owed != self._confirmed

    def acknowledge(self, ledger: Ledger, cursor: Cursor) -> None:
        """From now on tell the rig what `cursor` made durable, until it has heard it."""
        self._durable = cursor
        self._owe(ledger)

    def ask(self, ledger: Ledger, *, has_room: bool) -> None:
        """Send what is due: the question where everything is, acknowledgements, and while there is room, for holes."""
        now_s = self._clock()
        if now_s >= self._where_due_s:
            self._ask_where(now_s)
        if self.owes_acknowledgement and (self._told is None or self._told.upto != self._owed):
            self._acknowledge(now_s)
        while has_room and now_s >= self._get_due_s and len(self._asked) < UNDER_WAY:
            if not self._ask_for_hole(ledger, now_s):
                return

    def receive(self) -> Answered | None:
        """One answer, its pairs verified; None where none is there. Raises MalformedMessage."""
        try:
            answer, rows = read_answer(self._receive_parts())
        except zmq.Again:
            return None
        if not isinstance(answer, Gave):
            return Answered(answer)
        pairs, refused = [], []
        for row in rows:
            try:
                pairs.append(_verified(row, answer))
            except MalformedMessage as error:
                refused.append(error)
        return Answered(answer, tuple(pairs), tuple(refused))

    def take(self, answered: Answered, ledger: Ledger) -> list[EncodedPair]:
        """Enter an answer into the ledger; returns the pairs that are new."""
        now_s = self._clock()
        match answer := answered.answer:
            case Here():
                asked_s = self._wheres.pop(answer.asked_ns, None)
                if asked_s is not None:
                    self._here(answer, asked_s, ledger)
                return []
            case Acked():
                if self._told is not None and self._told.sent_ns == answer.asked_ns:
                    self._confirmed, self._told = self._told.upto, None
                return []
            case Gave():
                self._asked = [
                    asked for asked in self._asked if (asked.epoch, asked.first) != (answer.epoch, answer.first)
                ]
                self._get_due_s = now_s + PAUSE_S  # unless this one brings us on
                new = ledger.receive_gave(answer, answered.pairs, self.place)
                if answer.next > answer.first:
                    self._get_due_s = now_s
                for pair in answered.pairs:
                    self._pair_bytes += (len(pair.left) + len(pair.right) - self._pair_bytes) / 8
                return new

    def _here(self, here: Here, asked_s: float, ledger: Ledger) -> None:
        self._answered = True
        self._asked = [asked for asked in self._asked if asked.sent_s >= asked_s]  # the others were overtaken
        if self._told is not None and self._told.sent_s < asked_s:
            self._told = None
        ledger.receive_here(here, self.place, asked_s, self._clock_ns())
        named = {span.epoch for span in here.spans}
        if named != self._named:
            self._named = named
            self._owe(ledger)

    def _owe(self, ledger: Ledger) -> None:
        if self._consumer and self._durable is not None:
            self._owed = ledger.acknowledgement(self._durable, self.place)

    def _acknowledge(self, now_s: float) -> None:
        sent_ns = self._clock_ns()
        if self._send(to_body(Ack(2, self._consumer, self._owed, sent_ns))):
            self._told = _Told(self._owed, sent_ns, now_s)

    def _ask_where(self, now_s: float) -> None:
        sent_ns = self._clock_ns()
        if self._send(to_body(Where(2, self._consumer, sent_ns))):
            self._wheres[sent_ns] = now_s
            while len(self._wheres) > MAX_WHERES:  # those were never answered
                self._wheres.pop(next(iter(self._wheres)))
        self._where_due_s = now_s + (WHERE_INTERVAL_S if self._answered else WHERE_FIRST_INTERVAL_S)

    def _ask_for_hole(self, ledger: Ledger, now_s: float) -> bool:
        under_way: dict[str, list[tuple[int, int]]] = {}
        for asked in self._asked:
            under_way.setdefault(asked.epoch, []).append((asked.first, asked.last))
        limit = min(max(1, int(CREDIT_BYTES / self._pair_bytes)), MAX_PAIRS)
        wanted = ledger.next_request(self.place, limit, now_s, under_way)
        if wanted is None or not self._send(to_body(Get(2, self._consumer, *wanted, CREDIT_BYTES))):
            return False
        self._asked.append(_Asked(*wanted, now_s))
        return True

    def _send(self, body: bytes) -> bool:
        """False where there is no connection: nothing is queued for a rig that is away."""
        try:
            self.socket.send(body, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _receive_parts(self) -> list[bytes]:
        """The parts of one message; of one that is too large not all are kept, so that it is refused."""
        parts, rows_bytes = [self.socket.recv(zmq.NOBLOCK)], 0
        while self.socket.get(zmq.RCVMORE):
            part = self.socket.recv()
            rows_bytes += len(part)
            if rows_bytes <= MAX_ANSWER_BYTES and len(parts) <= MAX_PARTS:
                parts.append(part)
        if rows_bytes > MAX_ANSWER_BYTES:
            raise MalformedMessage("size", f"an answer of {rows_bytes} bytes is out of bounds")
        return parts


def _verified(row: Row, answer: Gave) -> EncodedPair:
    pair = codec.from_parts([codec.TOPIC, *row])
    header = pair.header
    if (header.device, header.epoch) != (answer.device, answer.epoch) or not answer.first <= header.seq < answer.next:
        raise MalformedMessage("header", f"{header.name} was not asked for")
    return pair
