"""The consumer's side of one rig's second socket: it sends the requests of the plan, and verifies the replies of the rig.

The subscriber's thread uses it between live messages.
"""

from __future__ import annotations

from collections.abc import Callable

import zmq

from stream import codec
from stream.errors import MalformedMessage
from stream.image import MAX_EYE_BYTES
from stream.live.backfill_messages import MAX_ROWS, PairParts, PairsReply, Reply, decode_reply, encode_message
from stream.live.backfill_plan import CREDIT_BYTES, BackfillPlan
from stream.live.ledger import Ledger
from stream.pair import EncodedPair
from stream.transport.dialer import Dialer

HIGH_WATER = 8
"""Requests that may wait to be sent."""
MAX_PARTS = 1 + 3 * MAX_ROWS
MAX_REPLY_BYTES = CREDIT_BYTES + 2 * MAX_EYE_BYTES
"""Limit of the pairs in one reply; a larger reply is refused. (A rig sends one pair even if it is larger than the credit.)"""


class BackfillClient:
    """Sends requests to one rig, and receives its replies.

    dialer: of a DEALER with options and security set; the caller closes it.
    """

    def __init__(self, dialer: Dialer, plan: BackfillPlan, *, max_reply_bytes: int = MAX_REPLY_BYTES) -> None:
        self._dialer = dialer
        self.plan = plan
        self._max_reply_bytes = max_reply_bytes

    def send_requests(self, ledger: Ledger, *, has_room: bool) -> None:
        """Send the requests whose time has come. While there is no connection, nothing is queued for later."""
        while (request := self.plan.next_request(ledger, has_room=has_room)) is not None:
            try:
                self._dialer.socket.send(encode_message(request), zmq.NOBLOCK)
            except zmq.Again:
                return
            self.plan.sent(request)

    def receive(self, refuse: Callable[[MalformedMessage], None]) -> tuple[Reply, list[EncodedPair]] | None:
        """Return one reply and its valid pairs, or None if no reply has arrived. Raises MalformedMessage for a malformed reply.

        refuse: called for each pair that is not valid, and for each signal.
        """
        try:
            parts = self._dialer.receive(max_parts=MAX_PARTS, max_bytes=self._max_reply_bytes)
        except zmq.Again:
            return None
        reply, rows = decode_reply(parts)
        pairs = []
        if isinstance(reply, PairsReply):
            for row in rows:
                try:
                    pairs.append(_verified(row, reply, refuse))
                except MalformedMessage as error:
                    refuse(error)
        return reply, pairs


def _verified(row: PairParts, reply: PairsReply, refuse: Callable[[MalformedMessage], None]) -> EncodedPair:
    pair = codec.from_parts([codec.TOPIC, *row], refuse)
    header = pair.header
    if (header.device, header.epoch) != (reply.device, reply.epoch) or not reply.first <= header.seq < reply.next:
        raise MalformedMessage("header", f"{header.name} was not requested")
    return pair
