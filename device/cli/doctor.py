"""`python -m device doctor`: would the rig run with these settings? Looks at everything outside, changes nothing."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

from device.camera import BadShot, Camera, CameraError, Shot
from device.cli.settings import StreamSettings
from device.cli.spool_location import GIB, LASTING_GIB, TEMPORARY_GIB, parent_of
from stream.host.findings import Finding, can_write, check_clock, check_disk, existing_folder, read_clock, run_check
from stream.live.backfill_server import backfill_endpoint
from stream.live.publisher import Publisher
from stream.transport.endpoint import security_for

SHOTS = 30
"""A second of a usual camera."""
DEFAULT_FPS = 30.0


def examine(settings: StreamSettings, device: str, opened: Callable[[], Camera]) -> Iterator[Finding]:
    """Findings one by one; the camera, which takes longest, comes last. opened: opens the camera of the settings."""
    yield check_clock(read_clock(time.time()))
    yield run_check("keys", lambda: _keys(settings))
    any_will_do = settings.bind.endswith(":0")
    for endpoint in (settings.bind,) if any_will_do else (settings.bind, backfill_endpoint(settings.bind)):
        yield run_check("port", partial(_port, settings, device, endpoint))
    yield run_check("disk", lambda: _disk(settings, device))
    yield from _look(settings, opened)


def _keys(settings: StreamSettings) -> Finding:
    if settings.insecure:
        return Finding("keys", "warning", "--insecure: anybody on the network sees the images")
    security = security_for([settings.bind], keys=settings.keys)
    if security is None:
        return Finding("keys", "ok", "none are needed: only this machine can listen")
    if not security.trusted:
        return Finding(
            "keys", "problem", "no learner is trusted yet: `python -m stream keys` on both sides says what to type"
        )
    return Finding("keys", "ok", f"trusted: {', '.join(list(security.trusted)[:8])}")


def _port(settings: StreamSettings, device: str, endpoint: str) -> Finding:
    security = security_for([endpoint], keys=settings.keys, insecure=settings.insecure)
    with Publisher(
        endpoint, device=device, epoch="0" * 32, security=security, insecure=settings.insecure, linger_s=0
    ) as publisher:
        return Finding("port", "ok", f"{publisher.endpoint} is free")


def _disk(settings: StreamSettings, device: str) -> Finding:
    if settings.spool == "none":
        return Finding("disk", "warning", "no spool: what the link drops is lost (leave out --spool none)")
    folder, lasts = parent_of(settings.spool, device, settings.lasting, os.environ)
    folder = existing_folder(folder)
    return check_disk(
        folder,
        shutil.disk_usage(folder).free,
        writable=can_write(folder),
        floor_bytes=int(settings.disk_floor_gib * GIB),
        wanted_bytes=int((settings.spool_gib or (LASTING_GIB if lasts else TEMPORARY_GIB)) * GIB),
    )


def _look(settings: StreamSettings, opened: Callable[[], Camera]) -> Iterator[Finding]:
    try:
        camera = opened()
        try:
            started_s = time.monotonic()
            shots = list(islice(camera, SHOTS))
            took_s = time.monotonic() - started_s
        finally:
            camera.close()
    except (CameraError, ValueError, OSError) as error:
        yield Finding("camera", "problem", str(error))
        return
    yield eyes(settings.camera, shots, took_s)
    if any(isinstance(shot, Shot) for shot in shots):
        yield skew(shots, camera.fps or DEFAULT_FPS)


def eyes(name: str, shots: Sequence[Shot | BadShot], took_s: float) -> Finding:
    """Whether shots of a camera, taken in `took_s` seconds, can be read and have one size."""
    bad = [str(shot) for shot in shots if isinstance(shot, BadShot)]
    sizes: set[str] = set()
    for shot in shots:
        if isinstance(shot, Shot):
            try:
                (h, w, _), other = shot.left.shape(), shot.right.shape()
                sizes.add(f"{w}x{h}" if (h, w) == other[:2] else f"{w}x{h} left and {other[1]}x{other[0]} right")
            except BadShot as error:
                bad.append(str(error))
    if not sizes:
        why = bad[0] if bad else "it gives nothing"
        return Finding(
            "camera", "problem", f"{name}: no shot can be read ({why}): look at its cable and the other programs"
        )
    if bad:
        text = f"{name}: {len(bad)} of {len(shots)} shots cannot be read ({bad[0]}): look at cables, power and USB bandwidth"
        return Finding("camera", "warning", text)
    if len(sizes) > 1 or " " in next(iter(sizes)):
        text = f"{name}: {', '.join(sorted(sizes)[:4])}: both eyes need one size, choose it with --size"
        return Finding("camera", "problem", text)
    return Finding("camera", "ok", f"{name}: {sizes.pop()}, {len(shots) / max(took_s, 1e-9):.0f} shots/s")


def skew(shots: Sequence[Shot | BadShot], fps: float) -> Finding:
    """Whether both eyes see the same moment: half a frame apart, the world has moved between them."""
    apart_s = [abs(s.right.captured_ns - s.left.captured_ns) / 1e9 for s in shots if isinstance(s, Shot)]
    text = f"right and left are {statistics.median(apart_s) * 1e3:.1f} ms apart in the middle, {max(apart_s) * 1e3:.1f} at most"
    if statistics.median(apart_s) > 0.5 / fps:
        return Finding("skew", "warning", f"{text}: use cameras of one kind at one rate, or with a common trigger")
    return Finding("skew", "ok", text)
