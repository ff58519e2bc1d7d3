"""Nothing that comes from a network or a file does anything but be read, or be refused with the error that is documented.

About 100 000 inputs; BABYAGENT_FUZZ_BATCHES=10 tries ten times as many. An example is a message, a plan of changes, and a
step by which their places move: it makes a hundred inputs, and still shrinks.
"""

from __future__ import annotations

import itertools
import json
import os
import struct
import tempfile
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from recorded import read_pairs

from stream import codec
from stream.codec import encode_pair
from stream.errors import EndpointError, MalformedMessage, StreamError
from stream.identity_set import IdentitySet
from stream.image import MAX_SIDE, Image, jpeg_shape
from stream.live import announcements
from stream.live.announcements import Bye, Hello
from stream.live.backfill_messages import (
    MAX_CELSIUS,
    MAX_CREDIT_BYTES,
    MIN_CELSIUS,
    AckReply,
    AckRequest,
    PairsReply,
    PairsRequest,
    Span,
    SpansReply,
    SpansRequest,
    Vitals,
    decode_reply,
    decode_request,
    encode_message,
)
from stream.live.ledger import Ledger
from stream.pair import REASONS, EncodedPair, Header, checksum
from stream.recording.writer import RecordingWriter
from stream.signals.signal import Signal, Telemetry
from stream.source import Cursor
from stream.transport.endpoint import bind_address, connect_address
from stream.transport.keys import KeysError, make_keys, own_keys, parse_key, trust, trusted_keys

EPOCHS = ("a" * 32, "b" * 32)
TOP = (1 << 63) - 1
BATCH = 100
BATCHES = int(os.environ.get("BABYAGENT_FUZZ_BATCHES", "1"))
PEAK_BYTES = 32 << 20

Parts = list[bytes]
Take = Callable[[Parts], object]


def image(channels: int, seed: int) -> Image:
    shape = (16, 24, 3) if channels == 3 else (16, 24)
    noise = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 2.0), np.uint8)


PAIRS = [
    encode_pair(image(3, 1), image(3, 2), device="baby", epoch=EPOCHS[0], seq=3, left_ns=5, right_ns=6, quality=30),
    encode_pair(
        image(1, 1), image(1, 2), device="b.2", epoch=EPOCHS[1], seq=4, left_ns=5, right_ns=6, clock_error_ns=9
    ),
    encode_pair(image(1, 3), image(1, 4), device="baby", epoch=EPOCHS[0], seq=5, left_ns=7, right_ns=8, codec="lz4"),
]
SIGNALLED = EncodedPair(
    PAIRS[0].header,
    PAIRS[0].left,
    PAIRS[0].right,
    telemetry=Telemetry({"imu": Signal([[1.0, 2.0], [3.0, 4.0]], [4, 5], "g"), "reward": Signal(1.0, 5)}, "e", "s"),
)
PROGRESSIVE = cv2.imencode(".jpg", image(3, 5), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()


# What is done with an input. Each raises what is documented for it, and nothing else.


def take_pair(parts: Parts) -> None:
    codec.decode(codec.from_parts(parts))


def take_sealed_header(parts: Parts) -> None:
    """Behind the checksum: a header part whose own one is right."""
    header = b"".join(parts)
    codec.decode(
        codec.from_parts([codec.TOPIC, header + zlib.crc32(header).to_bytes(4), PAIRS[0].left, PAIRS[0].right])
    )


def take_sealed_eye(pair: EncodedPair, parts: Parts) -> None:
    """Behind the checksum: an eye that the header says to be whole."""
    eye = b"".join(parts)
    crc = zlib.crc32(pair.right, zlib.crc32(eye))
    altered = EncodedPair(msgspec.structs.replace(pair.header, crc=crc), eye, pair.right)
    both = codec.decode(codec.from_parts(codec.to_parts(altered)))
    assert both.left.shape == both.right.shape


def take_jpeg(parts: Parts) -> None:
    height, width, channels = jpeg_shape(b"".join(parts))
    assert 1 <= min(height, width) <= max(height, width) <= MAX_SIDE
    assert channels in (1, 3)


def take_answer(parts: Parts) -> None:
    _, rows = decode_reply(parts)
    for row in rows:
        codec.from_parts([codec.TOPIC, *row])


def cursor_in(parts: Parts) -> Cursor | None:
    """A cursor, as msgpack: of JSON hardly any change would leave anything to read."""
    try:
        cursor: Cursor = msgspec.msgpack.decode(b"".join(parts))
        json.dumps(cursor)
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError):
        return None
    return cursor


def take_cursor(parts: Parts) -> None:
    cursor = cursor_in(parts)
    if cursor is not None:
        ledger = Ledger(cursor)
        use(ledger)
        Ledger(json.loads(json.dumps(ledger.cursor())))


def take_cursor_of_a_recording(parts: Parts) -> None:
    cursor = cursor_in(parts)
    if cursor is not None:
        IdentitySet(IdentitySet(cursor).cursor())


def take_recording(parts: Parts) -> None:
    for pair in read_pairs(b"".join(parts)):
        codec.to_parts(pair)


def take_address(parts: Parts) -> None:
    text = b"".join(parts).decode("utf-8", "surrogateescape")
    assert bind_address(text, insecure=True).startswith("tcp://")
    assert connect_address(text, insecure=True).startswith("tcp://")


def take_key(parts: Parts) -> None:
    assert len(parse_key(b"".join(parts).decode("utf-8", "surrogateescape"))) == 40


def use(ledger: Ledger) -> None:
    """What an ledger is asked all the time."""
    ledger.stats()
    ledger.all_ended(1)
    for place in (0, 1):
        wanted = ledger.next_request(place, 256, 1e9, [(EPOCHS[0], 0, 9)])
        if wanted is not None:
            encode_message(PairsRequest(2, "me", *wanted, 1))
        acknowledged = ledger.acknowledgement(ledger.cursor(), place)
        decode_request([encode_message(AckRequest(2, "me", acknowledged, 0))])


def ledger_with_holes() -> Ledger:
    ledger = Ledger()
    spans = [Span(EPOCHS[0], 2, 40, False), Span(EPOCHS[1], 0, 9, True)]
    ledger.receive_spans(SpansReply(2, "baby", spans, 0, 0), 0, 1.0, 0)
    for seq in (7, 9, 8, 30, 1 << 20, 1 << 29):
        ledger.receive(EncodedPair(msgspec.structs.replace(PAIRS[0].header, seq=seq), b"l", b"r"), 2.0)
    ledger.deliver([EncodedPair(msgspec.structs.replace(PAIRS[0].header, seq=7), b"l", b"r")])
    ledger.receive_pairs(PairsReply(2, "baby", EPOCHS[0], 20, 25, []), [], 0)
    return ledger


def recording(*, checked: bool) -> bytes:
    """A short one; where it is not `checked`, its chunks have no checksum that would keep damage from being read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.mcap"
        with RecordingWriter(path) as writer:
            for pair in (*PAIRS, SIGNALLED):
                writer.write(pair)
        data = bytearray(path.read_bytes())
    at = 8
    while not checked and at < len(data) - 8:
        opcode, length = struct.unpack_from("<BQ", data, at)
        if opcode == 0x06:
            data[at + 33 : at + 37] = bytes(4)
        at += 9 + length
    return bytes(data)


@dataclass(frozen=True)
class Target:
    """A decoder, the messages that inputs are made of, and what it may raise."""

    take: Take
    seeds: Sequence[Parts]
    refuses: type[Exception] = MalformedMessage


GAVE_ROWS = [codec.to_parts(pair)[1:] for pair in (PAIRS[0], PAIRS[2])]
TARGETS = {
    "pair": Target(take_pair, [codec.to_parts(pair) for pair in (*PAIRS, SIGNALLED)]),
    "header": Target(
        take_sealed_header,
        [
            [msgspec.msgpack.encode(PAIRS[0].header)],
            [SIGNALLED.header_part[: -len(checksum(b""))]],
            [msgspec.msgpack.encode(msgspec.structs.replace(PAIRS[0].header, seq=TOP - 1, junk=TOP, clock_error_ns=1))],
        ],
    ),
    "colour eye": Target(partial(take_sealed_eye, PAIRS[0]), [[PAIRS[0].left], [PROGRESSIVE]]),
    "grey eye": Target(partial(take_sealed_eye, PAIRS[1]), [[PAIRS[1].left]]),
    "lz4 eye": Target(partial(take_sealed_eye, PAIRS[2]), [[PAIRS[2].left]]),
    "jpeg": Target(take_jpeg, [[PAIRS[0].left], [PAIRS[1].left], [PROGRESSIVE]], ValueError),
    "hello and bye": Target(
        announcements.from_parts,
        [
            announcements.to_parts(Hello(device="baby", epoch=EPOCHS[0], next_seq=7, backfill=True)),
            announcements.to_parts(Bye(device="b.2", epoch=EPOCHS[1], next_seq=TOP)),
        ],
    ),
    "question": Target(
        decode_request,
        [
            [encode_message(SpansRequest(2, "run-1", 5))],
            [encode_message(PairsRequest(2, "run-1", EPOCHS[0], 5, 1 << 40, MAX_CREDIT_BYTES))],
            [encode_message(AckRequest(2, "run-1", {EPOCHS[0]: 5, EPOCHS[1]: TOP}, 9))],
        ],
    ),
    "answer": Target(
        take_answer,
        [
            [
                encode_message(
                    SpansReply(2, "baby", [Span(EPOCHS[0], 0, 9, False), Span(EPOCHS[1], 3, TOP, True)], 5, 6)
                )
            ],
            [encode_message(PairsReply(2, "baby", EPOCHS[0], 3, 6, [(4, 5)])), *itertools.chain(*GAVE_ROWS)],
            [encode_message(AckReply(2, "baby", 4))],
        ],
    ),
    "cursor": Target(
        take_cursor,
        [
            [msgspec.msgpack.encode(ledger_with_holes().cursor())],
            [msgspec.msgpack.encode(Ledger().cursor())],
        ],
        ValueError,
    ),
    "cursor of a recording": Target(
        take_cursor_of_a_recording,
        [[msgspec.msgpack.encode({"devices": {"baby": {EPOCHS[0]: [[0, 5], [7, 1 << 40]]}}})]],
        ValueError,
    ),
    "recording": Target(take_recording, [[recording(checked=True)], [recording(checked=False)]], StreamError),
    "address": Target(
        take_address,
        [[b"tcp://127.0.0.1:5555"], [b"tcp://[::1]:1"], [b"tcp://host.example:65535"]],
        EndpointError,
    ),
    "key": Target(take_key, [[b"rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"]], ValueError),
}

EXTREMES = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    TOP,
    TOP + 1,
    2 * TOP + 1,
]
INSIDE = ("flip", "byte", "length", "cut", "front", "insert", "splice")
KINDS = (*INSIDE * 4, "drop", "twice", "swap")


@dataclass(frozen=True)
class Change:
    """One change of a message: where, and by what."""

    kind: str
    part: int
    place: int
    value: int

    def apply(self, parts: Parts, other: Parts, shift: int) -> None:
        """Change the message; the place moves by `shift`."""
        if not parts:
            return
        at = self.part % len(parts)
        data = parts[at]
        place = (self.place + shift) % (len(data) + 1)
        extreme = EXTREMES[self.value % len(EXTREMES)]
        match self.kind:
            case "flip" if place < len(data):
                parts[at] = data[:place] + bytes([data[place] ^ (1 << self.value % 8)]) + data[place + 1 :]
            case "byte":
                parts[at] = data[:place] + bytes([self.value % 256]) + data[place + 1 :]
            case "length":
                size = 1 << self.value % 4
                order: Literal["big", "little"] = "big" if self.value % 3 else "little"
                parts[at] = data[:place] + (extreme % (1 << 8 * size)).to_bytes(size, order) + data[place + size :]
            case "cut":
                parts[at] = data[:place]
            case "front":
                parts[at] = data[place:]
            case "insert":
                parts[at] = data[:place] + bytes([self.value % 256]) * (1 << self.value % 17) + data[place:]
            case "splice":
                strange = other[self.value % len(other)]
                parts[at] = data[:place] + strange[(self.value + shift) % (len(strange) + 1) :]
            case "drop":
                del parts[at]
            case "twice":
                parts.insert(at, data)
            case "swap":
                to = self.value % len(parts)
                parts[at], parts[to] = parts[to], parts[at]


@dataclass(frozen=True)
class Plan:
    """A hundred inputs."""

    seed: int
    other: int
    changes: tuple[Change, ...]
    step: int

    def inputs(self, seeds: Sequence[Parts]) -> Iterator[Parts]:
        """The message with its changes made, a hundred times at other places."""
        for number in range(BATCH):
            parts = list(seeds[self.seed % len(seeds)])
            for change in self.changes:
                change.apply(parts, seeds[self.other % len(seeds)], number * self.step)
            yield parts


small = st.integers(0, 1 << 12)
part_numbers = st.sampled_from((1, 2, 3, 4, 5, 6, 0))  # the first is a topic: most of what is wrong there is alike
changes = st.builds(Change, st.sampled_from(KINDS), part_numbers, small, small)
plans = st.builds(Plan, small, small, st.lists(changes, min_size=1, max_size=4).map(tuple), st.integers(0, 97))


def run(target: Target, plan: Plan) -> None:
    """Take all inputs of a plan."""
    for number, parts in enumerate(plan.inputs(target.seeds)):
        try:
            target.take(parts)
        except target.refuses as error:
            if getattr(error, "reason", "crc") not in REASONS:
                raise
        except BaseException:
            note(f"input {number}: {parts!r:.2000}")
            raise


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Keep the log quiet: a hundred thousand damaged files would fill it with warnings."""
    caplog.set_level("CRITICAL")


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=75 * BATCHES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(plan=plans)
def test_whatever_comes_is_read_or_refused(name: str, plan: Plan) -> None:
    run(TARGETS[name], plan)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of keys that trusts one rig, itself."""
    folder = tmp_path_factory.mktemp("fuzz") / "keys"
    trust(folder, "rig", make_keys(folder))
    return folder


@settings(max_examples=10 * BATCHES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(plan=plans)
def test_whatever_is_in_the_files_of_keys_is_read_or_refused(keys: Path, plan: Plan) -> None:
    files = keys / "own.secret", keys / "trusted" / "rig.public"
    whole = [file.read_bytes() for file in files]

    def take(parts: Parts) -> None:
        for file, data in zip(files, (*parts, b"")[:2], strict=False):
            file.write_bytes(data)
        assert set(trusted_keys(keys)) <= {"rig"}
        own_keys(keys)

    try:
        run(Target(take, [whole], KeysError), plan)
    finally:
        for file, data in zip(files, whole, strict=True):
            file.write_bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_the_messages_that_inputs_are_made_of_are_read(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].take(list(seed))


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_takes_more_memory_than_some(name: str) -> None:
    """Lengths that are lies, at every place."""
    tracemalloc.start()
    try:
        for seed in range(len(TARGETS[name].seeds)):
            for value in range(0, 12 * len(EXTREMES), 13):
                lie = Change("length", seed, 0, value)
                run(TARGETS[name], Plan(seed, 0, (lie,), 1 + value % 5))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < PEAK_BYTES


# A rig whose messages are valid, and lies


extreme = st.sampled_from([0, 1, 2, 5, 6, 1 << 16, 1 << 40, (1 << 62) - 1, 1 << 62, TOP - 2, TOP - 1])
ranges = st.tuples(extreme, extreme).map(sorted)
device_names = st.sampled_from(["baby", "toddler"])
epochs = st.sampled_from([f"{number:032x}" for number in range(5)])
headers = st.builds(
    lambda device, epoch, seq, left_ns, count: msgspec.structs.replace(
        PAIRS[0].header, device=device, epoch=epoch, seq=seq, left_ns=left_ns, suppressed=count, junk=count
    ),
    device_names,
    epochs,
    extreme,
    extreme,
    extreme,
)
spans = st.builds(lambda epoch, of, goes_on: Span(epoch, of[0], of[1], goes_on), epochs, ranges, st.booleans())
ratios = st.none() | st.floats(0, 1)
vitals = st.builds(Vitals, battery=ratios, temperature_c=st.none() | st.floats(MIN_CELSIUS, MAX_CELSIUS))
heres = st.builds(SpansReply, st.just(2), device_names, st.lists(spans, max_size=6), extreme, extreme, vitals)
gaves = st.builds(
    lambda device, epoch, of: PairsReply(2, device, epoch, of[0], of[1], []), device_names, epochs, ranges
)
positions = {"device": device_names, "epoch": epochs, "next_seq": extreme, "backfill": st.booleans()}
lies = st.one_of(
    headers,
    heres,
    gaves,
    st.builds(Hello, **positions),
    st.builds(Bye, **positions),
    st.sampled_from(["given", "killed"]),
)


lists = st.lists(ranges, max_size=4)
kept_epochs = st.builds(
    lambda joined, lost, more, beyond, gone: {
        "joined": joined,
        "head": min(max([0, *(last for _, last in lost + more)]) + beyond, TOP),
        "done": lost + more,
        "lost": lost,
        "gone": gone,
    },
    extreme,
    lists,
    lists,
    extreme,
    st.booleans(),
)
kept_devices = st.fixed_dictionaries(
    {
        "epochs": st.dictionaries(epochs, kept_epochs, max_size=3),
        "counts": st.dictionaries(st.sampled_from(["received", "lost", "suppressed", "more"]), extreme),
        "met": st.booleans(),
    }
)
cursors = st.fixed_dictionaries({"devices": st.dictionaries(device_names, kept_devices)})


@settings(max_examples=200 * BATCHES)
@given(cursors, st.lists(st.tuples(lies, st.integers(0, 1), st.sampled_from([0.0, 1.0, 2.0])), max_size=60))
def test_an_account_bears_every_cursor_and_every_message_that_can_come(
    cursor: Cursor, script: list[tuple[object, int, float]]
) -> None:
    ledger, waiting = Ledger(cursor), list[EncodedPair]()
    for message, place, now_s in script:
        pair = EncodedPair(message, b"l", b"r") if isinstance(message, Header) else None
        try:
            match message:
                case Hello():
                    ledger.receive_announcement(message, now_s)
                case Bye():
                    ledger.receive_announcement(message, now_s)
                case SpansReply():
                    ledger.receive_spans(message, place, now_s, 7)
                case PairsReply():
                    waiting += ledger.receive_pairs(message, [], place)
                case "given":
                    ledger.deliver(waiting)
                    waiting.clear()
                case "killed":
                    ledger = Ledger(json.loads(json.dumps(ledger.cursor())))
                    waiting.clear()
                case _:
                    assert pair is not None
                    waiting += [pair] * ledger.receive(pair, now_s)
        except MalformedMessage:
            pass
        use(ledger)
    assert min(ledger.stats().lost, ledger.stats().pending, ledger.stats().received) >= 0
