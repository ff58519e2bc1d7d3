"""Pairs that can be made again from their number, and recordings of them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.RawImage_pb2 import RawImage
from mcap.writer import Writer
from mcap_protobuf.schema import register_schema

from stream.codec import encode_pair
from stream.errors import EndOfStream
from stream.pair import Codec, EncodedPair
from stream.recording.mcap_reader import McapReader
from stream.recording.mcap_writer import MAGIC
from stream.recording.reader import RecordingReader
from stream.recording.source import RecordingSource
from stream.recording.writer import RecordingWriter

EPOCH, NEXT_EPOCH = "a" * 32, "b" * 32
START_NS = 1_700_000_000_000_000_000


@cache
def made(
    seq: int,
    codec: Codec = "jpeg",
    *,
    device: str = "baby",
    epoch: str = EPOCH,
    shape: tuple[int, ...] = (24, 32, 3),
    step_ns: int = 100_000_000,
) -> EncodedPair:
    """The same bytes for the same arguments."""
    left, right = np.random.default_rng(seq).integers(0, 256, (2, *shape), np.uint8)
    left_ns = START_NS + seq * step_ns
    return encode_pair(
        left,
        right,
        device=device,
        epoch=epoch,
        seq=seq,
        left_ns=left_ns,
        right_ns=left_ns + 7,
        codec=codec,
        suppressed=seq,
    )


def some(count: int, codec: Codec = "jpeg", *, device: str = "baby", epoch: str = EPOCH) -> list[EncodedPair]:
    return [made(seq, codec, device=device, epoch=epoch) for seq in range(count)]


def recorded(path: Path, pairs: Iterable[EncodedPair]) -> Path:
    with RecordingWriter(path) as writer:
        for pair in pairs:
            writer.write(pair)
    return path


def names(pairs: Sequence[EncodedPair]) -> list[tuple[str, str, int]]:
    """The identities."""
    return [(pair.header.device, pair.header.epoch, pair.header.seq) for pair in pairs]


def read_pairs(data: bytes) -> list[EncodedPair]:
    """The pairs in a recording's bytes, however damaged they are; StreamError if it is none, and nothing else."""
    return reader_of(data)[1]


def reader_of(data: bytes) -> tuple[RecordingReader, list[EncodedPair]]:
    reader = RecordingReader(McapReader(BytesIO(data)), "recording")
    return reader, list(reader)


def to_its_end(source: RecordingSource, limit: int = 4) -> list[EncodedPair]:
    pairs: list[EncodedPair] = []
    try:
        while True:
            pairs += source.receive(limit, 0.0)
    except EndOfStream:
        return pairs


class Foreign:
    """A recording by another tool: only the public writer and Foxglove's schemas."""

    def __init__(self, **options: object) -> None:
        self.file = BytesIO()
        self.writer = Writer(self.file, **options)  # type: ignore[arg-type]
        self.writer.start()
        self.schemas: dict[str, int] = {}
        self.channels: dict[str, int] = {}

    def add(self, topic: str, message: CompressedImage | RawImage, log_ns: int) -> None:
        name = type(message).DESCRIPTOR.full_name
        if name not in self.schemas:
            self.schemas[name] = register_schema(self.writer, type(message))
        if topic not in self.channels:
            self.channels[topic] = self.writer.register_channel(topic, "protobuf", self.schemas[name])
        self.writer.add_message(self.channels[topic], log_ns, message.SerializeToString(), log_ns)

    def jpeg(
        self,
        topic: str,
        captured_ns: int,
        *,
        number: int = 0,
        kind: str = "jpeg",
        size: int = 16,
        data: bytes | None = None,
    ) -> bytes:
        image = np.random.default_rng(number).integers(0, 256, (size, size, 3), np.uint8)
        data = data or cv2.imencode(".jpg", image)[1].tobytes()
        message = CompressedImage(data=data, format=kind, frame_id="camera")
        message.timestamp.FromNanoseconds(captured_ns)
        self.add(topic, message, captured_ns + 3_000_000)
        return data

    def end(self) -> bytes:
        self.writer.finish()  # type: ignore[no-untyped-call]
        return self.file.getvalue()

    def at(self, path: Path) -> Path:
        path.write_bytes(self.end())
        return path


def first_chunk(data: bytes) -> int:
    """Where the first chunk of an undamaged file begins."""
    length: int = struct.unpack_from("<Q", data, len(MAGIC) + 1)[0]
    return len(MAGIC) + 9 + length
