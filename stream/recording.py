"""Recordings: a stream of pairs in an MCAP file that Foxglove, Rerun and other tools open as it is.

Topics: `/stereo/meta` (the header as JSON), `/stereo/left/image` and `/stereo/right/image` (foxglove.CompressedImage), in this
order for each pair, all three at the left eye's capture time; pairs in the order they arrived. Pixels of lz4 pairs go to
`.../image_raw` (foxglove.RawImage), because a topic has one schema. The first rig of a file has these names, so that a
recording of one rig always looks the same to other tools; the topics of further ones begin with /DEVICE.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Self

from stream.codec import decode
from stream.errors import EndOfStream, StreamError
from stream.given import Given
from stream.mcap_writer import Channel, McapWriter
from stream.pair import Codec, EncodedPair, Header
from stream.payload import COMPRESSED, HEADER, RAW, header_data, jpeg_data, pixels_data
from stream.recording_reader import Eyes, RecordingReader
from stream.source import Cursor
from stream.sync import sync_path

CHUNK_BYTES = 1 << 20
"""What a damaged place can cost, and what is lost of a file whose writer is killed."""
MAX_PAUSE_S = 60.0
"""A longer pause of a rig, or a jump of its clock, is not waited for in replay."""


class RecordingWriter:
    """Writes pairs to a new file; a context manager.

    Raises OSError where there is a file already, or no room: it then has its whole chunks, and `close` ends it properly.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._prefixes: dict[str, str] = {}
        self._metas: dict[str, Channel] = {}
        self._eyes: dict[tuple[str, Codec], tuple[Channel, Channel]] = {}
        self._file = path.open("xb", buffering=0)
        try:
            self._mcap = McapWriter(self._file)
            sync_path(path.parent)
        except BaseException:
            self._file.close()
            path.unlink()
            raise

    @property
    def pairs(self) -> int:
        """How many are in the file; those in the chunk that is being filled are not."""
        return self._mcap.messages // 3

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return self._mcap.file_bytes

    def write(self, pair: EncodedPair) -> None:
        """Add a pair; it is in the file once its chunk is full, or after `sync`.

        Raises MalformedMessage where an lz4 pair does not decode, and OSError where there is no room.
        """
        header = pair.header
        left, right = _images(pair)
        meta, left_eye, right_eye = self._channels(header)
        for channel, parts in ((meta, (header_data(header),)), (left_eye, left), (right_eye, right)):
            self._mcap.add(channel, header.seq, header.left_ns, *parts)
        if self._mcap.chunk_bytes >= CHUNK_BYTES:
            self._mcap.flush()

    def sync(self) -> None:
        """Make durable what was written."""
        self._mcap.flush()
        os.fdatasync(self._file.fileno())

    def close(self) -> None:
        """Write what is left and the index, and make them durable; idempotent."""
        if self._file.closed:
            return
        try:
            self._mcap.finish()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _channels(self, header: Header) -> tuple[Channel, Channel, Channel]:
        """The topics of a pair: header, left, right."""
        device, codec = header.device, header.codec
        if device not in self._metas:
            self._prefixes[device] = f"/{device}/stereo" if self._prefixes else "/stereo"
            self._metas[device] = self._mcap.channel(f"{self._prefixes[device]}/meta", HEADER, compressed=False)
        if (device, codec) not in self._eyes:
            schema, name = (COMPRESSED, "image") if codec == "jpeg" else (RAW, "image_raw")
            left, right = (
                self._mcap.channel(f"{self._prefixes[device]}/{side}/{name}", schema, compressed=codec == "lz4")
                for side in ("left", "right")
            )
            self._eyes[device, codec] = left, right
        return self._metas[device], *self._eyes[device, codec]


class RecordingSource:
    """The pairs of recordings, one file after the other; satisfies `stream.source.Source`.

    cursor: of an earlier source; what it names is passed over. No pair is given twice, also where two files hold it.
    speed: 0 gives pairs as fast as they are asked for; else they come at this multiple of real time, by their capture
    times within an epoch. A pause of more than MAX_PAUSE_S, and the time between two epochs, is left out.
    eyes: topics of another tool's recording.
    clock, sleep: seconds.
    Raises StreamError in one line where a file is no recording, ValueError where the cursor or the speed is none.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        cursor: Cursor | None = None,
        speed: float = 0.0,
        eyes: Eyes | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not (0 <= speed < math.inf):
            raise ValueError(f"the speed must be a multiple of real time, or 0 for as fast as possible; got {speed}")
        for path in paths:
            with opened(path, eyes):
                pass  # a wrong name is said before the first pair, not hours into it
        self._given = Given(cursor)
        self._pairs = _in_turn(paths, eyes)
        self._ahead: EncodedPair | None = None
        self._ended: StreamError | None = None
        self._pace = _Pace(speed, clock)
        self._clock, self._sleep = clock, sleep

    def receive(self, limit: int, timeout_s: float) -> list[EncodedPair]:
        """See Source. Raises StreamError where a file cannot be read on, after the pairs before that."""
        if limit < 1:
            raise ValueError(f"limit must be at least 1 pair, got {limit}")
        pairs: list[EncodedPair] = []
        deadline_s = self._clock() + timeout_s
        while len(pairs) < limit and (ahead := self._look_ahead()) is not None:
            now_s = self._clock()
            if now_s >= self._pace.due_s:
                self._given.add(ahead.header)
                pairs.append(ahead)
                self._ahead = None
            elif pairs or now_s >= deadline_s:
                break
            else:
                self._sleep(min(self._pace.due_s, deadline_s) - now_s)
        if not pairs and self._ended is not None:
            raise self._ended
        return pairs

    def backlog(self) -> int:
        """Nothing waits: pairs are read when they are asked for."""
        return 0

    def cursor(self) -> Cursor:
        """See Source."""
        return self._given.cursor()

    def acknowledge(self, cursor: Cursor) -> None:
        """A recording forgets nothing."""

    def close(self) -> None:
        """Close the file; idempotent."""
        self._ended = self._ended or EndOfStream("the recording is closed")
        self._ahead = None
        self._pairs.close()

    def _look_ahead(self) -> EncodedPair | None:
        """The pair that is next; None where there is none any more, and why is in `_ended`."""
        if self._ahead is None and self._ended is None:
            try:
                self._ahead = next((pair for pair in self._pairs if pair.header not in self._given), None)
            except StreamError as error:
                self._ended = error
            else:
                if self._ahead is None:
                    self._ended = EndOfStream("the recording has given its last pair")
                else:
                    self._pace.next(self._ahead.header)
        return self._ahead


class _Pace:
    """When the next pair is due."""

    def __init__(self, speed: float, clock: Callable[[], float]) -> None:
        self.due_s = -math.inf
        self._speed = speed
        self._clock = clock
        self._last: dict[tuple[str, str], tuple[int, float]] = {}  # of each epoch: captured when, due when

    def next(self, header: Header) -> None:
        """Set `due_s` for the pair of this header."""
        if not self._speed:
            return
        epoch = (header.device, header.epoch)
        self.due_s = self._clock()
        if epoch in self._last:
            captured_ns, due_s = self._last[epoch]
            step_s = (header.left_ns - captured_ns) / 1e9
            if 0 <= step_s <= MAX_PAUSE_S:
                self.due_s = due_s + step_s / self._speed
        self._last[epoch] = header.left_ns, self.due_s


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


def _in_turn(paths: Sequence[Path], eyes: Eyes | None) -> Generator[EncodedPair, None, None]:
    for path in paths:
        with opened(path, eyes) as reader:
            yield from reader


def _images(pair: EncodedPair) -> tuple[tuple[bytes, bytes], tuple[bytes, bytes]]:
    """The messages of both eyes, in parts."""
    header = pair.header
    frames = f"{header.device}/left", f"{header.device}/right"
    if header.codec == "jpeg":
        return jpeg_data(pair.left, header.left_ns, frames[0]), jpeg_data(pair.right, header.right_ns, frames[1])
    decoded = decode(pair)
    return (
        pixels_data(decoded.left, header.left_ns, frames[0]),
        pixels_data(decoded.right, header.right_ns, frames[1]),
    )
