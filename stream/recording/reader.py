"""Reads the pairs of one recording: our own, as they were written, or another tool's, as `stream.recording.foreign` forms them.

Our recordings keep the header of every pair, with its identity. A recording of another tool has no headers: its device is the
name of the file, its epoch is a hash of its first pair, and its pairs are numbered from 0. Each reading gives the same result.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray

from stream.codec import encode_pair, images_crc
from stream.errors import StreamError, reported_as
from stream.image import Image
from stream.pair import EncodedPair, Header
from stream.pairing import EyeName, Unpaired
from stream.recording.bags import Messages, open_messages
from stream.recording.foreign import EyeTopics, ForeignPairs
from stream.recording.levels import AHEAD, Levels, Sample
from stream.recording.mcap_reader import Message
from stream.recording.messages import image_reader, read_image
from stream.recording.payload import HEADER, HeaderMessage, read_header
from stream.recording.pixels import Pixels, deep_image
from stream.recording.receipts import RECEIPT, Receipts, read_receipt
from stream.recording.signals.ros import signal_reader
from stream.recording.signals.rows import SIGNAL, RowsOfPairs
from stream.recording.signals.rows import TOPIC as SIGNAL_TOPIC
from stream.signals.signal import Telemetry

log = logging.getLogger(__name__)

_TOPIC = re.compile(r"(?P<rig>.*)/stereo/(?P<part>meta|left|right)(/image(_raw)?)?")


_NOT_FOR_OURS = (
    "it was recorded by this project and names its own eyes: leave out --left, --right, --sbs, --tb, --tolerance-ms and "
    "--levels, which are for recordings of other tools"
)


class RecordingReader:
    """Iterates once over the pairs of a file, in the order in which they were written. It holds one chunk and one pair in memory.

    messages: of the file. name: of the file, for messages and, where no device is given, as the device of another tool.
    levels: returns those of another tool's images of more than 8 bits; by default the first of these images decides.
    Raises StreamError while iterating if its two eyes cannot be distinguished, if its images have no times, or if `topics` has
    something to say about a recording of ours.
    """

    def __init__(
        self,
        messages: Messages,
        name: str,
        topics: EyeTopics | None = None,
        device: str | None = None,
        levels: Callable[[], Levels] | None = None,
    ) -> None:
        self.name = name
        self.messages = messages
        self.pairs = 0
        """Pairs so far."""
        self.unreadable = 0
        """Messages and pairs that are undamaged, but cannot be used: another image format, or parts that do not fit together."""
        self.receipts = Receipts()
        """What its recorder knew beside the pairs; complete at the end of the iteration."""
        self._ours = _OurPairs()
        self._is_told = topics is not None and topics != EyeTopics()
        self._foreign = ForeignPairs(name, topics or EyeTopics(), device, levels)
        self._without_signals = False

    @property
    def unpaired(self) -> Unpaired:
        """Images of another tool's recording that have no partner."""
        return self._foreign.unpaired

    def __iter__(self) -> Iterator[EncodedPair]:
        with reported_as(StreamError, self.name):  # for example a card that fails
            for message in self.messages:
                try:
                    pairs = self._receive(message)
                except StreamError as error:
                    with suppress(StreamError):
                        yield from self._counted(self._foreign.rest())
                    raise StreamError(f"{self.name}: {error}") from error
                yield from self._counted(pairs)
        self._ours.end()
        try:
            yield from self._counted(self._foreign.end())
        except StreamError as error:
            raise StreamError(f"{self.name}: {error}") from error
        self.unreadable += self._ours.incomplete + self._foreign.unreadable
        if self.pairs and (wrong := self.damage()):  # without a pair it is an error, which says the same
            log.warning("%s is not whole, the rest was read: %s%s", self.name, ", ".join(wrong), self.hint())
        if rows := self._foreign.rows_left_out:
            why = "there are more than pairs can have, or they stand behind all images of their time"
            log.warning("%s: %d rows of signals are left out: %s", self.name, rows, why)
        if without := self.unpaired.describe():
            log.warning("%s: images without a partner in time are left out: %s", self.name, without)

    def damage(self) -> list[str]:
        """Describe what of the file could not be read; known at the end of the iteration."""
        file = self.messages
        why = f" ({'; '.join(self._foreign.reasons)})" if self._foreign.reasons else ""
        found = {
            "its end is missing": file.cut,
            f"{file.skipped} damaged or unknown records of {file.skipped_bytes} bytes": file.skipped,
            f"{self.unreadable} unreadable messages or pairs{why}": self.unreadable,
        }
        return [text for text, count in found.items() if count]

    def hint(self) -> str:
        """Return the remedy for damage, "" where it would write nothing."""
        return "; the command `stream recover` writes a clean one" if self.pairs else ""

    def _is_ours(self) -> bool:
        """Return whether this project recorded the file."""
        return any(topic.schema in (HEADER.name, RECEIPT.name) for topic in self.messages.topics.values())

    def why_empty(self) -> str:
        """Return why the file gives no pair, with a remedy, known at the end of the iteration; "" if it gives or names pairs."""
        if self.pairs or next(self.receipts.all(), None) is not None:
            return ""
        if self._is_ours() or (self.messages.cut and not self._foreign.found):
            wrong = self.damage()
            return f"{self.name}: no pair can be read of it" + (f" ({', '.join(wrong)})" if wrong else "")
        return f"{self.name}: {self._foreign.why_empty(self.messages.topics.values())}"

    def _receive(self, message: Message) -> list[EncodedPair]:
        """Return the pairs that this message completes."""
        topic = message.topic
        ours = _TOPIC.fullmatch(topic.name)
        try:
            if ours is not None and self._has_header(ours["rig"]):
                if self._is_told:
                    raise StreamError(_NOT_FOR_OURS)
                return self._ours.add(message, ours["rig"], ours["part"])
            if topic.schema == SIGNAL.name and (row := SIGNAL_TOPIC.fullmatch(topic.name)) is not None:
                self._ours.add_row(message, row["rig"], row["name"])
            if topic.schema == RECEIPT.name:
                self.receipts.add(read_receipt(message.data))
        except ValueError:
            self.unreadable += 1
        else:
            if image_reader(topic) is not None:
                return self._foreign.add(message)
            if signal_reader(topic) is not None and not self._without_signals:
                self._add_signal(message)
        return []

    def _add_signal(self, message: Message) -> None:
        try:
            self._foreign.add_signal(message)
        except StreamError as error:  # images may be readable all the same
            self._without_signals = True
            log.warning("%s: its signals are left out: %s", self.name, error)

    def _counted(self, pairs: list[EncodedPair]) -> Iterator[EncodedPair]:
        for pair in pairs:
            self.pairs += 1
            yield pair

    def _has_header(self, rig: str) -> bool:
        """Return whether the topics of a rig are ours: another tool may use the same names for its topics."""
        meta = f"{rig}/stereo/meta"
        return any(topic.name == meta and topic.schema == HEADER.name for topic in self.messages.topics.values())


class _OurPairs:
    """Forms pairs from the messages of our own recordings. The three messages of a pair have the same rig, time and number."""

    def __init__(self) -> None:
        self.incomplete = 0
        self._key: tuple[str, int, int] | None = None
        self._header: HeaderMessage | None = None
        self._rows = RowsOfPairs()
        self._eyes: dict[str, bytes | Image] = {}
        self._pixels = Pixels(as_sent=True)

    def add(self, message: Message, rig: str, part: str) -> list[EncodedPair]:
        """Return the pair that this message completes, if any. Raises ValueError for parts that do not fit."""
        key = (rig, message.time_ns, message.sequence)
        if key != self._key:
            self.end()
            self._key, self._header, self._eyes = key, None, {}
        if part == "meta":
            self._header = read_header(message.data)
        else:
            self._eyes[part] = self._pixels.read(read_image(message).content)
        if self._header is None or len(self._eyes) < 2:
            return []
        self._key = None
        header, *labels, rows = self._header
        signals, wrong = self._rows.take(rig, message.sequence, header.left_ns, rows)
        self.incomplete += wrong
        return [_restored(header, self._eyes["left"], self._eyes["right"], Telemetry(signals, *labels))]

    def add_row(self, message: Message, rig: str, name: str) -> None:
        """Keep a row of a signal for its pair. Raises ValueError for one that does not decode."""
        self._rows.add(message, rig, name)

    def end(self) -> None:
        """Count the last pair, if it is incomplete. So is a pair whose signals are not as they were recorded."""
        self.incomplete += self._key is not None
        self._key = None


def _restored(header: Header, left: bytes | Image, right: bytes | Image, telemetry: Telemetry) -> EncodedPair:
    """Return one of our pairs as it was sent. Raises ValueError if header and images do not belong together."""
    if isinstance(left, bytes) and isinstance(right, bytes):
        if header.codec != "jpeg" or images_crc(left, right) != header.crc:
            raise ValueError(f"{header.name} is not the pair that its header describes")
        return EncodedPair(header, left, right, telemetry=telemetry)
    # Another version of lz4 may compress to other bytes, which then have another checksum.
    passed_on: dict[str, Any] = {name: getattr(header, name) for name in _PASSED_ON}
    pair = encode_pair(left, right, codec="lz4", telemetry=telemetry, **passed_on)
    if msgspec.structs.replace(pair.header, crc=header.crc) != header:
        raise ValueError(f"{header.name} is not the pair that its header describes")
    return pair


_MEASURED = ("version", "height", "width", "channels", "codec", "crc")
_PASSED_ON = [name for name in Header.__struct_fields__ if name not in _MEASURED]
"""Fields of the header that are passed to `encode_pair`, which measures the others."""


@contextmanager
def open_recording(
    path: Path, topics: EyeTopics | None = None, device: str | None = None, levels: list[Levels] | None = None
) -> Iterator[RecordingReader]:
    """Open a recording for reading: an MCAP file, or a bag of ROS. device: of another tool's recording.

    levels: those of an earlier file of the same recording; where there are none yet, those of this file are added if needed.

    Raises StreamError if it cannot be read, or is none.
    """
    with ExitStack() as stack:
        with reported_as(StreamError, str(path)):
            try:
                messages = open_messages(path, stack)
            except StreamError as error:
                raise StreamError(f"{path}: {error}") from error
        find = partial(_find_levels, path, topics or EyeTopics(), [] if levels is None else levels)
        yield RecordingReader(messages, str(path), topics, device, find)


def _find_levels(path: Path, topics: EyeTopics, found: list[Levels]) -> Levels:
    """Return the levels that were found before or are stated, or those of a sample, for which the recording is opened again."""
    if not found:
        found.append(Levels(*topics.levels) if topics.levels is not None else _sampled(path, topics))
    return found[0]


def _sampled(path: Path, topics: EyeTopics) -> Levels:
    samples: dict[EyeName, Sample] = {"left": Sample(), "right": Sample()}
    eye_of = ForeignPairs(str(path), topics).eye_of
    with ExitStack() as stack, suppress(OSError, StreamError):  # the reading itself says what is wrong
        for message in open_messages(path, stack):
            eye = eye_of(message.topic.name)
            if eye is not None and image_reader(message.topic) is not None and samples[eye].count < AHEAD:
                samples[eye].offer(partial(_deep_image, message))
            if sum(sample.count for sample in samples.values()) >= AHEAD * (1 if topics.sbs or topics.tb else 2):
                break
    return Levels.of([image for sample in samples.values() for image in sample.images])


def _deep_image(message: Message) -> NDArray[Any] | None:
    try:
        return deep_image(read_image(message).content)
    except ValueError:
        return None
