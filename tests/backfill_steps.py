"""Pairs as the rows of a reply, for the tests of the backfill."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeVar

import msgspec
import numpy as np
import zmq
from hypothesis import strategies as st

from stream import codec
from stream.live.backfill_messages import (
    MAX_BODY_BYTES,
    MAX_CELSIUS,
    MAX_CREDIT_BYTES,
    MAX_EPOCHS,
    MIN_CELSIUS,
    AckReply,
    AckRequest,
    LeaveRequest,
    PairParts,
    PairsRequest,
    Reply,
    Request,
    SpansRequest,
    Vitals,
    decode_request,
    encode_message,
)
from stream.pair import EncodedPair

EPOCH, OTHER_EPOCH = "a" * 32, "b" * 32
TOP = (1 << 63) - 1
NOISE = np.random.default_rng(0).integers(0, 256, (2, 160, 200), dtype=np.uint8)
"""Incompressible: a pair of 64 kB."""


def make_pairs(
    first: int, last: int, *, epoch: str = EPOCH, device: str = "baby", big: bool = False
) -> list[EncodedPair]:
    left, right = NOISE if big else NOISE[:, :4, :6]
    one = codec.encode_pair(left, right, device=device, epoch=epoch, seq=0, left_ns=0, right_ns=0, codec="lz4")
    return [
        EncodedPair(msgspec.structs.replace(one.header, seq=seq), one.left, one.right) for seq in range(first, last)
    ]


def rows(pairs: Sequence[EncodedPair]) -> list[PairParts]:
    return [(head, left, right) for _, head, left, right in map(codec.to_parts, pairs)]


def parts(answer: Reply, given: Sequence[PairParts] = ()) -> list[bytes]:
    return [encode_message(answer), *itertools.chain(*given)]


# Messages

seqs = st.integers(0, TOP)
epochs = st.text("0123456789abcdef", min_size=32, max_size=32)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
bounds = st.tuples(seqs, seqs).map(sorted).filter(lambda pair: pair[0] < pair[1])
questions: st.SearchStrategy[Request] = st.one_of(
    st.builds(SpansRequest, st.just(2), st.just("") | names, seqs),
    st.builds(
        lambda name, epoch, of, credit: PairsRequest(2, name, epoch, of[0], of[1], credit),
        names,
        epochs,
        bounds,
        st.integers(1, MAX_CREDIT_BYTES),
    ),
    st.builds(AckRequest, st.just(2), names, st.dictionaries(epochs, seqs, max_size=5), seqs),
    st.builds(LeaveRequest, st.just(2), names, seqs),
)
vitals = st.builds(
    Vitals, battery=st.none() | st.floats(0, 1), temperature_c=st.none() | st.floats(MIN_CELSIUS, MAX_CELSIUS)
)


def body(*values: object) -> list[bytes]:
    return [msgspec.msgpack.encode(values)]


WRONG_QUESTIONS = {
    "no part": [],
    "two parts": [encode_message(SpansRequest(2, "me", 0)), b""],
    "too long": [bytes(MAX_BODY_BYTES + 1)],
    "no msgpack": [b"\xc1"],
    "nothing": [b""],
    "text that is none": [b"\xa2\xff\xff"],
    "nested without end": [b"\x91" * 100_000],
    "an answer": [encode_message(AckReply(2, "baby", 0))],
    "another version": body("where", 3, "me", 0),
    "one field more": body("where", 2, "me", 0, 0),
    "one field less": body("where", 2, "me"),
    "a name with a slash": body("where", 2, "../me", 0),
    "a name with a line": body("where", 2, "me\n", 0),
    "an epoch with capitals": body("get", 2, "me", "A" * 32, 0, 1, 1),
    "an empty range": body("get", 2, "me", EPOCH, 5, 5, 1),
    "a range that goes back": body("get", 2, "me", EPOCH, 5, 4, 1),
    "a negative number": body("get", 2, "me", EPOCH, -1, 4, 1),
    "a number of 64 bits": body("get", 2, "me", EPOCH, 0, 1 << 63, 1),
    "no credit": body("get", 2, "me", EPOCH, 0, 1, 0),
    "too much credit": body("get", 2, "me", EPOCH, 0, 1, MAX_CREDIT_BYTES + 1),
    "too many epochs": body("ack", 2, "me", {f"{n:032x}": 0 for n in range(MAX_EPOCHS + 1)}, 0),
}


def get(first: int, last: int, *, epoch: str = EPOCH, credit_bytes: int = 1 << 20) -> PairsRequest:
    return PairsRequest(2, "me", epoch, first, last, credit_bytes)


# Client


Q = TypeVar("Q", SpansRequest, PairsRequest, AckRequest)


class Rig:
    """The other end of a client: reads its questions, and answers as the test says."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.socket = socket
        self.asker = b""

    def hears(self, kind: type[Q]) -> Q:
        """The next question, which is of this kind."""
        assert self.socket.poll(60_000), "no question came within 60 s"
        self.asker, *message = self.socket.recv_multipart()
        question = decode_request(message)
        assert isinstance(question, kind)
        return question

    def says(self, answer: Reply, given_rows: Sequence[PairParts] = ()) -> None:
        self.socket.send_multipart([self.asker, *parts(answer, given_rows)])


def asked(rig: Rig, count: int) -> list[tuple[int, int]]:
    """The ranges of the next questions, which are gets."""
    questions = [rig.hears(PairsRequest) for _ in range(count)]
    return [(question.first, question.last) for question in questions]
