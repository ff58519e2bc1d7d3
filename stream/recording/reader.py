"""Reads the pairs of one recording: our own, as they were written, or another tool's, formed by the nearest times of two topics.

Our recordings keep the header of every pair, with its identity. A recording of another tool has no headers: its device is the
name of the file, its epoch is a hash of its first pair, and its pairs are numbered from 0. Each reading gives the same result.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from stream.codec import encode_pair, images_crc
from stream.errors import StreamError, reported_as
from stream.image import Image
from stream.pair import EncodedPair, Header
from stream.pairing import EyeName, Pairing, TimedImage
from stream.recording.mcap_reader import McapReader, Message
from stream.recording.payload import COMPRESSED, HEADER, RAW, read_eye, read_header
from stream.recording.receipts import RECEIPT, Receipts, read_receipt

log = logging.getLogger(__name__)

_TOPIC = re.compile(r"(?P<rig>.*)/stereo/(?P<part>meta|left|right)(/image(_raw)?)?")
_IMAGES = (COMPRESSED.name, RAW.name)


@dataclass(frozen=True, slots=True)
class EyeTopics:
    """The image topics of both eyes in another tool's recording."""

    left: str | None = None
    """Topic of the left images in another tool's recording; by default the topic with left in its name."""
    right: str | None = None
    """Topic of the right images."""


class RecordingReader:
    """Iterates once over the pairs of a file, in the order in which they were written. It holds one chunk and one pair in memory.

    file: opened for reading bytes, unbuffered is fastest. name: of the file, for messages and as the device of another tool.
    Raises StreamError if it is no recording, and while iterating if its two eyes cannot be distinguished.
    """

    def __init__(self, file: BinaryIO, name: str, topics: EyeTopics | None = None) -> None:
        self.name = name
        self.unreadable = 0
        """Messages and pairs that are undamaged, but cannot be used: another image format, or parts that do not fit together."""
        try:
            self.mcap = McapReader(file)
        except (StreamError, OSError) as error:
            raise StreamError(f"{name}: {error}") from error
        self.receipts = Receipts()
        """What its recorder knew beside the pairs; complete at the end of the iteration."""
        self._ours = _OurPairs()
        self._foreign = _ForeignPairs(name, topics or EyeTopics())

    @property
    def unpaired(self) -> int:
        """Images of another tool's recording that have no partner."""
        return self._foreign.pairing.unpaired

    def __iter__(self) -> Iterator[EncodedPair]:
        with reported_as(StreamError, self.name):  # for example a card that fails
            for message in self.mcap:
                try:
                    yield from self._receive(message)
                except ValueError:
                    self.unreadable += 1
        self._ours.end()
        yield from self._foreign.end()
        self.unreadable += self._ours.incomplete + self._foreign.unreadable
        wrong = self.damage()
        if self.unpaired:
            wrong.append(f"{self.unpaired} images without a partner in time")
        if wrong:
            hint = "`python -m stream recover` writes a clean one"
            log.warning("%s is not whole, the rest was read: %s; %s", self.name, ", ".join(wrong), hint)

    def damage(self) -> list[str]:
        """Describe what of the file could not be read; known at the end of the iteration."""
        mcap = self.mcap
        found = {
            "its end is missing": mcap.cut,
            f"{mcap.skipped} damaged or unknown records of {mcap.skipped_bytes} bytes": mcap.skipped,
            f"{self.unreadable} unreadable messages or pairs": self.unreadable,
        }
        return [text for text, count in found.items() if count]

    def _receive(self, message: Message) -> list[EncodedPair]:
        """Return the pairs that this message completes. Raises ValueError for an unreadable message or pair."""
        topic = message.topic
        ours = _TOPIC.fullmatch(topic.name)
        if ours is not None and self._has_header(ours["rig"]):
            return self._ours.add(message, ours["rig"], ours["part"])
        if topic.schema == RECEIPT.name:
            self.receipts.add(read_receipt(message.data))
        if topic.encoding == "protobuf" and topic.schema in _IMAGES:
            return self._foreign.add(message)
        return []

    def _has_header(self, rig: str) -> bool:
        """Return whether the topics of a rig are ours: another tool may use the same names for its topics."""
        meta = f"{rig}/stereo/meta"
        return any(topic.name == meta and topic.schema == HEADER.name for topic in self.mcap.topics.values())


class _OurPairs:
    """Forms pairs from the messages of our own recordings. The three messages of a pair have the same rig, time and number."""

    def __init__(self) -> None:
        self.incomplete = 0
        self._key: tuple[str, int, int] | None = None
        self._header: Header | None = None
        self._eyes: dict[str, bytes | Image] = {}

    def add(self, message: Message, rig: str, part: str) -> list[EncodedPair]:
        """Return the pair that this message completes, if any. Raises ValueError for parts that do not fit."""
        key = (rig, message.time_ns, message.sequence)
        if key != self._key:
            self.end()
            self._key, self._header, self._eyes = key, None, {}
        if part == "meta":
            self._header = read_header(message.data)
        else:
            self._eyes[part] = read_eye(message.topic.schema, message.data, message.time_ns).image
        if self._header is None or len(self._eyes) < 2:
            return []
        self._key = None
        return [_restored(self._header, self._eyes["left"], self._eyes["right"])]

    def end(self) -> None:
        """Count the last pair, if it is incomplete."""
        self.incomplete += self._key is not None
        self._key = None


class _ForeignPairs:
    """Forms pairs from the images in a recording that another tool made, for example ROS.

    name: of the file, from which the device's name is made. topics: of the left and the right images.
    """

    def __init__(self, name: str, topics: EyeTopics) -> None:
        self.pairing = Pairing[TimedImage]()
        self.unreadable = 0
        self._name = name
        self._device = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).stem).lstrip("._-")[:64] or "recording"
        self._epoch = ""
        self._seq = 0
        self._chosen: dict[EyeName, str | None] = {"left": topics.left, "right": topics.right}
        self._found: dict[EyeName, str] = {}
        self._topics: set[str] = set()

    def add(self, message: Message) -> list[EncodedPair]:
        """Add the image in a message, and return the pairs whose partners are certain now.

        Raises ValueError for an unreadable image.
        """
        self._topics.add(message.topic.name)
        eye = self._eye_of(message.topic.name)
        if eye is None:
            return []
        if self._found.setdefault(eye, message.topic.name) != message.topic.name:
            raise self._unclear()
        image = read_eye(message.topic.schema, message.data, message.time_ns)
        return self._encode(self.pairing.add(eye, image))

    def end(self) -> list[EncodedPair]:
        """Return the pairs that were waiting for a nearer partner. Raises StreamError if the topics of the eyes are unclear."""
        if self._topics and len(self._found) < 2:
            raise self._unclear()
        return self._encode(self.pairing.end())

    def _eye_of(self, topic: str) -> EyeName | None:
        eyes: tuple[tuple[EyeName, EyeName], ...] = (("left", "right"), ("right", "left"))
        for eye, other in eyes:
            chosen = self._chosen[eye]
            named = eye in topic.lower() and other not in topic.lower()
            if topic == chosen or (chosen is None and named):
                return eye
        return None

    def _unclear(self) -> StreamError:
        topics = ", ".join(sorted(self._topics))
        return StreamError(f"{self._name}: name the two eyes with --left TOPIC --right TOPIC: {topics}")

    def _encode(self, pairs: list[tuple[TimedImage, TimedImage]]) -> list[EncodedPair]:
        encoded = []
        for left, right in pairs:
            self._epoch = self._epoch or _hash(self._device, left, right)
            try:
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
            except ValueError:  # two sizes, a damaged JPEG, a time before 1970
                self.unreadable += 1
            else:
                encoded.append(pair)
                self._seq += 1
        return encoded


def _restored(header: Header, left: bytes | Image, right: bytes | Image) -> EncodedPair:
    """Return one of our pairs as it was sent. Raises ValueError if header and images do not belong together."""
    if isinstance(left, bytes) and isinstance(right, bytes):
        if header.codec != "jpeg" or images_crc(left, right) != header.crc:
            raise ValueError(f"{header.name} is not the pair that its header describes")
        return EncodedPair(header, left, right)
    # Another version of lz4 may compress to other bytes, which then have another checksum.
    pair = encode_pair(left, right, codec="lz4", **{name: getattr(header, name) for name in _PASSED_ON})
    if msgspec.structs.replace(pair.header, crc=header.crc) != header:
        raise ValueError(f"{header.name} is not the pair that its header describes")
    return pair


_MEASURED = ("version", "height", "width", "channels", "codec", "crc")
_PASSED_ON = [name for name in Header.__struct_fields__ if name not in _MEASURED]
"""Fields of the header that are passed to `encode_pair`, which measures the others."""


def _hash(device: str, left: TimedImage, right: TimedImage) -> str:
    """Return an epoch for a recording that has none, from its first pair."""
    digest = hashlib.blake2b(f"{device} {left.captured_ns} {right.captured_ns}".encode(), digest_size=16)
    for shot in (left, right):
        digest.update(shot.image if isinstance(shot.image, bytes) else shot.image.tobytes())
    return digest.hexdigest()


@contextmanager
def open_recording(path: Path, topics: EyeTopics | None = None) -> Iterator[RecordingReader]:
    """Open a recording for reading. Raises StreamError if it cannot be read, or is none."""
    with reported_as(StreamError, str(path)):
        file = path.open("rb", buffering=0)
    with file:
        yield RecordingReader(file, str(path), topics)
