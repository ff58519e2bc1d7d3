"""What is said on a rig's second socket, by which a learner pulls what the live stream dropped.

The learner asks, the rig answers; every question is idempotent, so that one without an answer is simply asked again.

    Where                -> Here    which pairs the rig has, as spans of numbers per epoch; what time it is there, how it is
    Get a range          -> Gave    as many of them as the credit allows, from the first one on; what is lost of them for ever
    Ack                  -> Acked   what the learner has made durable; the rig keeps a pair until every learner it knows did

An answer that names a range as lost is final. Bodies are msgpack, typed and bounded; pairs travel as in the live stream.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, TypeVar

import msgspec

from stream.errors import MalformedMessage
from stream.pair import MAX_EYE_BYTES

MAX_BODY_BYTES = 1 << 20
MAX_EPOCHS = 4096
"""Of one rig: runs of which its spool still holds pairs."""
MAX_LOST_RANGES = 4096
MAX_ROWS = 4096
MAX_CREDIT_BYTES = 4 << 20
"""A learner that asks and never reads takes a few times so much of the rig's memory."""

MIN_CELSIUS, MAX_CELSIUS = -100.0, 200.0
"""No rig is beyond."""

Seq = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Epoch = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
Device = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z")]
Consumer = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?\Z")]
"""A learner by the name its run keeps; empty: nobody a pair would be kept for."""
Row = tuple[bytes, bytes, bytes]
"""Header part, left, right: `stream.codec.to_parts(pair)[1:]`."""


class Span(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The pairs of an epoch: those below `tail` are gone from the rig, those from `head` on are not there (yet)."""

    epoch: Epoch
    tail: Seq
    head: Seq
    open: bool
    """Whether the epoch goes on; where it does not, what is not below `head` will never be there."""

    def __post_init__(self) -> None:
        if self.tail > self.head:
            raise ValueError("a span's tail is beyond its head")


class Vitals(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """How a rig itself is, as far as it knows. What a newer rig tells beyond is passed over."""

    battery: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """Charge, 0 to 1."""
    temperature_c: Annotated[float, msgspec.Meta(ge=MIN_CELSIUS, le=MAX_CELSIUS)] | None = None
    """Of its hottest sensor, degrees Celsius."""

    def __post_init__(self) -> None:
        if not all(value is None or math.isfinite(value) for value in (self.battery, self.temperature_c)):
            raise ValueError("a rig's battery and temperature must be finite")


class Where(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="where"):
    """Ask for the spans; from now on the rig keeps pairs for this consumer."""

    version: Literal[2]
    consumer: Consumer
    sent_ns: Seq


class Here(msgspec.Struct, frozen=True, array_like=True, tag="here"):
    """The answer to Where. What a newer rig tells beyond is passed over."""

    version: Literal[2]
    device: Device
    spans: Annotated[list[Span], msgspec.Meta(max_length=MAX_EPOCHS)]
    asked_ns: Seq
    """`sent_ns` of the question."""
    now_ns: Seq
    """The rig's clock, nanoseconds since 1970."""
    vitals: Vitals = Vitals()


class Get(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="get"):
    """Ask for the pairs [first, last) of an epoch, images of `credit_bytes` at most, but at least one pair."""

    version: Literal[2]
    consumer: Consumer
    epoch: Epoch
    first: Seq
    last: Seq
    credit_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_CREDIT_BYTES)]


class Gave(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="gave"):
    """The answer to Get: everything of [first, next) is among the rows that follow it, or lost. Empty: not now."""

    version: Literal[2]
    device: Device
    epoch: Epoch
    first: Seq
    next: Seq
    lost: Annotated[list[tuple[Seq, Seq]], msgspec.Meta(max_length=MAX_LOST_RANGES)]
    """Ranges [a, b)."""


class Ack(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="ack"):
    """Everything below `upto[epoch]` is durable with this consumer, or lost for good."""

    version: Literal[2]
    consumer: Consumer
    upto: Annotated[dict[Epoch, Seq], msgspec.Meta(max_length=MAX_EPOCHS)]
    sent_ns: Seq


class Acked(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="acked"):
    """The answer to Ack."""

    version: Literal[2]
    device: Device
    asked_ns: Seq
    """`sent_ns` of the question: an older one may be confirmed when a newer one is under way."""


_T = TypeVar("_T")

Question = Where | Get | Ack
Answer = Here | Gave | Acked


@dataclass(frozen=True, slots=True)
class Reading:
    """What a shelf gives for a range from `first` on: all of [first, next) is among the rows, or inside `lost`."""

    next: int
    lost: Sequence[tuple[int, int]]
    rows: Sequence[Row]


class Shelf(Protocol):
    """Where the pairs lie that can be asked for: a rig's spool. Its methods may be called by another thread."""

    @property
    def device(self) -> str:
        """Whose pairs these are."""

    def spans(self) -> list[Span]:
        """The epochs it holds, oldest first; the open one is the last, and is named even while it is empty."""

    def read(self, epoch: str, first: int, last: int, credit_bytes: int) -> Reading:
        """The pairs [first, last) in order, as many as the credit allows but at least one where there is one.

        Not more than MAX_ROWS rows and MAX_LOST_RANGES lost ranges: `last` may be beyond everything there is. Of an epoch
        that it does not know (any more) everything is lost.
        """

    def register(self, consumer: str) -> None:
        """Keep pairs for this consumer from now on; idempotent."""

    def acknowledge(self, consumer: str, upto: Mapping[str, int]) -> None:
        """Everything below `upto[epoch]` is durable with this consumer; numbers never go back."""


_encoder = msgspec.msgpack.Encoder()
_questions: msgspec.msgpack.Decoder[Where | Get | Ack] = msgspec.msgpack.Decoder(Question)
_answers: msgspec.msgpack.Decoder[Here | Gave | Acked] = msgspec.msgpack.Decoder(Answer)


def to_body(message: Question | Answer) -> bytes:
    """A question or answer as msgpack."""
    return _encoder.encode(message)


def read_question(parts: Sequence[bytes]) -> Question:
    """The question in a message's parts; raises MalformedMessage, and nothing else."""
    if len(parts) != 1:
        raise MalformedMessage("parts", f"a question has 1 part, got {len(parts)}")
    question = _read(parts[0], _questions)
    if isinstance(question, Get) and question.last <= question.first:
        raise MalformedMessage("header", f"a range [{question.first}, {question.last}) is empty")
    return question


def read_answer(parts: Sequence[bytes]) -> tuple[Answer, list[Row]]:
    """The answer in a message's parts and its rows, which are not read; raises MalformedMessage, and nothing else."""
    if not parts or len(parts) % 3 != 1 or len(parts) > 1 + 3 * MAX_ROWS:
        raise MalformedMessage("parts", f"an answer has 1 part and 3 for each pair, got {len(parts)}")
    if any(len(part) > MAX_EYE_BYTES for part in parts[1:]):
        raise MalformedMessage("size", "a part of an answer is out of bounds")
    answer = _read(parts[0], _answers)
    if len(parts) > 1 and not isinstance(answer, Gave):
        raise MalformedMessage("parts", "only the answer to a get carries pairs")
    if isinstance(answer, Gave) and not _is_consistent(answer):
        raise MalformedMessage("header", "lost ranges lie outside of the range that was answered")
    rows = [(parts[at], parts[at + 1], parts[at + 2]) for at in range(1, len(parts), 3)]
    return answer, rows


def _is_consistent(gave: Gave) -> bool:
    return gave.first <= gave.next and all(gave.first <= a < b <= gave.next for a, b in gave.lost)


def _read(body: bytes, decoder: msgspec.msgpack.Decoder[_T]) -> _T:
    if len(body) > MAX_BODY_BYTES:
        raise MalformedMessage("size", f"a body of {len(body)} bytes is out of bounds")
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage("header", str(error)) from error
