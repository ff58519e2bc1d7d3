"""`python -m device doctor`: would the rig run with these settings? It looks at everything outside and changes nothing."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from itertools import islice

from device.camera import BadShot, Camera, Shot, configure_opencv, pixels_of
from device.cameras.open import Origin, camera_kind, open_camera
from device.cameras.spec import redacted
from device.cli.settings import StreamSettings
from device.cli.spool_location import parent_of, spool_bytes
from device.signals import FUNCTION, told
from stream.errors import ReportedError
from stream.host import findings
from stream.host.command import Command
from stream.host.findings import Finding
from stream.host.program import Result, Stop
from stream.host.typed import there
from stream.image import Image
from stream.live.publisher import Publisher
from stream.signals.gather import Gathering
from stream.signals.signal import BadSignal
from stream.transport.endpoint import backfill_endpoint, security_for

SHOTS = 30
"""Number of shots to take: one second of a usual camera."""
DEFAULT_FPS = 30.0
ROW_SHOTS = 6
"""So many of the shots are compared in height."""
SLOW = 0.7
"""A live camera with less than this share of its stated rate is slow."""
DESCRIPTION = """Would the rig run with these flags? Checks clock, keys, ports, disk, cameras, their skew and
rows; changes nothing.

  python -m device doctor --config /etc/babyagent/device.toml

A running rig occupies its ports and cameras: stop it first.
Exit codes: 0 no problem, 1 a problem, 2 wrong settings."""


def run(settings: StreamSettings, stop: Stop) -> Result:
    """Print the findings, and return them as figures."""
    configure_opencv()
    camera = partial(open_camera, settings.camera, settings.camera_settings)
    return findings.report(examine(settings, camera), as_json=settings.json)


def examine(settings: StreamSettings, open_it: Callable[[], Camera]) -> Iterator[Finding]:
    """Yield the findings one by one; the camera takes longest and comes last. open_it: opens the camera of the settings."""
    yield findings.check_clock(findings.read_clock(time.time()))
    yield findings.check_opencv(findings.installed_opencvs())
    yield findings.run_check("keys", lambda: _check_keys(settings))
    yield findings.run_check("port", lambda: _check_port(settings, settings.bind))
    if not settings.bind.endswith((":0", ":*")):
        yield findings.run_check("port", lambda: _check_port(settings, backfill_endpoint(settings.bind)))
    yield findings.run_check("disk", lambda: _check_disk(settings))
    if settings.signals is not None:
        yield findings.run_check("signals", lambda: _check_signals(settings, time.time_ns()))
    yield from _check_camera(settings, open_it)


def _check_keys(settings: StreamSettings) -> Finding:
    if settings.insecure:
        return Finding("keys", "warning", "--insecure: everybody on the network can see the images")
    security = security_for([settings.bind], keys=settings.keys)
    if security is None:
        return Finding("keys", "ok", "no keys are needed: only this machine can connect")
    if not security.trusted:
        text = (
            f"no learner is trusted yet: on both sides `{there('stream', 'keys')}` prints what to type on the other one"
        )
        return Finding("keys", "problem", text)
    return Finding("keys", "ok", f"trusted: {', '.join(list(security.trusted)[:8])}")


def _check_port(settings: StreamSettings, endpoint: str) -> Finding:
    security = security_for([endpoint], keys=settings.keys, insecure=settings.insecure)
    with Publisher(
        endpoint, device=settings.device, epoch="0" * 32, security=security, insecure=settings.insecure, linger_s=0
    ) as publisher:
        return Finding("port", "ok", f"{publisher.endpoint} is free")


def _check_disk(settings: StreamSettings) -> Finding:
    if settings.spool == "none":
        return Finding("disk", "warning", "no spool: pairs that the link drops are lost (leave out --spool none)")
    folder = findings.existing_folder(parent_of(settings, os.environ))
    return findings.check_disk(
        folder,
        shutil.disk_usage(folder).free,
        writable=findings.can_write(folder),
        floor_bytes=int(settings.disk_floor_gib * findings.GIB),
        wanted_bytes=spool_bytes(settings),
    )


def _check_signals(settings: StreamSettings, now_ns: int) -> Finding:
    """Ask what reads the signals once. Raises CameraError if there is no such thing."""
    read, refused = settings.open_signals(), list[str]()
    assert read is not None
    rows = Gathering(lambda error: refused.append(str(error)))
    try:
        rows.add(told(FUNCTION, lambda: read(now_ns)).signals, now_ns)
    except BadSignal as error:
        refused.append(str(error))
    found = ", ".join(f"{name} ({one.width} wide)" for name, one in rows.take(now_ns).items())
    if refused:
        return Finding("signals", "problem", f"{settings.signals}: {'; '.join(refused[:4])}")
    return Finding("signals", "ok", f"{settings.signals}: {found or 'nothing at this moment'}")


def _check_camera(settings: StreamSettings, open_it: Callable[[], Camera]) -> Iterator[Finding]:
    name, shots = redacted(settings.camera), list[Shot | BadShot]()
    try:
        live = camera_kind(settings.camera).origin is Origin.HARDWARE
        with closing(open_it()) as camera:
            fps = camera.fps
            shots.extend(islice(camera, 1))  # a camera needs a while to start
            started_s = time.monotonic()
            shots.extend(islice(camera, SHOTS))
            took_s = time.monotonic() - started_s
    except (ReportedError, ValueError, OSError) as error:
        yield Finding("camera", "problem", str(error))
        return
    yield check_images(name, shots, took_s, fps=fps if live else None)
    if any(isinstance(shot, Shot) for shot in shots):
        yield check_skew(shots, fps or DEFAULT_FPS)
        yield check_rows(shots)


def check_images(name: str, shots: Sequence[Shot | BadShot], took_s: float, *, fps: float | None = None) -> Finding:
    """Check that the shots of a camera can be read and have one size, and that they come at its rate.

    took_s: seconds from the first shot to the last. fps: the rate in Hz that a live camera states.
    """
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
        why = bad[0] if bad else "it gives no shot"
        text = f"{name}: no shot can be read ({why}): check its cable, and which programs use it"
        return Finding("camera", "problem", text)
    if bad:
        share = f"{len(bad)} of {len(shots)} shots cannot be read ({bad[0]})"
        return Finding("camera", "warning", f"{name}: {share}: check cables, power and USB bandwidth")
    if len(sizes) > 1 or " " in next(iter(sizes)):
        text = f"{name}: {', '.join(sorted(sizes)[:4])}: both eyes need one size, choose it with --size"
        return Finding("camera", "problem", text)
    rate = (len(shots) - 1) / max(took_s, 1e-9)
    text = f"{name}: {sizes.pop()}, {rate:.3g} shots/s"
    if fps is not None and len(shots) > SHOTS // 2 and rate < SLOW * fps:
        hint = "more light or a fixed --exposure-us, a smaller --size, cameras of one rate, or another USB port"
        return Finding("camera", "warning", f"{text}, though it states {fps:.3g} Hz: {hint}")
    return Finding("camera", "ok", text)


def check_skew(shots: Sequence[Shot | BadShot], fps: float) -> Finding:
    """Check that both eyes see the same moment: when they are half a frame apart, the world has moved between them."""
    apart_s = [abs(s.right.captured_ns - s.left.captured_ns) / 1e9 for s in shots if isinstance(s, Shot)]
    median_s = statistics.median(apart_s)
    text = f"right and left are {median_s * 1e3:.1f} ms apart (median), {max(apart_s) * 1e3:.1f} at most"
    if median_s > 0.5 / fps:
        return Finding("skew", "warning", f"{text}: use cameras of one kind at one rate, or with a common trigger")
    return Finding("skew", "ok", text)


def check_rows(shots: Sequence[Shot | BadShot]) -> Finding:
    """Check that a thing has the same height in both images of some shots."""
    return findings.check_rows(_some_pixels([shot for shot in shots if isinstance(shot, Shot)]))


def _some_pixels(shots: Sequence[Shot]) -> Iterator[tuple[Image, Image]]:
    for shot in shots[:: max(1, len(shots) // ROW_SHOTS)][:ROW_SHOTS]:
        with suppress(BadShot):
            yield pixels_of(shot.left), pixels_of(shot.right)


COMMAND = Command(
    run=run, settings=StreamSettings, description=DESCRIPTION, config_file=True, check=StreamSettings.check
)
