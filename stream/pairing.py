"""Makes pairs from the images of two eyes, by the nearest time: for cameras, films, folders and recordings. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Generic, Literal, Protocol, TypeVar

from stream.errors import StreamError
from stream.image import Image

TOLERANCE_NS = 20_000_000
"""The tolerance as long as no eye has had two images: half the period of a camera of 25 Hz."""
ROUNDING_NS = 1_000_000
"""What is added to half a frame, because many tools round times to a millisecond."""
STEP_BACK_NS = 1_000_000_000
"""A time that is so much older than the one before it is a clock that was set, or a recording that begins again."""
MAX_WAITING = 64
MAX_WAITING_BYTES = 64 << 20
"""Limits of the images of one eye that wait, in number and bytes. Beyond them the oldest is dropped, but one image always
stays."""
MAX_NAMES = 4
"""How many images without a partner are named for each eye."""
_INTERVALS = 9
LOOK = 4
"""Number of images of each eye that decide by which times the images of a recording are paired."""
SAME_CLOCK_NS = 1_000_000_000
"""Two eyes have one clock if the first stamps are apart as the log times are, up to this."""

EyeName = Literal["left", "right"]


class Timed(Protocol):
    """Anything that can be paired."""

    @property
    def captured_ns(self) -> int:
        """Nanoseconds, on one clock for both eyes."""

    @property
    def size(self) -> int:
        """Size in bytes, as it is held in memory."""


T = TypeVar("T", bound=Timed)


@dataclass(frozen=True, slots=True)
class TimedImage:
    """An image of one eye, JPEG bytes or pixels, and its capture time in nanoseconds since 1970."""

    captured_ns: int
    """Nanoseconds since 1970."""
    image: bytes | Image
    """A JPEG file, or pixels: uint8 [H, W] or [H, W, 3] BGR."""

    @property
    def size(self) -> int:
        """Size of the image in bytes, as it is held in memory."""
        return len(self.image) if isinstance(self.image, bytes) else self.image.nbytes


class Pairing(Generic[T]):
    """Receives the images of both eyes, each eye in the order of its time, and forms pairs.

    A pair is returned once no later image can be a nearer partner: when the next image has arrived, or at the `end`.
    tolerance_ns: images further apart make no pair. None: half of the shorter frame interval of the two eyes, as their last
    images show it, and a millisecond for rounded times. interval_ns: the shortest time between two images of an eye, if one is
    stated; then near images are a pair at once, and the tolerance is at least half of it. max_waiting: images of an eye that may
    wait. on_unpaired: called with each image that has no partner, to name it or to free it.
    """

    def __init__(
        self,
        tolerance_ns: int | None = None,
        *,
        interval_ns: int = 0,
        max_waiting: int = MAX_WAITING,
        on_unpaired: Callable[[EyeName, T], None] | None = None,
    ) -> None:
        self.unpaired = 0
        """Images that found no partner."""
        self._tolerance_ns = tolerance_ns
        self._interval_ns = interval_ns
        self._max_waiting = max_waiting
        self._on_unpaired = on_unpaired
        self._waiting: dict[EyeName, deque[T]] = {"left": deque(), "right": deque()}
        self._times_ns: dict[EyeName, deque[int]] = {
            "left": deque(maxlen=_INTERVALS + 1),
            "right": deque(maxlen=_INTERVALS + 1),
        }

    def add(self, eye: EyeName, image: T) -> list[tuple[T, T]]:
        """Add an image; return the pairs whose partners are certain now."""
        waiting, times_ns = self._waiting[eye], self._times_ns[eye]
        if times_ns and image.captured_ns < times_ns[-1]:
            if times_ns[-1] - image.captured_ns < STEP_BACK_NS:
                self._leave(eye, image)
                return []
            times_ns.clear()
            while waiting:
                self._drop(eye)
        waiting.append(image)
        times_ns.append(image.captured_ns)
        while len(waiting) > self._max_waiting or (
            len(waiting) > 1 and sum(one.size for one in waiting) > MAX_WAITING_BYTES
        ):
            self._drop(eye)
        return self._match(final=False)

    def end(self) -> list[tuple[T, T]]:
        """Return the pairs that were waiting for a nearer partner."""
        pairs = self._match(final=True)
        for eye, waiting in self._waiting.items():
            while waiting:
                self._drop(eye)
        return pairs

    def tolerance_ns(self) -> int | None:
        """Return how far apart the images of a pair may be now; None as long as no eye has had two images."""
        if self._tolerance_ns is not None:
            return self._tolerance_ns
        if (
            self._interval_ns
        ):  # what is slower than stated has no step as short; a step over lost images is longer than a frame
            return half_frame_ns(max(min(self._steps_ns(), default=0), self._interval_ns))
        intervals_ns = [ns for times_ns in self._times_ns.values() if (ns := interval_ns(times_ns)) is not None]
        return half_frame_ns(min(intervals_ns)) if intervals_ns else None

    def _steps_ns(self) -> list[int]:
        return [later - earlier for times_ns in self._times_ns.values() for earlier, later in pairwise(times_ns)]

    def _shortest_ns(self) -> int:
        """Return the time that passes at least until the next image of an eye; a stated rate may be too low."""
        return min([*self._steps_ns(), self._interval_ns])

    def _match(self, *, final: bool) -> list[tuple[T, T]]:
        pairs = []
        left, right = self._waiting["left"], self._waiting["right"]
        while left and right:
            eye: EyeName = "left" if left[0].captured_ns <= right[0].captured_ns else "right"
            earlier, later = (left, right) if eye == "left" else (right, left)
            apart_ns = later[0].captured_ns - earlier[0].captured_ns
            alone = len(earlier) == 1
            tolerance_ns = self.tolerance_ns()
            if tolerance_ns is None:
                tolerance_ns = apart_ns if alone and not final else TOLERANCE_NS
            if apart_ns > tolerance_ns:
                self._drop(eye)
            elif alone and not final and 2 * apart_ns > self._shortest_ns():
                break  # the next image of this eye may be nearer
            elif not alone and abs(earlier[1].captured_ns - later[0].captured_ns) < apart_ns:
                self._drop(eye)
            else:
                pairs.append((left.popleft(), right.popleft()))
        return pairs

    def _drop(self, eye: EyeName) -> None:
        self._leave(eye, self._waiting[eye].popleft())

    def _leave(self, eye: EyeName, image: T) -> None:
        self.unpaired += 1
        if self._on_unpaired is not None:
            self._on_unpaired(eye, image)


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

    @property
    def by_stamp(self) -> bool:
        """Whether images have the time of their headers; False also as long as it is not decided."""
        return bool(self._by_stamp)

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


class Unpaired:
    """Counts the images of each eye that have no partner, and remembers the first few names for a message."""

    def __init__(self) -> None:
        self.counts: dict[EyeName, int] = {"left": 0, "right": 0}
        self._names: dict[EyeName, list[str]] = {"left": [], "right": []}

    def add(self, eye: EyeName, name: str) -> None:
        """Count an image. name: of its file, or its number or time in the stream."""
        self.counts[eye] += 1
        if len(self._names[eye]) < MAX_NAMES:
            self._names[eye].append(name)

    def describe(self) -> str:
        """Return, for example, "left 1 (0003.png), right 6 (a.png, b.png, c.png, d.png, ...)"; "" if all have a partner."""
        return ", ".join(
            f"{eye} {count} ({', '.join(self._names[eye])}{', ...' if count > len(self._names[eye]) else ''})"
            for eye, count in self.counts.items()
            if count
        )


def interval_ns(times_ns: Iterable[int]) -> int | None:
    """Return the median time between images of one eye in nanoseconds; None if there are no two at different times."""
    steps_ns = [later - earlier for earlier, later in pairwise(times_ns) if later > earlier]
    return round(median(steps_ns)) if steps_ns else None


def half_frame_ns(frame_ns: int) -> int:
    """Return the default tolerance for eyes whose shorter frame interval is `frame_ns` nanoseconds."""
    return frame_ns // 2 + ROUNDING_NS
