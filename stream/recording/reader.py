"""The pairs in one recording: ours as they were written, another tool's by the nearest time of its two image topics.

Ours keeps the header of every pair, its identity above all. A recording of another tool has none: its device is the
file's name, its epoch a hash of its first pair, and its pairs are counted. That comes out the same each time.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import msgspec
from zlib_ng import zlib_ng

from stream.codec import encode_pair
from stream.errors import StreamError
from stream.image import Image
from stream.pair import EncodedPair, Header
from stream.recording.mcap_reader import McapReader, Message
from stream.recording.pairing import Pairing, Shot, Side
from stream.recording.payload import COMPRESSED, HEADER, RAW, Eye, read_eye, read_header

log = logging.getLogger(__name__)

_TOPIC = re.compile(r"(?P<rig>.*)/stereo/(?P<part>meta|left|right)(/image(_raw)?)?")
_IMAGES = (COMPRESSED.name, RAW.name)


@dataclass(frozen=True, slots=True)
class Eyes:
    """Which image topics of another tool's recording are the eyes; None: the one that is named so."""

    left: str | None = None
    right: str | None = None


class RecordingReader:
    """Iterates once over the pairs of a file, in the order written. Memory: one chunk and the pair that is made of it.

    file: opened for reading bytes, unbuffered is fastest; name: of the file, for people and as another tool's device.
    Raises StreamError where it is no recording, and while iterating where its two eyes cannot be told.
    """

    def __init__(self, file: BinaryIO, name: str, eyes: Eyes | None = None) -> None:
        self.name = name
        self.unreadable = 0
        """Messages and pairs that are whole, but nothing we read: another image format, parts that do not fit."""
        try:
            self.mcap = McapReader(file)
        except (StreamError, OSError) as error:
            raise StreamError(f"{name}: {error}") from error
        self._rigs: set[str] = set()
        self._ours = _Ours()
        self._theirs = _Theirs(name, eyes or Eyes())

    @property
    def unpaired(self) -> int:
        """Images of another tool's recording that have no partner."""
        return self._theirs.pairing.unpaired

    def __iter__(self) -> Iterator[EncodedPair]:
        try:
            for message in self.mcap:
                try:
                    yield from self._take(message)
                except ValueError:
                    self.unreadable += 1
        except OSError as error:  # a card that gives up
            raise StreamError(f"{self.name}: {error.strerror or error}") from error
        self._ours.end()
        yield from self._theirs.end()
        self.unreadable += self._ours.incomplete + self._theirs.unreadable
        self._tell()

    def _take(self, message: Message) -> list[EncodedPair]:
        """The pairs that this message completes; raises ValueError where it or they are not what they should be."""
        topic = message.topic
        ours = _TOPIC.fullmatch(topic.name)
        if ours is not None and (ours["rig"] in self._rigs or self._has_header(ours["rig"])):
            pair = self._ours.take(message, ours["rig"], ours["part"])
            return [] if pair is None else [pair]
        if topic.encoding == "protobuf" and topic.schema in _IMAGES:
            return self._theirs.take(message)
        return []

    def _has_header(self, rig: str) -> bool:
        """Whether these topics are ours: another tool's may have the same names."""
        meta = f"{rig}/stereo/meta"
        if any(topic.name == meta and topic.schema == HEADER.name for topic in self.mcap.topics.values()):
            self._rigs.add(rig)
        return rig in self._rigs

    def _tell(self) -> None:
        """One warning for everything that is wrong with the file."""
        mcap = self.mcap
        wrong = []
        if mcap.cut:
            wrong.append("its end is missing: read up to its last whole chunk (`python -m stream recover` mends it)")
        if mcap.skipped:
            wrong.append(f"{mcap.skipped} damaged or unknown records of {mcap.skipped_bytes} bytes left out")
        if self.unreadable:
            wrong.append(f"{self.unreadable} messages or pairs that are not read left out")
        if self.unpaired:
            wrong.append(f"{self.unpaired} images had no partner in time")
        if wrong:
            log.warning("%s: %s", self.name, "; ".join(wrong))


@dataclass(slots=True)
class _Parts:
    """What has come of one pair of ours."""

    key: tuple[str, int, int]
    header: Header | None = None
    eyes: dict[str, Eye] = field(default_factory=dict)


class _Ours:
    """Puts a pair of ours together: its three messages have one rig, time and sequence, and come one after the other."""

    def __init__(self) -> None:
        self.incomplete = 0
        self._parts: _Parts | None = None

    def take(self, message: Message, rig: str, part: str) -> EncodedPair | None:
        """The pair that this message completes; raises ValueError where its parts are not what they should be."""
        key = (rig, message.time_ns, message.sequence)
        if self._parts is None or self._parts.key != key:
            self.end()
            self._parts = _Parts(key)
        parts = self._parts
        if part == "meta":
            parts.header = read_header(message.data)
        else:
            parts.eyes[part] = read_eye(message.topic.schema, message.data)
        if parts.header is None or len(parts.eyes) < 2:
            return None
        self._parts = None
        return _restored(parts.header, parts.eyes["left"].image, parts.eyes["right"].image)

    def end(self) -> None:
        """No more of this pair comes."""
        self.incomplete += self._parts is not None
        self._parts = None


class _Theirs:
    """Makes pairs of the images of another tool."""

    def __init__(self, name: str, eyes: Eyes) -> None:
        self.pairing = Pairing()
        self.unreadable = 0
        self._name = name
        self._device = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).stem).lstrip("._-")[:64] or "recording"
        self._epoch = ""
        self._seq = 0
        self._chosen: dict[Side, str | None] = {"left": eyes.left, "right": eyes.right}
        self._found: dict[Side, str] = {}
        self._topics: set[str] = set()

    def take(self, message: Message) -> list[EncodedPair]:
        """The pairs that are certain with this image; raises ValueError where it is none that we read."""
        self._topics.add(message.topic.name)
        side = self._side(message.topic.name)
        if side is None:
            return []
        if self._found.setdefault(side, message.topic.name) != message.topic.name:
            raise self._unclear()
        eye = read_eye(message.topic.schema, message.data)
        captured_ns = message.time_ns if eye.captured_ns is None else eye.captured_ns
        return self._encode(self.pairing.add(side, Shot(captured_ns, eye.image)))

    def end(self) -> list[EncodedPair]:
        """The last pairs."""
        if self._topics and len(self._found) < 2:
            raise self._unclear()
        return self._encode(self.pairing.end())

    def _side(self, topic: str) -> Side | None:
        sides: tuple[tuple[Side, Side], ...] = (("left", "right"), ("right", "left"))
        for side, other in sides:
            chosen = self._chosen[side]
            named = side in topic.lower() and other not in topic.lower()
            if topic == chosen or (chosen is None and named):
                return side
        return None

    def _unclear(self) -> StreamError:
        topics = ", ".join(sorted(self._topics))
        return StreamError(f"{self._name}: say with --left TOPIC --right TOPIC which two are the eyes: {topics}")

    def _encode(self, pairs: list[tuple[Shot, Shot]]) -> list[EncodedPair]:
        encoded = []
        for left, right in pairs:
            self._epoch = self._epoch or _hash(self._device, left, right)
            try:
                encoded.append(self._encoded(left, right))
            except ValueError:  # two sizes, a damaged JPEG, a time before 1970
                self.unreadable += 1
        return encoded

    def _encoded(self, left: Shot, right: Shot) -> EncodedPair:
        pair = encode_pair(
            left.image,
            right.image,
            device=self._device,
            epoch=self._epoch,
            seq=self._seq,
            left_ns=left.captured_ns,
            right_ns=right.captured_ns,
            codec="jpeg" if isinstance(left.image, bytes) else "lz4",
        )
        self._seq += 1
        return pair


def _restored(header: Header, left: bytes | Image, right: bytes | Image) -> EncodedPair:
    """A pair of ours as it travelled; raises ValueError where header and images do not belong together."""
    if isinstance(left, bytes) and isinstance(right, bytes):
        if header.codec != "jpeg" or zlib_ng.crc32(right, zlib_ng.crc32(left)) != header.crc:
            raise ValueError(f"{header.name} is not the pair that its header describes")
        return EncodedPair(header, left, right)
    # Another version of lz4 may pack otherwise: the checksum is made to fit.
    pair = encode_pair(left, right, codec="lz4", **{name: getattr(header, name) for name in _PASSED_ON})
    if msgspec.structs.replace(pair.header, crc=header.crc) != header:
        raise ValueError(f"{header.name} is not the pair that its header describes")
    return pair


_MEASURED = ("version", "height", "width", "channels", "codec", "crc")
_PASSED_ON = [name for name in Header.__struct_fields__ if name not in _MEASURED]
"""What `encode_pair` is told; the rest it finds."""


def _hash(device: str, left: Shot, right: Shot) -> str:
    """An epoch for a recording that has none, from its first pair."""
    digest = hashlib.blake2b(f"{device} {left.captured_ns} {right.captured_ns}".encode(), digest_size=16)
    for shot in (left, right):
        digest.update(shot.image if isinstance(shot.image, bytes) else shot.image.tobytes())
    return digest.hexdigest()


@contextmanager
def opened(path: Path, eyes: Eyes | None = None) -> Iterator[RecordingReader]:
    """A recording, open for reading. Raises StreamError where it cannot be read, or is none."""
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise StreamError(f"{path}: {error.strerror or error}") from error
    with file:
        yield RecordingReader(file, str(path), eyes)


def read_pairs(data: bytes) -> list[EncodedPair]:
    """The pairs in a recording's bytes, however damaged they are; raises StreamError where it is none, nothing else."""
    return list(RecordingReader(BytesIO(data), "recording"))
