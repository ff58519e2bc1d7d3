"""Makes pairs of the images that another tool recorded, by the nearest times of two topics. Pure.

The times are the stamps in the headers of the messages where these are real for both eyes, or else the log times of the file.
Images are never paired by their position.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from stream.codec import encode_pair
from stream.errors import StreamError
from stream.pair import EncodedPair
from stream.pairing import EyeName, Moments, Pairing, Seen, TimedImage, Unpaired
from stream.recording.levels import Levels
from stream.recording.mcap_reader import Message, Topic
from stream.recording.messages import is_video, read_image
from stream.recording.pixels import Pixels, halves, with_equal_channels
from stream.recording.signals.ros import RosSignals
from stream.signals.signal import Telemetry

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
    levels: tuple[float, float] | None = None
    """What is black and what is white in another tool's images of more than 8 bits, such as 0 4095. By default a sample of the
    recording decides: the same for both eyes and for the whole recording."""

    def __post_init__(self) -> None:
        if self.tolerance_ms is not None and not 0 <= self.tolerance_ms <= 1e9:
            raise ValueError(f"the tolerance must be at least 0 ms, got {self.tolerance_ms}")
        if self.levels is not None and not -math.inf < self.levels[0] < self.levels[1] < math.inf:
            raise ValueError(f"--levels are two numbers, black before white, got {self.levels}")
        ways = [self.left or self.right, self.sbs, self.tb]
        if sum(way is not None for way in ways) > 1:
            raise ValueError(
                "--sbs and --tb name one topic with both eyes: give one of them, without --left and --right"
            )


class ForeignPairs:
    """Forms pairs from the images in a recording that another tool made, for example ROS.

    name: of the file, from which the device's name is made if none is given. levels: see `Pixels`.
    """

    def __init__(
        self, name: str, topics: EyeTopics, device: str | None = None, levels: Callable[[], Levels] | None = None
    ) -> None:
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
        self._pixels = Pixels(levels)
        self._moments = Moments(("left",) if self._both else ("left", "right"))
        self._first_ns: int | None = None
        tolerance_ns = None if topics.tolerance_ms is None else round(1e6 * topics.tolerance_ms)
        self._signals = RosSignals(self._refuse)
        self._pairing = Pairing[TimedImage](tolerance_ns, max_waiting=MAX_BEHIND, on_unpaired=self._leave)

    def add(self, message: Message) -> list[EncodedPair]:
        """Add the image in a message, and return the pairs whose partners are certain now.

        Raises StreamError if the topics of the eyes are unclear, or if the images have no times.
        """
        topic = message.topic.name
        self._image_topics.add(topic)
        eye = self.eye_of(topic)
        if eye is None:
            return []
        if self.found.setdefault(eye, topic) != topic:
            raise StreamError(self._which_topics())
        try:
            stamp_ns, content = read_image(message)
            seen = Seen(stamp_ns or 0, message.time_ns, self._pixels.read(content))
            self._signals.see_image(seen.stamp_ns, seen.log_ns)
        except ValueError as error:
            self._refuse(topic, error)
            return []
        return self._pair(self._moments.add(eye, seen))

    def add_signal(self, message: Message) -> None:
        """Add a message with signals, which go with the next pair. Raises StreamError without `rosbags`."""
        self._signals.add(message)

    @property
    def rows_left_out(self) -> int:
        """Valid rows of signals that no pair has, known at the end."""
        return self._signals.left_out

    def end(self) -> list[EncodedPair]:
        """Return the pairs that were waiting for a nearer partner. Raises StreamError if the topics of the eyes are unclear."""
        if self._image_topics and not self._both and len(self.found) < 2:
            raise StreamError(self._which_topics())
        pairs = self.rest()
        self._signals.end(by_stamp=self._moments.by_stamp)
        return pairs

    def rest(self) -> list[EncodedPair]:
        """Return the pairs that were waiting for a nearer partner. Raises StreamError if the images have no times."""
        return self._pair(self._moments.end()) + self._encode(self._pairing.end())

    def why_empty(self, topics: Iterable[Topic]) -> str:
        """Return why there is no pair, with a remedy. topics: all that the file has."""
        if self._both and not self.found:
            return self._which_topics()
        if self.reasons and self._image_topics:
            return f"no pair can be read: {'; '.join(self.reasons)}"
        if self.found:
            return f"no two images are near enough in time ({self.unpaired.describe()}): widen --tolerance-ms"
        named = sorted({f"{topic.name} ({topic.schema or 'no schema'}, {topic.encoding})" for topic in topics})
        if films := sorted({f"{topic.name} ({topic.schema})" for topic in topics if is_video(topic)}):
            return (
                f"it holds films, which are not read: {_list(films)}; record single images, or make two films of it for "
                "`--camera video:LEFT,RIGHT` of a rig"
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

    def eye_of(self, topic: str) -> EyeName | None:
        """Return which eye a topic shows; "left" for the topic with both eyes."""
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
                one, other = with_equal_channels(left.image, right.image)
                pair = encode_pair(
                    one,
                    other,
                    device=self._device,
                    epoch=epoch,
                    seq=self.pairs,
                    left_ns=left.captured_ns,
                    right_ns=right.captured_ns,
                    codec="jpeg" if isinstance(one, bytes) or isinstance(other, bytes) else "lz4",
                )
                # Only now is it certain that there is a pair: signals of images that are none go with the next one.
                signals = self._signals.take(left.captured_ns, by_stamp=self._moments.by_stamp)
                pair = replace(pair, header_part=b"", telemetry=Telemetry(signals))
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
