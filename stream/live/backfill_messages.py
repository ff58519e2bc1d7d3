"""The messages on a rig's second socket, by which a consumer pulls the pairs that the live stream dropped.

The consumer sends requests, the rig replies. Every request is idempotent, so that one without a reply is simply sent again.

    SpansRequest -> SpansReply   which pairs the rig has, as spans of numbers by epoch; its clock and its state
    PairsRequest -> PairsReply   the pairs of a range, from the first one on, as far as the credit goes; which of them are lost
    LeaveRequest -> AckReply     the consumer does not come back; no pairs are kept for it any more (new in 0.2)
    AckRequest   -> AckReply     which pairs are durable; the rig keeps a pair until every consumer that it knows has it

A range that a reply names as lost is final. Bodies are msgpack, typed and bounded; pairs travel as in the live stream.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import msgspec

from stream.errors import MalformedMessage
from stream.image import MAX_EYE_BYTES
from stream.live.announcements import decode_body
from stream.pair import Count, Device, Epoch

MAX_BODY_BYTES = 1 << 20
MAX_EPOCHS = 4096
"""Largest number of epochs of one rig whose pairs its spool still holds."""
MAX_LOST_RANGES = 4096
MAX_ROWS = 4096
MAX_CREDIT_BYTES = 4 << 20
"""Largest credit. A rig sends less to a consumer that leaves replies unread."""

MIN_CELSIUS, MAX_CELSIUS = -100.0, 200.0
"""Bounds of any plausible temperature."""

Consumer = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?\Z")]
"""The name of a consumer, the same after each restart. The rig keeps no pairs for a consumer with an empty name."""
PairParts = tuple[bytes, bytes, bytes]
"""The message of a pair without its topic: header part, left image, right image (`stream.codec.to_parts(pair)[1:]`)."""


class Span(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The pairs [tail, head) of an epoch that a spool holds.

    Pairs below `tail` have left it; pairs from `head` on do not exist yet.
    """

    epoch: Epoch
    tail: Count
    head: Count
    open: bool
    """Whether the epoch continues. If not, no pair from `head` on will ever exist."""

    def __post_init__(self) -> None:
        if self.tail > self.head:
            raise ValueError("a span's tail is beyond its head")


class Vitals(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Battery and temperature of the rig, as far as they are known. Additional fields from a newer rig are ignored."""

    battery: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """Charge, 0 to 1."""
    temperature_c: Annotated[float, msgspec.Meta(ge=MIN_CELSIUS, le=MAX_CELSIUS)] | None = None
    """Temperature of the hottest sensor, degrees Celsius."""

    def __post_init__(self) -> None:
        if not all(value is None or math.isfinite(value) for value in (self.battery, self.temperature_c)):
            raise ValueError("a rig's battery and temperature must be finite")


class _Request(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: Literal[2]
    consumer: Consumer


class _Reply(msgspec.Struct, frozen=True, array_like=True):
    version: Literal[2]
    device: Device


class SpansRequest(_Request, frozen=True, tag="where"):
    """Asks for the spans of all epochs. From this request on, the rig keeps pairs for the consumer."""

    sent_ns: Count


class SpansReply(_Reply, frozen=True, tag="here"):
    """Replies to SpansRequest. Additional fields from a newer rig are ignored."""

    spans: Annotated[list[Span], msgspec.Meta(max_length=MAX_EPOCHS)]
    asked_ns: Count
    """`sent_ns` of the request."""
    now_ns: Count
    """The rig's clock, nanoseconds since 1970."""
    vitals: Vitals = Vitals()
    kept: bool = True
    """Whether the rig keeps pairs for the consumer that asked; a consumer without a name is told True."""
    kept_from: Annotated[dict[Epoch, Count], msgspec.Meta(max_length=MAX_EPOCHS)] | None = None
    """For each epoch that had begun when the rig heard of the consumer: the first pair that was kept for it then. Every pair of
    all later epochs was kept for it. None: the rig does not know."""


class PairsRequest(_Request, frozen=True, tag="get"):
    """Asks for the pairs [first, last) of an epoch. The reply holds at most `credit_bytes` of images, but at least one pair."""

    epoch: Epoch
    first: Count
    last: Count
    credit_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_CREDIT_BYTES)]


class PairsReply(_Reply, frozen=True, forbid_unknown_fields=True, tag="gave"):
    """Replies to PairsRequest. Each pair of [first, next) is either in the parts that follow or lost.

    If the range is empty, the rig cannot reply now, and the request is to be repeated later.
    """

    epoch: Epoch
    first: Count
    next: Count
    lost: Annotated[list[tuple[Count, Count]], msgspec.Meta(max_length=MAX_LOST_RANGES)]
    """Ranges [a, b) of lost pairs."""


def within(reply: PairsReply, last: int) -> PairsReply:
    """Return a reply without what it says of numbers from `last` on."""
    lost = [(first, min(end, last)) for first, end in reply.lost if first < last]
    return msgspec.structs.replace(reply, next=max(reply.first, min(reply.next, last)), lost=lost)


class AckRequest(_Request, frozen=True, tag="ack"):
    """Reports that all pairs below `upto[epoch]` are durable at this consumer, or lost for good."""

    upto: Annotated[dict[Epoch, Count], msgspec.Meta(max_length=MAX_EPOCHS)]
    sent_ns: Count


class LeaveRequest(_Request, frozen=True, tag="leave"):
    """Reports that the consumer ends and does not come back: the rig forgets its name. Rigs of 0.1 drop it as malformed."""

    sent_ns: Count


class AckReply(_Reply, frozen=True, forbid_unknown_fields=True, tag="acked"):
    """Replies to AckRequest and LeaveRequest."""

    asked_ns: Count
    """`sent_ns` of the confirmed request; a newer request may still be under way."""


Request = SpansRequest | PairsRequest | AckRequest | LeaveRequest
Reply = SpansReply | PairsReply | AckReply


@dataclass(frozen=True, slots=True)
class Reading:
    """The result of reading a shelf: each pair of [first, next) is either among the rows or inside `lost`."""

    next: int
    lost: Sequence[tuple[int, int]]
    rows: Sequence[PairParts]


class Shelf(Protocol):
    """The spool of a rig, as its backfill server uses it. Its methods may be called from another thread."""

    @property
    def device(self) -> str:
        """The name of the rig that made the pairs."""

    def spans(self, *, freed: bool = False) -> list[Span]:
        """Return the spans of all epochs in the spool, in the order of their beginning.

        The open epoch is the last; it is named even while it is empty. An epoch without any pair left is named as long as some
        consumer has not acknowledged all of it. freed: also name the last few hundred of the others, with tail = head, so that a
        consumer with an old cursor counts what it missed. There are at most MAX_EPOCHS in all.
        """

    def read(self, epoch: str, first: int, last: int, credit_bytes: int) -> Reading:
        """Read the pairs [first, last) in order, as many as the credit allows, but at least one if there is one.

        There are at most MAX_ROWS rows and MAX_LOST_RANGES lost ranges; `last` may be beyond the last pair. All pairs of an
        unknown epoch are lost.
        """

    def register(self, consumer: str, peer: str | None = None) -> bool:
        """Keep pairs for this consumer from now on, and return whether they are kept; idempotent.

        peer: the name under which the key of the asking connection is trusted; None where there are no keys. The first peer that
        uses a consumer's name owns it, and every other peer is refused.
        """

    def kept_from(self, consumer: str) -> dict[str, int] | None:
        """Return from where on pairs were kept for a consumer: see `SpansReply.kept_from`."""

    def acknowledge(self, consumer: str, upto: Mapping[str, int], peer: str | None = None) -> None:
        """Record that all pairs below `upto[epoch]` are durable at this consumer; the numbers never decrease.

        peer: as for `register`; an acknowledgement of a peer that does not own the name changes nothing.
        """

    def leave(self, consumer: str, peer: str | None = None) -> None:
        """Keep no pairs for this consumer any more; idempotent. peer: as for `acknowledge`."""


encode_message = msgspec.msgpack.Encoder().encode
"""Encodes a request or a reply."""
_requests: msgspec.msgpack.Decoder[SpansRequest | PairsRequest | AckRequest | LeaveRequest] = msgspec.msgpack.Decoder(
    Request
)
_replies: msgspec.msgpack.Decoder[SpansReply | PairsReply | AckReply] = msgspec.msgpack.Decoder(Reply)


def decode_request(parts: Sequence[bytes]) -> Request:
    """Decode a request from the parts of a message. Raises MalformedMessage, and no other error."""
    if len(parts) != 1:
        raise MalformedMessage("parts", f"a request has 1 part, got {len(parts)}")
    request = decode_body(parts[0], _requests.decode, MAX_BODY_BYTES)
    if isinstance(request, PairsRequest) and request.last <= request.first:
        raise MalformedMessage("header", f"a range [{request.first}, {request.last}) is empty")
    return request


def decode_reply(parts: Sequence[bytes]) -> tuple[Reply, list[PairParts]]:
    """Decode a reply from the parts of a message; return it and its rows, whose pairs are not decoded.

    Raises MalformedMessage, and no other error.
    """
    if not parts or len(parts) % 3 != 1 or len(parts) > 1 + 3 * MAX_ROWS:
        raise MalformedMessage("parts", f"a reply has 1 part and 3 for each pair, got {len(parts)}")
    if any(len(part) > MAX_EYE_BYTES for part in parts[1:]):
        raise MalformedMessage("size", "a part of a reply is out of bounds")
    reply = decode_body(parts[0], _replies.decode, MAX_BODY_BYTES)
    if len(parts) > 1 and not isinstance(reply, PairsReply):
        raise MalformedMessage("parts", "only the reply to a request for pairs carries pairs")
    if isinstance(reply, PairsReply) and not (
        reply.first <= reply.next and all(reply.first <= a < b <= reply.next for a, b in reply.lost)
    ):
        raise MalformedMessage("header", "lost ranges lie outside of the range of the reply")
    rows = [(parts[at], parts[at + 1], parts[at + 2]) for at in range(1, len(parts), 3)]
    return reply, rows
