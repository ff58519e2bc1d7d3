"""The messages of a publisher beside its pairs: `hello` when a subscriber joins, `bye` when its stream has ended.

Both carry the position of the device, so that a subscriber knows where it joined, which pairs it missed at the end, and whether
those can be pulled from a spool (`stream.live.backfill_messages`). A hello is sent after the subscription took effect, and not
as ZeroMQ's welcome message: that one is written when the connection is made, and pairs sent in between would look like lost ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import msgspec

from stream.errors import MalformedMessage
from stream.pair import Count, Device, Epoch

MAX_BODY_BYTES = 256


class Position(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """The position of a device in its stream: its next pair has number `next_seq` of `epoch`."""

    version: Literal[2] = 2
    device: Device
    epoch: Epoch
    next_seq: Count
    backfill: bool = False
    """Whether the rig keeps a spool, and answers requests at the next port. Without a spool every missing pair is lost at
    once."""


class Hello(Position, frozen=True, kw_only=True):
    """Sent when a subscriber joins: the pairs that it will receive begin with number `next_seq`."""


class Bye(Position, frozen=True, kw_only=True):
    """Sent at the end of a stream: no pair follows. `next_seq` is the number of the last pair plus one."""


CONFIRMATION = b"confirm "
"""To confirm a bye, a subscriber subscribes to this topic plus the epoch and unsubscribes again; the publisher sees both."""
Announcement = Hello | Bye
TOPICS: dict[bytes, Callable[[bytes], Announcement]] = {
    b"hello": msgspec.msgpack.Decoder(Hello).decode,
    b"bye": msgspec.msgpack.Decoder(Bye).decode,
}
"""How the body of each kind of announcement is decoded."""

_T = TypeVar("_T")


def to_parts(message: Announcement) -> list[bytes]:
    """Return the parts of the message: the topic, and the position as msgpack."""
    return [b"hello" if isinstance(message, Hello) else b"bye", msgspec.msgpack.encode(message)]


def from_parts(parts: Sequence[bytes]) -> Announcement:
    """Return the hello or bye in a message. Raises MalformedMessage, and nothing else."""
    if len(parts) != 2 or parts[0] not in TOPICS:
        raise MalformedMessage("parts", f"expected a hello or bye in 2 parts, got {len(parts)}")
    return decode_body(parts[1], TOPICS[parts[0]], MAX_BODY_BYTES)


def decode_body(body: bytes, decode: Callable[[bytes], _T], max_bytes: int) -> _T:
    """Decode the msgpack body of a message; `decode` is of a msgspec decoder. Raises MalformedMessage, and nothing else."""
    if len(body) > max_bytes:
        raise MalformedMessage("size", f"a body of {len(body)} bytes is out of bounds")
    try:
        return decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage("header", str(error)) from error


class Subscriptions:
    """Counts the subscriptions that an XPUB socket receives. It uses no socket itself. topic: the topic of the pairs."""

    def __init__(self, topic: bytes) -> None:
        self._topic = topic
        self.count = 0
        """Number of subscribers to the pairs at present."""
        self.confirmed = 0
        """Number of subscribers that have confirmed the bye of the epoch."""

    def knows(self, message: bytes, epoch: str) -> bool:
        """Return whether a message is about a topic that something is sent on, or that confirms the bye of the epoch."""
        topic = message[1:]
        return topic == CONFIRMATION + epoch.encode() or any(one.startswith(topic) for one in (self._topic, *TOPICS))

    def read(self, message: bytes, epoch: str) -> int:
        """Count a message; return +1 if a subscriber joined, -1 if one left, and 0 otherwise."""
        self.confirmed += message == b"\1" + CONFIRMATION + epoch.encode()
        if message[:1] not in (b"\0", b"\1") or not self._topic.startswith(message[1:]):
            return 0
        change = 1 if message[:1] == b"\1" else -1
        self.count += change
        return change
