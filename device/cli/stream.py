"""`python -m device`: publish the pairs of a camera. This file creates the parts of a rig and connects them."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from itertools import islice

from device.camera import BadShot, Camera, Shot, configure_opencv
from device.cameras.open import CAMERAS, Origin, camera_kind, open_camera
from device.cameras.spec import redacted
from device.capture import capture, paced
from device.cli.settings import StreamSettings, format_counts
from device.cli.spool_location import open_spool
from device.cli.status import Status
from device.dedupe import Dedupe
from device.metrics import DeviceMetrics
from device.spool.spool import Spool
from device.vitals import Sensors
from stream.host.command import Command
from stream.host.program import Result, Stop
from stream.host.progress import Progress
from stream.host.systemd import Supervisor
from stream.live.publisher import Publisher
from stream.pair import EncodedPair
from stream.transport.endpoint import security_for
from stream.transport.security import Security

SEND_WAIT_S = 0.5
"""Longest time until Ctrl-C is noticed while a queue is full or a learner is missing."""
QUIET_S = 1.0
"""A learner without a name counts as finished when it has read nothing for this time."""
_CAMERAS = "\n".join(f"  {kind.form:26} {kind.text}" for kind in CAMERAS.values())
DESCRIPTION = f"""Publish the stereo pairs of a camera over ZeroMQ, without those that show nothing new.

  python -m device                                          the simulated world, for learners on this machine
  python -m device --camera v4l2:0,2 --bind 'tcp://*:5555' --name rig1
  python -m device --config /etc/babyagent/device.toml      all settings in a file, as deploy/device.toml explains them
  python -m device --camera dir:LEFT,RIGHT --fps 0          a recording, as fast as the learner takes it
  python -m device doctor --camera v4l2:0,2                 check cameras, keys, ports, disk and clock
  python -m device calibrate --camera v4l2:0,2              rows of both images show the same things, with a printed board
  python -m device record --camera sim --out walk.mcap      a file in place of the network
  python -m device consumers                                for whom pairs are kept, and how far behind they are
  python -m device walk --out DIR                           write a labelled control set of the simulated world

Cameras:
{_CAMERAS}

Give each rig a --name of its own. Ctrl-C stops cleanly. Exit codes: 0 done, 1 not possible now (camera missing, port or spool in
use, disk full) or failed on the way, 2 wrong settings.
Tab completes flags after: source <(python -m device --print-completion bash), or zsh."""


def run(settings: StreamSettings, stop: Stop) -> Result:
    """Publish until the camera ends, `settings.count` shots were taken, or `stop` is set.

    Raises CameraError, SpoolError, StreamError, OSError or ValueError.
    """
    configure_opencv()
    metrics, sensors, signals = DeviceMetrics(), Sensors(), settings.open_signals()
    dedupe = Dedupe(settings.dedupe_config, seed=settings.seed)
    metrics.threshold.set_function(lambda: dedupe.threshold)
    metrics.watch_sensors(sensors.read)
    security = security_for([settings.bind], keys=settings.keys, insecure=settings.insecure)
    trusted = None if security is None else security.trusted
    with (
        closing(open_camera(settings.camera, settings.camera_settings)) as camera,
        open_spool(settings, on_sync=metrics.sync_seconds.observe, trusted=trusted) as spool,
        _open_publisher(settings, spool, sensors, security) as publisher,
        metrics.served(settings.metrics_port),
        closing(Supervisor(os.environ, time.monotonic)) as supervisor,
        Progress() as progress,
    ):
        progress.log(_format_settings(settings, publisher.endpoint, spool))
        metrics.watch_handshakes(publisher.failed_handshakes)
        if spool is not None:
            metrics.watch_spool(spool.stats, spool.disk_free_bytes)
        status = Status(metrics, publisher, spool, supervisor, progress)
        while settings.waits and not stop.is_set() and not publisher.wait_for_subscriber(SEND_WAIT_S):
            status.update(f"waiting for a learner at {publisher.endpoint}")
        pairs = capture(
            _shots(camera, settings, status, stop),
            dedupe,
            device=settings.device,
            epoch=publisher.epoch,
            codec=settings.codec,
            quality=settings.quality,
            spool=spool,
            metrics=metrics,
            signals=signals,
        )
        for pair in pairs:
            metrics.sent.inc(_send(pair, publisher, settings.lossless, status, stop))
        summary = status.summary()
        publisher.bye()
        if spool is not None and settings.lossless:
            _linger(spool, settings.linger_s, status, progress, stop)
            summary["backlog"] = spool.stats().backlog
        supervisor.stopping()
    return Result(format_counts(summary), summary)


def _open_publisher(
    settings: StreamSettings, spool: Spool | None, sensors: Sensors, security: Security | None
) -> Publisher:
    return Publisher(
        settings.bind,
        device=settings.device,
        epoch=uuid.uuid4().hex if spool is None else spool.epoch,
        on_full="wait" if settings.lossless else "drop",
        wait_s=SEND_WAIT_S,
        shelf=spool,
        vitals=sensors.read,
        security=security,
        insecure=settings.insecure,
    )


def _format_settings(settings: StreamSettings, endpoint: str, spool: Spool | None) -> str:
    """Return what an operator needs to know, and what is not as it is by default."""
    folder = "none" if spool is None else spool.folder
    known = {"camera": redacted(settings.camera), "name": settings.device, "bind": endpoint, "spool": folder}
    usual = asdict(StreamSettings())
    chosen = {name: value for name, value in asdict(settings).items() if value != usual[name] and name not in known}
    words = " ".join(f"{name}={value}" for name, value in (known | chosen).items())
    return f"{words} (all else as --help says)"


def _shots(camera: Camera, settings: StreamSettings, status: Status, stop: Stop) -> Iterator[Shot | BadShot]:
    """Yield the first `settings.count` shots at the wanted pace, until `stop` is set.

    Hardware has its own pace: sleeping would only let its buffers overflow.
    """
    fps = settings.fps if settings.fps is not None else camera.fps or 10.0
    hardware = camera_kind(settings.camera).origin is Origin.HARDWARE
    shots = iter(camera) if hardware or fps == 0 else paced(camera, fps, time.monotonic, stop.sleep)
    status.restart()
    for shot in islice(shots, settings.count):
        if stop.is_set():
            return
        yield shot
        status.update()


def _send(pair: EncodedPair, publisher: Publisher, lossless: bool, status: Status, stop: Stop) -> bool:
    """Send a pair and return whether it was taken; a lossless stream tries until a learner takes it or `stop` is set."""
    while not publisher.send(pair):
        if not lossless or stop.is_set():
            return False
        gone = (
            f"the learner is gone: waiting for one at {publisher.endpoint} to take the next pair (Ctrl-C ends the rig)"
        )
        status.update("" if publisher.subscribers() else gone)
    return True


def _linger(spool: Spool, linger_s: float, status: Status, progress: Progress, stop: Stop) -> None:
    """Wait until all connected learners have acknowledged every pair and none of them reads any more.

    linger_s: a learner that is silent for so long is not waited for.
    """
    first = True
    while not stop.is_set():
        awaited = spool.awaited(linger_s)
        if not awaited and not spool.read_within(min(QUIET_S, linger_s)):
            return
        who = ", ".join(f"{name} ({pairs} pairs)" for name, pairs in awaited.items()) or "one that still reads"
        text = f"all pairs are sent; Ctrl-C, or wait until they are durable with: {who}"
        if first:
            progress.log(text)
        status.update(text)
        first = False
        stop.sleep(QUIET_S / 4)


COMMAND = Command(
    run=run, settings=StreamSettings, description=DESCRIPTION, config_file=True, check=StreamSettings.check
)
