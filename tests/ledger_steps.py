"""Messages of a rig, and what a consumer's ledger makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator

from rig_model import pair

from stream.live.announcements import Bye, Hello
from stream.live.backfill_messages import PairsReply, Span, SpansReply
from stream.live.ledger import Ledger
from stream.pair import EncodedPair
from stream.source import Cursor

EPOCHS = tuple(letter * 32 for letter in "0123456789abcdef")
LATER_S = 100.0


def hello(next_seq: int, *, device: str = "baby", epoch: str = EPOCHS[0], backfill: bool = False) -> Hello:
    return Hello(device=device, epoch=epoch, next_seq=next_seq, backfill=backfill)


def bye(next_seq: int, *, device: str = "baby", epoch: str = EPOCHS[0], backfill: bool = False) -> Bye:
    return Bye(device=device, epoch=epoch, next_seq=next_seq, backfill=backfill)


def here(*spans: Span, device: str = "baby") -> SpansReply:
    return SpansReply(2, device, list(spans), 0, 0)


def span(tail: int, head: int, *, epoch: str = EPOCHS[0], goes_on: bool = True) -> Span:
    return Span(epoch, tail, head, goes_on)


def gave(
    first: int, upto: int, *, epoch: str = EPOCHS[0], device: str = "baby", without: tuple[int, ...] = ()
) -> PairsReply:
    return PairsReply(2, device, epoch, first, upto, [(seq, seq + 1) for seq in without if first <= seq < upto])


def pulled(ledger: Ledger, *, without: tuple[int, ...] = (), limit: int = 4) -> Iterator[EncodedPair]:
    """Everything that the spool at place 0 is asked for; it has all but these numbers."""
    while (wanted := ledger.next_request(0, limit, LATER_S, ())) is not None:
        epoch, first, last = wanted
        rows = [pair(seq, epoch=epoch) for seq in range(first, last) if seq not in without]
        yield from ledger.receive_pairs(gave(first, last, epoch=epoch, without=without), rows, 0)


def lost(ledger: Ledger, epoch: str = EPOCHS[0]) -> list[list[int]]:
    ranges: list[list[int]] = stored(ledger)["devices"]["baby"]["epochs"][epoch]["lost"]
    return ranges


def stored(ledger: Ledger) -> Cursor:
    """The cursor as it comes back from a store."""
    cursor: Cursor = json.loads(json.dumps(ledger.cursor()))
    return cursor


def seqs(pairs: list[EncodedPair] | Iterator[EncodedPair]) -> list[int]:
    return [one.header.seq for one in pairs]
