"""Makes pairs of the images that another tool recorded, by the nearest times of two topics. Pure.

The times are the stamps in the headers of the messages where these are real for both eyes, or else the log times of the file.
Images are never paired by their position.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from stream.codec import encode_pair
from stream.errors import StreamError
from stream.image import Image
from stream.pair import EncodedPair
from stream.pairing import MAX_WAITING, MAX_WAITING_BYTES, EyeName, Pairing, TimedImage, Unpaired
from stream.recording.mcap_reader import Message, Topic
from stream.recording.messages import is_video, read_image
from stream.recording.pixels import Pixels, halves

LOOK = 4
"""Number of images of each eye that decide by which times the images are paired."""
SAME_CLOCK_NS = 1_000_000_000
"""Two eyes have one clock if the first stamps are apart as the log times are, up to this."""
MAX_BEHIND = 2048
"""How many images of one eye may come before those of the other one: some tools write the eyes one after the other."""
MAX_NAMED = 6
MAX_REASONS = 4


@dataclass(frozen=True, slots=True)
class EyeTopics:
    """How the images of another tool's recording become pairs."""

    left: Annotated[str | None, tyro.conf.arg(metavar="TOPIC")] = None
    """Topic of the left images in another tool's recording; by default the topic with left in its name."""
    right: Annotated[str | None, tyro.conf.arg(metavar="TOPIC")] = None
    """Topic of the right images in another tool's recording."""
    sbs: Annotated[str | None, tyro.conf.arg(metavar="TOPIC")] = None
    """Topic of images that hold both eyes side by side."""
    tb: Annotated[str | None, tyro.conf.arg(metavar="TOPIC")] = None
    """Topic of images that hold the left eye over the right one."""
    tolerance_ms: float | None = None
    """How far apart the two images of a pair of another tool's recording may be; by default half of the shorter frame
    interval."""

    def __post_init__(self) -> None:
        if self.tolerance_ms is not None and not 0 <= self.tolerance_ms <= 1e9:
            raise ValueError(f"the tolerance must be at least 0 ms, got {self.tolerance_ms}")
        ways = [self.left or self.right, self.sbs, self.tb]
        if sum(way is not None for way in ways) > 1:
            raise ValueError(
                "--sbs and --tb name one topic with both eyes: give one of them, without --left and --right"
            )


@dataclass(frozen=True, slots=True)
class Seen:
    """An image with its two times in nanoseconds. stamp_ns: in its header; 0 if it has none."""

    stamp_ns: int
    log_ns: int
    image: bytes | Image


class Moments:
    """Decides by which of their times images are paired, and gives them that time.

    The first LOOK images of each eye decide. Until then they wait here, as many as may wait for a partner.
    """

    def __init__(self, eyes: Sequence[EyeName]) -> None:
        self._eyes = eyes
        self._waiting: list[tuple[EyeName, Seen]] = []
        self._bytes = 0
        self._by_stamp: bool | None = None

    def add(self, eye: EyeName, seen: Seen) -> list[tuple[EyeName, TimedImage]]:
        """Add an image, and return those whose time is decided. Raises StreamError if the images have no times.

        An image without a stamp among images with stamps gets the time 0.
        """
        if self._by_stamp is not None:
            return [(eye, self._timed(seen))]
        self._waiting.append((eye, seen))
        self._bytes += TimedImage(0, seen.image).size
        counts = Counter(eye for eye, _ in self._waiting)
        is_full = max(counts.values()) >= MAX_WAITING or self._bytes > MAX_WAITING_BYTES
        return self.end() if is_full or all(counts[eye] >= LOOK for eye in self._eyes) else []

    def end(self) -> list[tuple[EyeName, TimedImage]]:
        """Return the images that wait."""
        if self._by_stamp is None and self._waiting:
            self._by_stamp = self._decide()
        waiting, self._waiting = self._waiting, []
        return [(eye, self._timed(seen)) for eye, seen in waiting]

    def _decide(self) -> bool:
        seen = {eye: [one for name, one in self._waiting if name == eye] for eye in self._eyes}
        stamps = [[one.stamp_ns for one in ones] for ones in seen.values() if ones]
        logs = [[one.log_ns for one in ones] for ones in seen.values() if ones]
        if all(map(_are_real, stamps)) and _have_one_clock(stamps, logs):
            return True
        if all(map(_are_real, logs)):
            return False
        raise StreamError(
            "neither its header stamps nor its log times tell when the images were taken, so they cannot be paired: "
            "record it again with times"
        )

    def _timed(self, seen: Seen) -> TimedImage:
        return TimedImage(seen.stamp_ns if self._by_stamp else seen.log_ns, seen.image)


def _are_real(times_ns: Sequence[int]) -> bool:
    return min(times_ns) > 0 and (len(times_ns) == 1 or len(set(times_ns)) > 1)


def _have_one_clock(stamps: Sequence[Sequence[int]], logs: Sequence[Sequence[int]]) -> bool:
    if len(stamps) < 2:
        return True
    apart_ns = stamps[1][0] - stamps[0][0]
    return abs(apart_ns) <= SAME_CLOCK_NS or abs(apart_ns - (logs[1][0] - logs[0][0])) <= SAME_CLOCK_NS


class ForeignPairs:
    """Forms pairs from the images in a recording that another tool made, for example ROS.

    name: of the file, from which the device's name is made if none is given.
    """

    def __init__(self, name: str, topics: EyeTopics, device: str | None = None) -> None:
        self.unreadable = 0
        self.reasons: Counter[str] = Counter()
        """Why images were not read, and how often; at most MAX_REASONS different reasons."""
        self.pairs = 0
        self.unpaired = Unpaired()
        self._name = name
        self._device = device or device_of(name)
        self._epoch = ""
        self._both = topics.sbs or topics.tb
        self._layout = "sbs" if topics.sbs else "tb"
        self._chosen: dict[EyeName, str | None] = {"left": topics.left, "right": topics.right}
        self.found: dict[EyeName, str] = {}
        """The topics of the eyes, as far as an image of them has come."""
        self._image_topics: set[str] = set()
        self._pixels = Pixels()
        self._moments = Moments(("left",) if self._both else ("left", "right"))
        self._first_ns: int | None = None
        tolerance_ns = None if topics.tolerance_ms is None else round(1e6 * topics.tolerance_ms)
        self._pairing = Pairing[TimedImage](tolerance_ns, max_waiting=MAX_BEHIND, on_unpaired=self._leave)

    def add(self, message: Message) -> list[EncodedPair]:
        """Add the image in a message, and return the pairs whose partners are certain now.

        Raises StreamError if the topics of the eyes are unclear, or if the images have no times.
        """
        topic = message.topic.name
        self._image_topics.add(topic)
        eye = self._eye_of(topic)
        if eye is None:
            return []
        if self.found.setdefault(eye, topic) != topic:
            raise StreamError(self._which_topics())
        try:
            stamp_ns, content = read_image(message)
            seen = Seen(stamp_ns or 0, message.time_ns, self._pixels.read(content))
        except ValueError as error:
            self._refuse(topic, error)
            return []
        return self._pair(self._moments.add(eye, seen))

    def end(self) -> list[EncodedPair]:
        """Return the pairs that were waiting for a nearer partner. Raises StreamError if the topics of the eyes are unclear."""
        if self._image_topics and not self._both and len(self.found) < 2:
            raise StreamError(self._which_topics())
        return self.rest()

    def rest(self) -> list[EncodedPair]:
        """Return the pairs that were waiting for a nearer partner. Raises StreamError if the images have no times."""
        return self._pair(self._moments.end()) + self._encode(self._pairing.end())

    def why_empty(self, topics: Iterable[Topic]) -> str:
        """Return why there is no pair, with a remedy. topics: all that the file has."""
        if self._both and not self.found:
            return self._which_topics()
        if self.reasons:
            return f"no pair can be read: {'; '.join(self.reasons)}"
        if self.found:
            return f"no two images are near enough in time ({self.unpaired.describe()}): widen --tolerance-ms"
        named = sorted({f"{topic.name} ({topic.schema or 'no schema'}, {topic.encoding})" for topic in topics})
        if films := sorted({f"{topic.name} ({topic.schema})" for topic in topics if is_video(topic)}):
            return (
                f"it holds films, which are not read: {_list(films)}; record single images, or make two films of it for "
                "`python -m device --camera video:LEFT,RIGHT`"
            )
        if not named:
            return "there is no message in it: record it again"
        kinds = "foxglove.CompressedImage, foxglove.RawImage, sensor_msgs Image or CompressedImage"
        return f"no topic of it holds images that are read ({kinds}): {_list(named)}"

    def _pair(self, images: list[tuple[EyeName, TimedImage]]) -> list[EncodedPair]:
        encoded = []
        for eye, image in images:
            if self._first_ns is None:
                self._first_ns = image.captured_ns
            if not image.captured_ns:
                self.unpaired.add(eye, "without a time")
            elif self._both:
                encoded += self._split(image)
            else:
                encoded += self._encode(self._pairing.add(eye, image))
        return encoded

    def _split(self, image: TimedImage) -> list[EncodedPair]:
        try:
            left, right = halves(image.image, self._layout)
        except ValueError as error:
            self._refuse(self._both or "", error)
            return []
        return self._encode([(TimedImage(image.captured_ns, left), TimedImage(image.captured_ns, right))])

    def _eye_of(self, topic: str) -> EyeName | None:
        if self._both:
            return "left" if topic == self._both else None
        eyes: tuple[tuple[EyeName, EyeName], ...] = (("left", "right"), ("right", "left"))
        for eye, other in eyes:
            chosen = self._chosen[eye]
            named = eye in topic.lower() and other not in topic.lower() and topic not in self._chosen.values()
            if topic == chosen or (chosen is None and named):
                return eye
        return None

    def _which_topics(self) -> str:
        topics = sorted(self._image_topics)
        names = _list(topics)
        if len(topics) == 1:
            [topic] = topics
            return f"only one topic has images: if it shows both eyes, say --sbs {topic} (side by side) or --tb {topic}"
        example = f"for example --left {topics[0]} --right {topics[1]}; " if len(topics) == 2 else ""
        return f"name the two eyes with --left TOPIC --right TOPIC; {example}there are {names}"

    def _leave(self, eye: EyeName, image: TimedImage) -> None:
        self.unpaired.add(eye, f"{(image.captured_ns - (self._first_ns or 0)) / 1e9:.3f} s")

    def _refuse(self, topic: str, error: ValueError) -> None:
        self.unreadable += 1
        reason = f"{topic}: {error}"
        if reason in self.reasons or len(self.reasons) < MAX_REASONS:
            self.reasons[reason] += 1

    def _encode(self, pairs: Iterable[tuple[TimedImage, TimedImage]]) -> list[EncodedPair]:
        encoded = []
        for left, right in pairs:
            epoch = self._epoch or _hash(self._device, left, right)
            try:
                pair = encode_pair(
                    left.image,
                    right.image,
                    device=self._device,
                    epoch=epoch,
                    seq=self.pairs,
                    left_ns=left.captured_ns,
                    right_ns=right.captured_ns,
                    codec="jpeg" if isinstance(left.image, bytes) or isinstance(right.image, bytes) else "lz4",
                )
            except ValueError as error:  # two sizes, a damaged JPEG
                self._refuse(self.found.get("left", ""), error)
            else:
                encoded.append(pair)
                self.pairs += 1
            self._epoch = epoch
        return encoded


def device_of(name: str) -> str:
    """Return the name of the device of a file: its own name, as far as a device can have it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).stem).lstrip("._-")[:64] or "recording"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_NAMED]) + (f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else "")


def _hash(device: str, left: TimedImage, right: TimedImage) -> str:
    """Return an epoch for a recording that has none, from its first pair."""
    digest = hashlib.blake2b(f"{device} {left.captured_ns} {right.captured_ns}".encode(), digest_size=16)
    for shot in (left, right):
        digest.update(shot.image if isinstance(shot.image, bytes) else shot.image.tobytes())
    return digest.hexdigest()
