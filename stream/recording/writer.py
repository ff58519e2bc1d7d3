"""Writes a stream of pairs into an MCAP file that Foxglove, Rerun and other tools open as it is.

Topics: `/stereo/meta` (the header as JSON), `/stereo/left/image` and `/stereo/right/image` (foxglove.CompressedImage), in this
order for each pair, all three at the left eye's capture time; pairs in the order of arrival. Each row of a signal is a message of
`/signals/NAME` at its own time, between header and images (`stream.recording.signals.rows`). A known calibration is in
`/stereo/left/calibration` and `/stereo/right/calibration` (foxglove.CameraCalibration). Pixels of lz4 pairs go to
`.../image_raw` (foxglove.RawImage), because a topic has one schema. The first rig of a file has these names, so that a recording
of one rig always looks the same to other tools; the topics of further rigs begin with /DEVICE. `/stereo/receipt` has what the
recorder knows beside the pairs (`stream.recording.receipts`).
"""

from __future__ import annotations

import logging
import os
import re
import time
from pathlib import Path

from stream.closeable import Closeable
from stream.codec import decode
from stream.errors import MalformedMessage, StreamError, reported_as
from stream.fsync import sync_path
from stream.pair import Codec, EncodedPair, Header
from stream.recording.mcap_writer import Channel, McapWriter
from stream.recording.payload import CALIBRATION, COMPRESSED, HEADER, RAW, eye_data, header_data
from stream.recording.receipts import RECEIPT, Receipt, encode_receipt
from stream.recording.signals.rows import MAX_TOPICS, SIGNAL, row_messages

log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
"""Size of a chunk: a damaged place costs one chunk, and so does the death of the writer."""
MAX_RIGS = 1024
"""Rigs of one file: each takes up to seven of the 65 535 topics that a file can have."""


def next_file(out: Path) -> tuple[Path, list[Path]]:
    """Return the first free path after the last of FILE, FILE-2, FILE-3 ..., and the files of these names that are there.

    Raises StreamError if the folder cannot be read.
    """
    name = re.compile(re.escape(out.stem) + r"(?:-([1-9][0-9]{0,8}))?" + re.escape(out.suffix))
    with reported_as(StreamError, str(out.parent), ": make the folder first, or choose another --out"):
        found = {int(match[1] or 1): path for path in out.parent.iterdir() if (match := name.fullmatch(path.name))}
    number = max(found, default=0) + 1
    return (out if number == 1 else out.with_stem(f"{out.stem}-{number}")), [path for _, path in sorted(found.items())]


class RecordingWriter(Closeable):
    """Writes pairs to a new file; a context manager.

    Raises OSError if the file exists already or the disk is full. After a full disk the file holds its whole chunks, and `close`
    still completes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rigs: dict[str, tuple[str, Channel]] = {}  # the prefix of its topics, and the topic of its headers
        self._eyes: dict[tuple[str, Codec], tuple[Channel, Channel]] = {}
        self._signals: dict[tuple[str, str], Channel] = {}
        self._receipts: Channel | None = None
        self._newest_ns = 0
        self.lost = 0
        """Lost pairs that its receipts name."""
        self.unrecorded_signals = 0
        """Signals of pairs that have no topic, because there are too many names."""
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
        """Pairs in the file, without those in the chunk that is being filled."""
        return sum(self._mcap.counts[meta.id] for _, meta in self._rigs.values())

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return self._mcap.file_bytes

    def write(self, pair: EncodedPair) -> None:
        """Add a pair; it is in the file once its chunk is full, or after `sync`.

        Raises MalformedMessage if an lz4 pair does not decode or there are MAX_RIGS other rigs, and OSError if there is no room.
        """
        header = pair.header
        images = pair if header.codec == "jpeg" else decode(pair)
        left = eye_data(images.left, header.left_ns, f"{header.device}/left")
        right = eye_data(images.right, header.right_ns, f"{header.device}/right")
        meta, left_eye, right_eye = self._channels(header)
        signals = [
            (channel, one) for name, one in pair.telemetry.signals.items() if (channel := self._topic(header, name))
        ]
        rows = sum(len(one) for _, one in signals)
        described = header_data(
            header, episode=pair.telemetry.episode, subject=pair.telemetry.subject, signal_rows=rows
        )
        self._mcap.add(meta, header.seq, header.left_ns, described)
        for channel, one in signals:
            for time_ns, row in row_messages(one):
                self._mcap.add(channel, header.seq, time_ns, row)
        for channel, parts in ((left_eye, left), (right_eye, right)):
            self._mcap.add(channel, header.seq, header.left_ns, *parts)
        self._newest_ns = header.left_ns
        self._mcap.flush(CHUNK_BYTES)

    def write_calibration(self, header: Header, left: bytes, right: bytes) -> None:
        """Add what is known of the cameras of a pair that was written: a foxglove.CameraCalibration of each eye."""
        prefix, _ = self._rigs[header.device]
        for eye, message in (("left", left), ("right", right)):
            channel = self._mcap.channel(f"{prefix}/{eye}/calibration", CALIBRATION, compressed=False)
            self._mcap.add(channel, header.seq, header.left_ns, message)

    def write_receipt(self, receipt: Receipt) -> None:
        """Add a receipt at the time of the newest pair; it is in the file when that pair is."""
        if self._receipts is None:
            self._receipts = self._mcap.channel("/stereo/receipt", RECEIPT, compressed=False)
        self._mcap.add(self._receipts, 0, self._newest_ns or time.time_ns(), encode_receipt(receipt))
        self.lost += sum(last - first for first, last in receipt.lost)

    def sync(self) -> None:
        """Make all added pairs durable."""
        self._mcap.flush()
        os.fdatasync(self._file.fileno())

    def close(self) -> None:
        """Write the last chunk and the index, and make them durable; idempotent."""
        if self._file.closed:
            return
        try:
            self._mcap.finish()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def _topic(self, header: Header, name: str) -> Channel | None:
        """Return the topic of a signal; None if there are too many of them."""
        key = (header.device, name)
        if key not in self._signals:
            if len(self._signals) >= MAX_TOPICS:
                self.unrecorded_signals += 1
                if self.unrecorded_signals == 1:
                    log.warning("%s: %s has no topic: a recording has at most %d signals", self.path, name, MAX_TOPICS)
                return None
            rig = self._rigs[header.device][0].removesuffix("/stereo")
            self._signals[key] = self._mcap.channel(f"{rig}/signals/{name}", SIGNAL, compressed=False)
        return self._signals[key]

    def _channels(self, header: Header) -> tuple[Channel, Channel, Channel]:
        """Return the topics of a pair: header, left, right."""
        device, codec = header.device, header.codec
        if device not in self._rigs:
            if len(self._rigs) >= MAX_RIGS:  # names from the network must not end the recording of the others
                detail = f"{header.name}: {self.path} has {MAX_RIGS} rigs, no file has more: begin another one"
                raise MalformedMessage("header", detail)
            prefix = f"/{device}/stereo" if self._rigs else "/stereo"
            self._rigs[device] = prefix, self._mcap.channel(f"{prefix}/meta", HEADER, compressed=False)
        prefix, meta = self._rigs[device]
        if (device, codec) not in self._eyes:
            schema, name = (COMPRESSED, "image") if codec == "jpeg" else (RAW, "image_raw")
            left, right = (
                self._mcap.channel(f"{prefix}/{eye}/{name}", schema, compressed=codec == "lz4")
                for eye in ("left", "right")
            )
            self._eyes[device, codec] = left, right
        return meta, *self._eyes[device, codec]
