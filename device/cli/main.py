"""The rig's command line: `python -m device [stream] ...` publishes a camera, `... walk ...` writes a control set."""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import asdict

import cv2
import tyro
from rich.console import Console

from device.camera import BadShot, Camera, CameraError, CameraMissing, Shot
from device.cameras.open import HARDWARE, camera_kind, open_camera
from device.capture import capture, paced
from device.cli.doctor import examine
from device.cli.settings import StreamSettings, WalkSettings, parse_size
from device.cli.spool_location import open_spool
from device.dedupe import Dedupe, DedupeConfig
from device.metrics import DeviceMetrics
from device.sim.camera import SimConfig
from device.sim.control_set import write_walk
from device.spool.folder import SpoolError, SpoolTaken
from device.spool.spool import Spool
from device.vitals import Sensors
from stream.errors import EndpointTaken, StreamError
from stream.host import completion, findings
from stream.host.program import Stop
from stream.host.settings_file import SettingsFile, config_of
from stream.host.systemd import Supervisor
from stream.live.publisher import Publisher
from stream.pair import EncodedPair
from stream.transport.endpoint import security_for

SEND_WAIT_S = 0.5
"""How soon a full queue or a missing learner lets us look at Ctrl-C."""
PROGRESS_S = 5.0
QUIET_S = 1.0
"""A learner without a name has what it wants when it has read nothing for so long."""
DESCRIPTION = """Publish the stereo pairs of a camera over ZeroMQ, without those that show nothing new.

  python -m device                                          the simulated world, for learners on this machine
  python -m device --camera v4l2:0,2 --bind 'tcp://*:5555' --name rig1
  python -m device --config /etc/babyagent/device.toml      all settings in a file, as deploy/device.toml explains them
  python -m device --camera dir:LEFT,RIGHT --fps 0          a recording, as fast as the learner takes it
  python -m device doctor --camera v4l2:0,2                 looks at cameras, keys, ports, disk, clock and says what to do
  python -m device walk --out DIR                           a labelled control set of the simulated world

Give each rig a --name of its own. Ctrl-C stops cleanly. Exit codes: 0 done, 1 not now (no camera there, port or spool in use,
disk full) or failed on the way, 2 wrong settings.
Tab completes flags after: source <(babyagent-device --print-completion bash), or zsh."""


DOCTOR = """Would the rig run with these flags? Looks at the clock, keys, ports, disk, cameras and their skew; changes nothing.

  python -m device doctor --config /etc/babyagent/device.toml

A rig that is at work has its ports and cameras: stop it first.
Exit codes: 0 nothing is in its way, 1 a problem, 2 wrong settings."""


class Progress:
    """Tells how it goes: a live line on a terminal, a plain one every few seconds elsewhere; and to systemd."""

    def __init__(
        self, metrics: DeviceMetrics, publisher: Publisher, spool: Spool | None, supervisor: Supervisor
    ) -> None:
        self._metrics, self._publisher, self._spool = metrics, publisher, spool
        self._supervisor = supervisor
        metrics.watch_door(publisher.failed_handshakes)
        if spool is not None:
            metrics.watch(spool.stats, spool.disk_free_bytes)
        self._console = Console(stderr=True, highlight=False)
        self._live = self._console.status("") if self._console.is_terminal else None
        self._interval_s = 0.2 if self._live else PROGRESS_S
        self._started_s = self._told_s = time.monotonic()
        if self._live:
            self._live.start()

    def restart(self) -> None:
        """The first shot comes now."""
        self._started_s = time.monotonic()

    def tick(self, doing: str = "") -> None:
        """Tell, if it is time to."""
        self._supervisor.alive(lambda: doing or self._how())
        now_s = time.monotonic()
        if now_s - self._told_s < self._interval_s:
            return
        self._told_s = now_s
        self._metrics.subscribers.set(self._publisher.subscribers())
        self.tell(doing or self._how())

    def tell(self, text: str) -> None:
        """Tell it now."""
        if self._live:
            self._live.update(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def summary(self) -> dict[str, float]:
        """The counts, and the pairs captured a second."""
        seconds = time.monotonic() - self._started_s
        tally = self._metrics.tally()
        counts = asdict(tally) | {"sent": self._publisher.sent}
        if self._spool is not None:
            spool = self._spool.stats()
            counts |= {"backlog": spool.backlog, "lost": sum(spool.lost.values()), "unspooled": spool.unspooled}
        return counts | {"seconds": round(seconds, 3), "pairs_per_s": round(tally.captured / seconds, 2)}

    def _how(self) -> str:
        counts, rate = said(asdict(self._metrics.tally())), self.summary()["pairs_per_s"]
        backlog = "" if self._spool is None else f", backlog {self._spool.stats().backlog}"
        return f"{counts}, {rate:.1f} pairs/s, subscribers {self._publisher.subscribers()}{backlog}"

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live:
            self._live.stop()


def run(arguments: Sequence[str], stop: Stop) -> int:
    """A command; returns the exit code.

    0, 1 where something is missing now or failed on the way, `walk` was interrupted or `doctor` found a problem, 2 for a
    setting that cannot be used.
    """
    # One thread: the codec is called from one place, and a pool of OpenCV's would only take the learner's cores.
    cv2.setNumThreads(1)
    # What cannot be opened is said by us, in one line.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # Strangers who knock and say nothing hold a connection each: they must not keep the spool from opening a file.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    command, *rest = arguments or ["stream"]
    try:
        if (shell := completion.shell_of(arguments)) is not None:
            print(_completion(shell), end="")
            return 0
        if command == "walk":
            return _walk(tyro.cli(WalkSettings, prog="python -m device walk", args=rest))
        if command == "doctor":
            return _doctor(_settings(rest, "python -m device doctor", DOCTOR))
        if command != "stream" and not command.startswith("-"):
            raise ValueError(
                f"there is no command {command!r}: use `walk`, `doctor`, or flags to stream (--help lists them)"
            )
        flags = rest if command == "stream" else arguments
        _stream(_settings(flags, "python -m device", DESCRIPTION), stop)
    except (CameraMissing, SpoolTaken, EndpointTaken, OSError) as error:
        return _failed(error, 1)
    except (CameraError, SpoolError, StreamError, ValueError) as error:
        return _failed(error, 2)
    return 0


def _failed(error: Exception, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


def _completion(shell: str) -> str:
    flags = completion.options(StreamSettings)
    commands = {"": flags, "doctor": flags, "walk": completion.options(WalkSettings)}
    return completion.script(shell, "babyagent-device", commands)


def _settings(flags: Sequence[str], prog: str, description: str) -> StreamSettings:
    """The flags over the file that they name; raises ValueError or StreamError in one line for what cannot be."""
    default, config = StreamSettings(), config_of(flags)
    if config is not None:
        default = SettingsFile.read(config).over(default)
        try:
            default.check()
        except ValueError as error:
            raise ValueError(f"{config}: {error}") from error
    settings = tyro.cli(StreamSettings, prog=prog, args=list(flags), default=default, description=description)
    settings.check()
    return settings


def _stream(settings: StreamSettings, stop: Stop) -> None:
    metrics = DeviceMetrics()
    dedupe, camera = _dedupe(settings), _camera(settings)
    metrics.threshold.set_function(lambda: dedupe.threshold)
    device, sensors = settings.name or _host_name(), Sensors()
    metrics.watch_sensors(sensors.read)
    try:
        with (
            _spool(settings, device, metrics) as spool,
            _publisher(settings, device, spool, sensors) as publisher,
            metrics.served(settings.metrics_port),
            closing(Supervisor(os.environ, time.monotonic)) as supervisor,
        ):
            _tell_settings(settings, device, publisher.endpoint, spool)
            progress = Progress(metrics, publisher, spool, supervisor)
            try:
                _wait_for_learner(settings, publisher, progress, stop)
                shots = _watched(_shots(camera, settings, stop.sleep), settings.count, progress, stop)
                pairs = capture(
                    shots,
                    dedupe,
                    device=device,
                    epoch=publisher.epoch,
                    codec=settings.codec,
                    quality=settings.quality,
                    spool=spool,
                    metrics=metrics,
                )
                for pair in pairs:
                    metrics.sent.inc(_deliver(pair, publisher, settings.lossless, progress, stop))
                summary = progress.summary()
                publisher.bye()
                if spool is not None and settings.lossless:
                    _linger(spool, settings.linger_s, progress, stop)
                supervisor.stopping()
            finally:
                progress.close()
    finally:
        camera.close()
    print(json.dumps(summary) if settings.json else said(summary))


def _spool(settings: StreamSettings, device: str, metrics: DeviceMetrics) -> AbstractContextManager[Spool | None]:
    return open_spool(
        settings.spool,
        device=device,
        lasting=settings.lasting,
        max_gib=settings.spool_gib,
        free_floor_gib=settings.disk_floor_gib,
        on_sync=metrics.sync_seconds.observe,
    )


def _publisher(settings: StreamSettings, device: str, spool: Spool | None, sensors: Sensors) -> Publisher:
    return Publisher(
        settings.bind,
        device=device,
        epoch=uuid.uuid4().hex if spool is None else spool.epoch,
        on_full="wait" if settings.lossless else "drop",
        wait_s=SEND_WAIT_S,
        shelf=spool,
        vitals=sensors.read,
        security=security_for([settings.bind], keys=settings.keys, insecure=settings.insecure),
        insecure=settings.insecure,
    )


def _dedupe(settings: StreamSettings) -> Dedupe:
    config = DedupeConfig(
        threshold=settings.dedupe_threshold,
        target_per_hour=settings.target_per_hour,
        max_silence_s=settings.max_silence_s,
        audit_share=settings.audit_share,
        ring=settings.ring,
    )
    return Dedupe(config, seed=settings.seed)


def _camera(settings: StreamSettings) -> Camera:
    return open_camera(
        settings.camera,
        fps=settings.fps,
        repeat=settings.repeat,
        size=parse_size(settings.size),
        seed=settings.seed,
        walk=settings.walk,
        textures=settings.textures,
        places=settings.places,
    )


def _shots(camera: Camera, settings: StreamSettings, sleep: Callable[[float], None]) -> Iterator[Shot | BadShot]:
    """The camera's shots at the pace asked for; hardware keeps its own, and sleeping would only let it overflow."""
    fps = settings.fps if settings.fps is not None else camera.fps or 10.0
    if camera_kind(settings.camera) in HARDWARE or fps == 0:
        return iter(camera)
    return paced(camera, fps, time.monotonic, sleep)


def _watched(
    shots: Iterator[Shot | BadShot], count: int | None, progress: Progress, stop: Stop
) -> Iterator[Shot | BadShot]:
    """The first `count` shots, until a stop is requested."""
    progress.restart()
    for number, shot in enumerate(shots, start=1):
        if stop.is_set():
            return
        yield shot
        progress.tick()
        if number == count:
            return


def _wait_for_learner(settings: StreamSettings, publisher: Publisher, progress: Progress, stop: Stop) -> None:
    while settings.waits and not stop.is_set() and not publisher.wait_for_subscriber(SEND_WAIT_S):
        progress.tick(f"waiting for a learner at {publisher.endpoint}")


def _deliver(pair: EncodedPair, publisher: Publisher, lossless: bool, progress: Progress, stop: Stop) -> bool:
    """Send; where nothing may be lost, again and again until a learner took it."""
    while not publisher.send(pair):
        if not lossless or stop.is_set():
            return False
        progress.tick()
    return True


def _linger(spool: Spool, linger_s: float, progress: Progress, stop: Stop) -> None:
    """Answer learners until those that are there have made everything durable, and nobody is reading."""
    tell: Callable[[str], None] = progress.tell
    while not stop.is_set():
        awaited = spool.awaited(linger_s)
        if not awaited and not spool.read_within(min(QUIET_S, linger_s)):
            return
        who = ", ".join(f"{name} ({pairs} pairs)" for name, pairs in awaited.items()) or "one that still reads"
        tell(f"no more pairs come; Ctrl-C, or wait until they are durable with: {who}")
        tell = progress.tick  # once at once, then now and then
        stop.sleep(QUIET_S / 4)


def _doctor(settings: StreamSettings) -> int:
    found = examine(settings, settings.name or _host_name(), lambda: _camera(settings))
    result = findings.report(found, as_json=settings.json)
    if settings.json:
        print(json.dumps(result.figures))
    return result.code


def _walk(settings: WalkSettings) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # nothing here is worth finishing
    config = SimConfig(
        size=parse_size(settings.size) or SimConfig.size,
        seed=settings.seed,
        walk=settings.walk,
        textures=settings.textures,
        places=settings.places,
    )
    try:
        with Console(stderr=True).status(f"painting {settings.places} places"):
            written = write_walk(
                settings.out, config=config, count=settings.count, every=settings.every, per_place=settings.per_place
            )
    except KeyboardInterrupt:
        print("error: interrupted, nothing was written", file=sys.stderr)
        return 1
    summary = {"folder": str(written.folder), "places": written.places, "images": written.images}
    print(json.dumps(summary) if settings.json else said(summary))
    return 0


def _tell_settings(settings: StreamSettings, device: str, endpoint: str, spool: Spool | None) -> None:
    folder = "none" if spool is None else spool.folder
    known = asdict(settings) | {"name": device, "bind": endpoint, "lossless": settings.lossless, "spool": folder}
    print(" ".join(f"{name}={value}" for name, value in known.items()), file=sys.stderr, flush=True)


def _host_name() -> str:
    """The host's name as it may stand in a header."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname()).lstrip("._-")[:64]
    return name or "baby"


def said(summary: dict[str, float] | dict[str, object]) -> str:
    """A summary in one line for a person."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in summary.items())
