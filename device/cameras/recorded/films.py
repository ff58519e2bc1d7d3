"""Films as cameras: two films whose frames are paired by their times, or one film with both eyes in each frame.

PyAV gives the time of each frame as the file has it. OpenCV does not: it counts from the first frame of each film.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from device.camera import DEFAULTS, BadShot, CameraError, CameraSettings, EyeImage, Layout, Shot, halves
from device.cameras.recorded.camera import RecordedCamera
from stream.image import Image, check_sides
from stream.pairing import STEP_BACK_NS, EyeName, Pairing, TimedImage, Unpaired
from stream.recording.levels import AHEAD, Levels, Sample

RAW_FPS = 25.0
"""Rate in Hz of a stream that says nothing about its rate; FFmpeg's own assumption."""
MAX_FPS = 1000.0
MAX_FAILURES = 100
"""A film has ended where so many reads in a row give no frame."""
_NO_TIMES = 0x0080
"""AVFMT_NOTIMESTAMPS of FFmpeg: raw streams, whose times are made up of a guessed rate."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Film:
    """What a film says about itself.

    fps: its rate in Hz. begin_ns and duration_ns: its first time and its length, in nanoseconds; the length is 0 if unknown.
    timed: whether its frames have times. deep: whether they have more than 8 bits of grey.
    """

    path: Path
    fps: float
    begin_ns: int
    duration_ns: int
    timed: bool
    deep: bool


def open_videos(left: Path | str, right: Path | str, settings: CameraSettings = DEFAULTS) -> RecordedCamera:
    """Open two films whose frames are paired by time; a frame without a partner is left out and counted. Raises CameraError.

    If the times of two films do not overlap, both are assumed to have begun together. Without times, frames are paired by their
    numbers. The log says when either is done.
    """
    films = examine(Path(left), settings), examine(Path(right), settings)
    one, other = films
    levels = _levels(films, settings)
    late_ns = round(settings.right_late_ms * 1e6)
    timed = one.timed and other.timed
    if not timed:
        raw = " and ".join(str(film.path) for film in films if not film.timed)
        log.warning("%s has no times: frames are paired by their numbers, which is wrong if one was lost", raw)
        period_ns = round(1e9 / min(film.fps for film in films))
        play = partial(_pairs, films, levels, (0, late_ns), settings.tolerance_ns, period_ns)
    else:
        shifts = (0, late_ns)
        if not _overlap(one, other, late_ns):
            log.warning("%s and %s have no time in common: they are taken as begun together", one.path, other.path)
            shifts = (-one.begin_ns, late_ns - other.begin_ns)
        elif _unequal(one, other) and not late_ns:
            lengths = f"{one.duration_ns / 1e9:.3f} and {other.duration_ns / 1e9:.3f} s"
            late_eye = "right" if one.duration_ns > other.duration_ns else "left"
            late_ms = round((one.duration_ns - other.duration_ns) / 1e6)
            hint = f"if the {late_eye} eye began later and both ended together, it is --right-late-ms {late_ms}"
            log.warning("%s and %s last %s, with times of their own: %s", one.path, other.path, lengths, hint)
        play = partial(_pairs, films, levels, shifts, settings.tolerance_ns, None)
    return RecordedCamera(f"video:{left},{right}", play, settings, fps=min(film.fps for film in films))


def open_split(layout: Layout, path: Path | str, settings: CameraSettings = DEFAULTS) -> RecordedCamera:
    """Open one film whose frames hold both eyes. Raises CameraError."""
    film = examine(Path(path), settings)
    period_ns = None if film.timed else round(1e9 / film.fps)
    levels = _levels([film], settings)

    def play() -> Iterator[Shot | BadShot]:
        for frame in _frames(film, levels, 0, period_ns):
            if isinstance(frame, BadShot):
                yield frame
            else:
                left, right = halves(_pixels(frame), layout)  # an odd side makes unequal eyes, which is refused
                at_ns = frame.captured_ns
                yield Shot(EyeImage(at_ns, pixels=left), EyeImage(at_ns, pixels=right))

    return RecordedCamera(f"{layout}:{path}", play, settings, fps=film.fps)


class _Clock:
    """How far a film is, also where its times begin again, as they do where two films were joined."""

    def __init__(self) -> None:
        self.reached = 0, float("-inf")
        """How often its times began again, and the newest time since then in nanoseconds: in this order films are read."""
        self._is_back = False

    def see(self, time_ns: int) -> None:
        """Note the time of the next frame, in nanoseconds."""
        begun, newest_ns = self.reached
        was_back, self._is_back = self._is_back, newest_ns - time_ns >= STEP_BACK_NS
        if not self._is_back:
            self.reached = begun, max(newest_ns, time_ns)
        elif was_back:  # twice in a row, because a single frame may have a wrong time
            self.reached = begun + 1, time_ns


def examine(path: Path, settings: CameraSettings = DEFAULTS) -> Film:
    """Return what a film says about itself. Raises CameraError if it is no film."""
    with closing(_open(path)) as container:
        stream = _video(container, path)
        rates = [float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
        fps = min([rate for rate in rates if 0 < rate <= MAX_FPS], default=settings.fps or RAW_FPS)
        duration = stream.duration * stream.time_base if stream.duration and stream.time_base else 0
        return Film(
            path,
            fps,
            _ns(stream.start_time or 0, stream.time_base) or 0,
            round(duration * 10**9) or round((container.duration or 0) * 1000),
            timed=not container.format.flags & _NO_TIMES,
            deep=_is_deep(stream),
        )


def _pairs(
    films: tuple[Film, Film],
    levels: Levels,
    shifts_ns: tuple[int, int],
    tolerance_ns: int | None,
    period_ns: int | None,
) -> Iterator[Shot | BadShot]:
    """Yield the shots of two films. shifts_ns: what is added to their times. period_ns: of films without times, else None."""
    unpaired = Unpaired()

    def leave(eye: EyeName, image: TimedImage) -> None:
        unpaired.add(eye, f"{image.captured_ns / 1e9:.3f} s")

    pairing = Pairing[TimedImage](tolerance_ns, on_unpaired=leave)
    sides: tuple[EyeName, EyeName] = ("left", "right")
    frames = {
        eye: _frames(film, levels, shift_ns, period_ns)
        for eye, film, shift_ns in zip(sides, films, shifts_ns, strict=True)
    }
    clocks = {eye: _Clock() for eye in sides}
    while frames:
        eye = min(frames, key=lambda name: clocks[name].reached)  # the one that is behind
        frame = next(frames[eye], None)
        if frame is None:
            del frames[eye]
        elif isinstance(frame, BadShot):
            yield frame
        else:
            clocks[eye].see(frame.captured_ns)
            yield from map(_shot, pairing.add(eye, frame))
    yield from map(_shot, pairing.end())
    if rest := unpaired.describe():
        names = ",".join(str(film.path) for film in films)
        log.warning("video:%s: frames without a partner are left out: %s", names, rest)


def _frames(film: Film, levels: Levels, shift_ns: int, period_ns: int | None) -> Iterator[TimedImage | BadShot]:
    """Yield the frames of a film; one that cannot be decoded is a BadShot."""
    number = failures = 0
    with closing(_open(film.path)) as container:
        stream = _video(container, film.path)
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
                decoded = [frame for frame in packet.decode() if isinstance(frame, VideoFrame)]
            except StopIteration:
                return
            except av.FFmpegError as error:
                failures += 1
                yield BadShot(f"{film.path}: what follows frame {number} does not decode: {error.strerror}")
                if failures > MAX_FAILURES:
                    return
                continue
            for frame in decoded:
                time_ns = _ns(frame.pts, frame.time_base) if period_ns is None else number * period_ns
                number, failures = number + 1, 0
                if time_ns is None or frame.is_corrupt:
                    yield BadShot(
                        f"{film.path}: frame {number} is {'damaged' if frame.is_corrupt else 'without a time'}"
                    )
                    continue
                try:
                    image = _upright(frame, levels if film.deep else None)
                except (av.FFmpegError, OSError, ValueError) as error:
                    yield BadShot(
                        f"{film.path}: frame {number} of format {frame.format.name} cannot be converted ({error})"
                    )
                else:
                    yield TimedImage(time_ns + shift_ns, image)


def _open(path: Path) -> InputContainer:
    if not path.is_file():
        raise CameraError(f"no video {path}")
    try:
        return av.open(str(path), metadata_errors="replace", options={"protocol_whitelist": "file"})
    except (av.FFmpegError, OSError, ValueError) as error:
        hint = "re-encode it, for example as MJPEG in .avi"
        reason = getattr(error, "strerror", None) or error
        raise CameraError(f"{path} is not a video that FFmpeg can read ({reason}): {hint}") from error


def _video(container: InputContainer, path: Path) -> VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream):
        raise CameraError(f"{path} is not a video: it has no pictures")
    if stream.codec_context is None:
        raise CameraError(f"{path} has a codec that FFmpeg does not know: re-encode it, for example as MJPEG in .avi")
    try:
        check_sides(stream.height, stream.width)
    except ValueError as error:
        raise CameraError(f"{path}: {error}") from error
    stream.thread_type = "NONE"  # the other cores belong to a learner
    return stream


def _upright(frame: VideoFrame, levels: Levels | None) -> Image:
    image = np.asarray(levels.apply(_grey(frame)) if levels else frame.to_ndarray(format="bgr24"), np.uint8)
    turns = round(frame.rotation / 90) % 4  # a telephone held upright stores its film on its side
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _grey(frame: VideoFrame) -> NDArray[Any]:
    """Return the grey values of a frame as they are in the film, so that 10 bits are 0 to 1023."""
    values = np.asarray(frame.to_ndarray())
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _is_deep(stream: VideoStream) -> bool:
    name = stream.format.name if stream.format else ""
    return name.startswith("gray") and name not in ("gray", "gray8a")


def _levels(films: Sequence[Film], settings: CameraSettings) -> Levels:
    """Return the levels of the films with more than 8 bits of grey, the same for all of them."""
    if settings.levels:
        return Levels(*settings.levels)
    samples = [Sample() for _ in films]
    for film, sample in zip(films, samples, strict=True):
        if not film.deep:
            continue
        with closing(_open(film.path)) as container, suppress(av.FFmpegError):  # playing says what is wrong
            for frame in islice(container.decode(_video(container, film.path)), AHEAD):
                sample.offer(partial(_grey, frame))
    return Levels.of([image for sample in samples for image in sample.images])


def _overlap(one: Film, other: Film, late_ns: int) -> bool:
    apart_ns = abs(one.begin_ns - other.begin_ns - late_ns)
    return apart_ns < max(min(one.duration_ns, other.duration_ns), 1_000_000_000)


def _unequal(one: Film, other: Film) -> bool:
    frame_ns = 1e9 / min(one.fps, other.fps)
    same_begin = one.begin_ns == other.begin_ns
    return (
        same_begin
        and bool(one.duration_ns and other.duration_ns)
        and abs(one.duration_ns - other.duration_ns) > 2 * frame_ns
    )


def _ns(ticks: int | None, base: Fraction | None) -> int | None:
    return None if ticks is None or base is None else round(ticks * base * 10**9)


def _pixels(frame: TimedImage) -> Image:
    return np.asarray(frame.image, np.uint8)


def _shot(pair: tuple[TimedImage, TimedImage]) -> Shot:
    left, right = (EyeImage(image.captured_ns, pixels=_pixels(image)) for image in pair)
    return Shot(left, right)
