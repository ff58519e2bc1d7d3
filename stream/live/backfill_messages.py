"""The messages on a rig's second socket, by which a consumer pulls the pairs that the live stream dropped.

The consumer sends requests, the rig replies. Every request is idempotent, so that one without a reply is simply sent again.

    SpansRequest -> SpansReply   which pairs the rig has, as spans of numbers by epoch; its clock and its state
    PairsRequest -> PairsReply   the pairs of a range, from the first one on, as far as the credit goes; which of them are lost
    AckRequest   -> AckReply     which pairs are durable; the rig keeps a pair until every consumer that it knows has it

A range that a reply names as lost is final. Bodies are msgpack, typed and bounded; pairs travel as in the live stream.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, TypeVar

import msgspec

from stream.errors import MalformedMessage
from stream.image import MAX_EYE_BYTES

MAX_BODY_BYTES = 1 << 20
MAX_EPOCHS = 4096
"""Of one rig: epochs of which its spool still holds pairs."""
MAX_LOST_RANGES = 4096
MAX_ROWS = 4096
MAX_CREDIT_BYTES = 4 << 20
"""A consumer that sends requests and never reads takes a few times as much of the rig's memory."""

MIN_CELSIUS, MAX_CELSIUS = -100.0, 200.0
"""Bounds of any plausible temperature."""

Seq = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Epoch = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
Device = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z")]
Consumer = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?\Z")]
"""The name that a consumer keeps over its restarts; empty: the rig keeps no pairs for it."""
PairParts = tuple[bytes, bytes, bytes]
"""Header part, left, right: `stream.codec.to_parts(pair)[1:]`."""


class Span(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The pairs [tail, head) of an epoch. Those below `tail` have left the spool, those from `head` on do not exist (yet)."""

    epoch: Epoch
    tail: Seq
    head: Seq
    open: bool
    """Whether the epoch continues. Where it does not, no pair from `head` on will ever exist."""

    def __post_init__(self) -> None:
        if self.tail > self.head:
            raise ValueError("a span's tail is beyond its head")


class Vitals(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The state of the rig itself, as far as it is known. Further fields of a newer rig are ignored."""

    battery: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """Charge, 0 to 1."""
    temperature_c: Annotated[float, msgspec.Meta(ge=MIN_CELSIUS, le=MAX_CELSIUS)] | None = None
    """Of the hottest sensor, degrees Celsius."""

    def __post_init__(self) -> None:
        if not all(value is None or math.isfinite(value) for value in (self.battery, self.temperature_c)):
            raise ValueError("a rig's battery and temperature must be finite")


class SpansRequest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="where"):
    """Requests the spans. From now on the rig keeps pairs for this consumer."""

    version: Literal[2]
    consumer: Consumer
    sent_ns: Seq


class SpansReply(msgspec.Struct, frozen=True, array_like=True, tag="here"):
    """Replies to SpansRequest. Further fields of a newer rig are ignored."""

    version: Literal[2]
    device: Device
    spans: Annotated[list[Span], msgspec.Meta(max_length=MAX_EPOCHS)]
    asked_ns: Seq
    """`sent_ns` of the request."""
    now_ns: Seq
    """The rig's clock, nanoseconds since 1970."""
    vitals: Vitals = Vitals()


class PairsRequest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="get"):
    """Requests the pairs [first, last) of an epoch: at most `credit_bytes` of images, but at least one pair."""

    version: Literal[2]
    consumer: Consumer
    epoch: Epoch
    first: Seq
    last: Seq
    credit_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_CREDIT_BYTES)]


class PairsReply(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="gave"):
    """Replies to PairsRequest. Each pair of [first, next) is among the rows that follow, or lost. An empty range: not now."""

    version: Literal[2]
    device: Device
    epoch: Epoch
    first: Seq
    next: Seq
    lost: Annotated[list[tuple[Seq, Seq]], msgspec.Meta(max_length=MAX_LOST_RANGES)]
    """Ranges [a, b)."""


class AckRequest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="ack"):
    """All pairs below `upto[epoch]` are durable at this consumer, or lost for good."""

    version: Literal[2]
    consumer: Consumer
    upto: Annotated[dict[Epoch, Seq], msgspec.Meta(max_length=MAX_EPOCHS)]
    sent_ns: Seq


class AckReply(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="acked"):
    """Replies to AckRequest."""

    version: Literal[2]
    device: Device
    asked_ns: Seq
    """`sent_ns` of the request: an older one may be confirmed while a newer one is under way."""


_T = TypeVar("_T")

Request = SpansRequest | PairsRequest | AckRequest
Reply = SpansReply | PairsReply | AckReply


@dataclass(frozen=True, slots=True)
class Reading:
    """A range of a shelf from `first` on: each pair of [first, next) is among the rows, or inside `lost`."""

    next: int
    lost: Sequence[tuple[int, int]]
    rows: Sequence[PairParts]


class Shelf(Protocol):
    """Holds the pairs that can be requested: a rig's spool. Another thread may call its methods."""

    @property
    def device(self) -> str:
        """The name of the rig that made the pairs."""

    def spans(self) -> list[Span]:
        """The epochs that it holds, oldest first. The open one is the last, and is named even while it is empty."""

    def read(self, epoch: str, first: int, last: int, credit_bytes: int) -> Reading:
        """The pairs [first, last) in order, as many as the credit allows but at least one where there is one.

        There are at most MAX_ROWS rows and MAX_LOST_RANGES lost ranges; `last` may be beyond the last pair. All pairs of an
        unknown epoch are lost.
        """

    def register(self, consumer: str) -> None:
        """Keep pairs for this consumer from now on; idempotent."""

    def acknowledge(self, consumer: str, upto: Mapping[str, int]) -> None:
        """All pairs below `upto[epoch]` are durable at this consumer; the numbers never decrease."""


_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[SpansRequest | PairsRequest | AckRequest] = msgspec.msgpack.Decoder(Request)
_replies: msgspec.msgpack.Decoder[SpansReply | PairsReply | AckReply] = msgspec.msgpack.Decoder(Reply)


def encode_message(message: Request | Reply) -> bytes:
    """A request or reply as msgpack."""
    return _encoder.encode(message)


def decode_request(parts: Sequence[bytes]) -> Request:
    """The request in the parts of a message. Raises MalformedMessage, and nothing else."""
    if len(parts) != 1:
        raise MalformedMessage("parts", f"a request has 1 part, got {len(parts)}")
    request = _read(parts[0], _requests)
    if isinstance(request, PairsRequest) and request.last <= request.first:
        raise MalformedMessage("header", f"a range [{request.first}, {request.last}) is empty")
    return request


def decode_reply(parts: Sequence[bytes]) -> tuple[Reply, list[PairParts]]:
    """The reply in the parts of a message, and its rows, which are not decoded. Raises MalformedMessage, and nothing else."""
    if not parts or len(parts) % 3 != 1 or len(parts) > 1 + 3 * MAX_ROWS:
        raise MalformedMessage("parts", f"a reply has 1 part and 3 for each pair, got {len(parts)}")
    if any(len(part) > MAX_EYE_BYTES for part in parts[1:]):
        raise MalformedMessage("size", "a part of a reply is out of bounds")
    reply = _read(parts[0], _replies)
    if len(parts) > 1 and not isinstance(reply, PairsReply):
        raise MalformedMessage("parts", "only the reply to a request for pairs carries pairs")
    if isinstance(reply, PairsReply) and not _is_consistent(reply):
        raise MalformedMessage("header", "lost ranges lie outside of the range of the reply")
    rows = [(parts[at], parts[at + 1], parts[at + 2]) for at in range(1, len(parts), 3)]
    return reply, rows


def _is_consistent(reply: PairsReply) -> bool:
    return reply.first <= reply.next and all(reply.first <= a < b <= reply.next for a, b in reply.lost)


def _read(body: bytes, decoder: msgspec.msgpack.Decoder[_T]) -> _T:
    if len(body) > MAX_BODY_BYTES:
        raise MalformedMessage("size", f"a body of {len(body)} bytes is out of bounds")
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage("header", str(error)) from error
