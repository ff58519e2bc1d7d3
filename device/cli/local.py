"""Opens a camera as a source in this process: shots go through dedupe and the encoder, as on a rig that streams."""

from __future__ import annotations

import hashlib
import logging
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice

from device.camera import BadShot, Shot, configure_opencv
from device.cameras.open import Origin, camera_kind, open_camera
from device.capture import capture
from device.cli.capture_settings import RigSettings
from device.dedupe import Dedupe
from device.metrics import DeviceMetrics
from device.source import CameraSource
from stream.pair import EncodedPair
from stream.source import Cursor

_DIGITS = 16
"""Hexadecimal digits of an epoch that say what is played; the other 16 say when it began."""


def check_local(settings: RigSettings) -> None:
    """Raise CameraError or ValueError for settings that can never be used. Hardware is not opened, recordings are."""
    settings.check()
    camera, _ = settings.camera_settings, settings.dedupe_config  # each raises for what it cannot be made of
    if settings.origin is not Origin.RECORDING:
        return
    configure_opencv()
    log = logging.getLogger("device")
    level = log.level
    log.setLevel(logging.ERROR)  # warnings are for when it is played
    try:
        open_camera(settings.camera, camera).close()
    finally:
        log.setLevel(level)


def open_local(
    settings: RigSettings,
    cursor: Cursor | None = None,
    *,
    metrics: DeviceMetrics | None = None,
    now_ns: Callable[[], int] = time.time_ns,
) -> CameraSource:
    """Open a camera as a source. cursor: of an earlier source; the same recording or simulation goes on where that one stopped.

    Hardware begins a new epoch each time. Raises CameraError, CalibrationError or ValueError.
    """
    configure_opencv()
    is_live = settings.origin is Origin.HARDWARE
    device = settings.name or camera_kind(settings.camera).word
    epoch = uuid.uuid4().hex if is_live else _epoch(settings, device, cursor, now_ns)
    start_ns = None if is_live else int(epoch[_DIGITS:], 16)
    signals = settings.open_signals()
    camera = open_camera(settings.camera, replace(settings.camera_settings, start_ns=start_ns))
    dedupe = Dedupe(settings.dedupe_config, seed=settings.seed)

    def pairs(is_over: Callable[[], bool]) -> Iterator[EncodedPair]:
        shots = _until(islice(camera, settings.count), is_over)
        return capture(
            shots,
            dedupe,
            device=device,
            epoch=epoch,
            codec=settings.codec,
            quality=settings.quality,
            metrics=metrics,
            signals=signals,
        )

    return CameraSource(pairs, cursor=cursor, is_live=is_live, close=camera.close)


def _until(shots: Iterable[Shot | BadShot], is_over: Callable[[], bool]) -> Iterator[Shot | BadShot]:
    for shot in shots:
        if is_over():
            return
        yield shot


def _epoch(settings: RigSettings, device: str, cursor: Cursor | None, now_ns: Callable[[], int]) -> str:
    """Return the epoch of this recording or simulation in the cursor, or a new one.

    It names what decides the pairs, and when it began.
    """
    camera = replace(settings.camera_settings, repeat=False)  # to play it more often, or further, is to go on
    decisive: tuple[object, ...] = (settings.camera, camera, settings.dedupe_config, settings.codec, settings.quality)
    if beside := tuple(text for text in (settings.signals, settings.episode, settings.subject) if text):
        decisive += beside  # without them the epochs are those of earlier versions
    begun = hashlib.blake2b(repr(decisive).encode(), digest_size=_DIGITS // 2).hexdigest()
    known = (cursor or {}).get("devices", {})
    epochs = known.get(device, {}) if isinstance(known, dict) else {}
    form = re.compile(rf"{begun}[0-9a-f]{{{32 - _DIGITS}}}")
    found = [epoch for epoch in epochs if form.fullmatch(epoch)]
    return str(found[0]) if found else f"{begun}{now_ns():016x}"
