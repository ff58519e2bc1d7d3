"""The path of a pair on the rig, in one place: shot -> luma -> verdict -> encoded pair -> spool."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import cv2

from device.camera import BadShot, EyeImage, Shot, decode_image, with_equal_channels
from device.dedupe import Dedupe, Verdict, luma_of
from device.metrics import DeviceMetrics
from device.signals import ReadSignals, RigTelemetry
from device.spool.spool import Spool
from stream.codec import encode_pair
from stream.image import Image
from stream.pair import Codec, EncodedPair

log = logging.getLogger(__name__)


def capture(
    shots: Iterable[Shot | BadShot],
    dedupe: Dedupe,
    *,
    device: str,
    epoch: str,
    codec: Codec = "jpeg",
    quality: int = 92,
    spool: Spool | None = None,
    metrics: DeviceMetrics | None = None,
    signals: ReadSignals | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[EncodedPair]:
    """Yield the kept pairs of a camera (or of any shots), encoded, and numbered from 0 without holes.

    With codec "jpeg" a camera's own JPEG is forwarded untouched. Shots that cannot be read are counted and left out. So are
    suppressed pairs and junk, whose counts are sent in the next header.
    spool: of this device and epoch; it holds each pair before the pair is yielded. signals: called after each shot with its
    capture time; what it measured goes with the next kept pair (`device.signals`). clock: seconds, to measure the encoding.
    Raises ValueError for a device, epoch, codec or quality that cannot be sent.
    """
    metrics = DeviceMetrics() if metrics is None else metrics
    encode: Callable[..., EncodedPair] = partial(encode_pair, device=device, epoch=epoch, codec=codec, quality=quality)
    telemetry = RigTelemetry(metrics, signals)
    seq, left_out = 0, Counter(suppressed=0, junk=0)
    for shot in shots:
        metrics.captured.inc()
        telemetry.add(shot)
        try:
            shot, verdict = _judge(shot, dedupe)
            if verdict.kept is None:
                metrics.count(verdict)
                left_out["suppressed" if verdict.junk is None else "junk"] += 1
                continue
            started_s = clock()
            left, right = _payload(shot.left, codec), _payload(shot.right, codec)
        except BadShot as bad:
            metrics.bad.inc()
            _log(bad, metrics.counts().bad)
            continue
        times_ns = {"left_ns": shot.left.captured_ns, "right_ns": shot.right.captured_ns}
        pair = encode(left, right, seq=seq, kept=verdict.kept, telemetry=telemetry.take(shot), **times_ns, **left_out)
        metrics.encoded(pair.header.skew_ns, clock() - started_s)
        metrics.count(verdict)
        seq, left_out = seq + 1, Counter(suppressed=0, junk=0)
        if spool is not None:
            spool.append(pair)
        yield pair


def paced(
    shots: Iterable[Shot | BadShot], fps: float, clock: Callable[[], float], sleep: Callable[[float], None]
) -> Iterator[Shot | BadShot]:
    """Yield shots at most `fps` times per second of `clock`; a delay is not made up for by a burst.

    clock: monotonic seconds. sleep: waits for so many seconds.
    """
    due_s = clock()
    for shot in shots:
        now_s = clock()
        if now_s < due_s:
            sleep(due_s - now_s)
        due_s = max(due_s, now_s) + 1 / fps
        yield shot


def _judge(shot: Shot | BadShot, dedupe: Dedupe) -> tuple[Shot, Verdict]:
    """Decide about a shot. Raises BadShot unless it has two readable images of one size."""
    if isinstance(shot, BadShot):
        raise shot
    shot = with_equal_channels(shot)
    left, right = shot.left.shape(), shot.right.shape()
    if left != right:
        raise BadShot(f"left is {left[1]}x{left[0]}x{left[2]} and right is {right[1]}x{right[0]}x{right[2]}")
    return shot, dedupe.judge(luma_of(shot.left), luma_of(shot.right), shot.left.captured_ns)


def _payload(eye: EyeImage, codec: Codec) -> Image | bytes:
    """Return what the encoder gets: the camera's own JPEG if the codec forwards it, otherwise pixels."""
    if eye.jpeg is not None and codec == "jpeg":
        return eye.jpeg
    if eye.pixels is not None:
        return eye.pixels
    return decode_image(eye.jpeg or b"", cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION)


def _log(bad: BadShot, count: int) -> None:
    """Log the 1st, 2nd, 4th, 8th, ... bad shot: a dying camera must not fill the card with log lines."""
    if count & (count - 1) == 0:
        log.warning("bad shot %d is left out: %s", count, bad)
