"""`python -m learner doctor` checks whether the learner would run with these settings, and changes nothing."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import torch

from device.cameras.spec import redacted
from device.cli.local import open_local
from learner.cli.settings import FROM_WORDS, ProcessConfig, TrainSettings
from learner.cli.sources import rig_settings
from learner.distributed.collectives import require_alone
from learner.errors import PortInUse
from learner.footprint import free_bytes
from learner.http.access import access_for
from stream.calibration.align import aligner
from stream.calibration.source import aligned_pair
from stream.codec import decode
from stream.errors import MalformedMessage
from stream.host.command import Command
from stream.host.findings import (
    GIB,
    Finding,
    can_write,
    check_clock,
    check_disk,
    check_opencv,
    check_rows,
    existing_folder,
    installed_opencvs,
    read_clock,
    report,
    run_check,
)
from stream.host.program import Result, Stop
from stream.host.typed import there
from stream.live.subscriber import Subscriber
from stream.recording.foreign import EyeTopics
from stream.recording.source import RecordingSource
from stream.transport.endpoint import security_for, unknown_host

DESCRIPTION = """Would the learner run with these flags? Checks rigs, keys, GPU, disk, port and clock; changes nothing.

  python -m learner doctor --connect tcp://RIG:5555
  python -m learner doctor --source v4l2:0,2
  python -m learner doctor --config /etc/babyagent/learner.toml --json

Exit codes: 0 no problem, 1 a problem, 2 wrong settings."""
PATIENCE_S = 5.0
"""Longest time that a rig may take to reply; it needs less than a second."""
FLOOR_BYTES = 1 * GIB
PAIR_BYTES = 1 << 19
"""An upper estimate of a pair in the store: two eyes at 720p as JPEG."""
LOOK_PAIRS, ROW_PAIRS = 30, 6
"""Of the first pairs of a recording some are compared in height."""


def run(settings: TrainSettings, stop: Stop) -> Result:
    """Print the findings, and give them as figures. Raises SettingsError in one of several processes."""
    require_alone("doctor")
    return report(examine(settings), as_json=settings.json)


def examine(settings: TrainSettings, *, patience_s: float = PATIENCE_S) -> Iterator[Finding]:
    """Yield the findings one by one, those of the rigs last. patience_s: how long each rig may take to answer."""
    process = settings.process
    yield check_clock(read_clock(time.time()))
    yield check_opencv(installed_opencvs())
    has_gpu = torch.cuda.is_available()
    gpu = (torch.cuda.get_device_name(), free_bytes(torch.device("cuda"))) if has_gpu else None
    yield check_compute_device(process.device, settings.learner.precision, gpu)
    yield run_check("disk", lambda: _check_disk(process.run_dir, settings.learner.memory.capacity))
    if process.http_port:
        yield run_check("port", lambda: _check_port(process))
    for path in process.replay:
        yield (found := run_check("recording", partial(check_recording, path, process.topics)))
        if found.level == "ok":
            yield run_check("rows", partial(_check_rows, path, process))
    if process.source is not None:
        yield run_check("source", partial(_check_source, process, process.source, patience_s))
    elif not process.replay:
        yield run_check("keys", lambda: _check_keys(settings))
        for endpoint in process.connect:
            yield run_check("rig", partial(_check_rig, settings, endpoint, patience_s))


def check_compute_device(wanted: str, precision: str, gpu: tuple[str, int] | None) -> Finding:
    """Check the compute device to train on. gpu: name and free bytes of a GPU that torch can use; None: there is none."""
    if wanted == "cpu" or (gpu is None and wanted == "auto"):
        if precision == "bfloat16":
            text = "a preset for a GPU on the CPU is very slow: use --preset cpu, or check `nvidia-smi` and the installed torch"
            return Finding("processor", "warning", text)
        return Finding("processor", "ok", f"CPU, {len(os.sched_getaffinity(0))} cores")
    if gpu is None:
        text = "torch finds no GPU: check `nvidia-smi` and install the torch for its driver, or use --device cpu"
        return Finding("processor", "problem", text)
    return Finding("processor", "ok", f"{gpu[0]}, {gpu[1] / GIB:.1f} GiB free")


def check_recording(path: Path, topics: EyeTopics) -> Finding:
    """Check that a recording gives a pair; `python -m stream info` reads all of them. Raises StreamError if it gives none."""
    with closing(RecordingSource([path], topics=topics)) as source:
        source.receive(1, 0.0)
    return Finding("recording", "ok", str(path))


def _check_source(process: ProcessConfig, camera: str, patience_s: float) -> Finding:
    """Wait for the first pair of a camera. Raises CameraError or StreamError."""
    settings, until_s = rig_settings(process, camera), time.monotonic() + patience_s
    with closing(open_local(settings)) as source:
        while time.monotonic() < until_s:
            for pair in source.receive(1, 0.1):
                return Finding(
                    "source", "ok", f"{redacted(camera)} gives images of {pair.header.width}x{pair.header.height}"
                )
    text = "no pair was kept: uncover the lens, turn on the light, or give --dedupe off"
    return Finding("source", "warning", f"{redacted(camera)}: {text}")


def _check_rows(path: Path, process: ProcessConfig) -> Finding:
    """Compare the rows of some pairs of a recording, corrected as the settings say. Raises StreamError."""
    align = aligner(process.rectify, process.row_shift_px)
    with closing(RecordingSource([path], topics=process.topics)) as source:
        pairs = source.receive(LOOK_PAIRS, 0.0)[:: LOOK_PAIRS // ROW_PAIRS]
    decoded = []
    for pair in pairs:
        with suppress(MalformedMessage):
            both = decode(pair if align is None else aligned_pair(pair, align))
            decoded.append((both.left, both.right))
    return check_rows(decoded)


def _check_disk(run_dir: Path, capacity: int) -> Finding:
    folder = existing_folder(run_dir.absolute())
    free = shutil.disk_usage(folder).free
    return check_disk(
        folder, free, writable=can_write(folder), floor_bytes=FLOOR_BYTES, wanted_bytes=capacity * PAIR_BYTES
    )


def _check_port(process: ProcessConfig) -> Finding:
    access = access_for(process.http_host, process.http_port, process.http_token)
    try:
        access.listen().close()
    except PortInUse as error:
        return Finding("port", "warning", f"{error}; until then the learner trains without it")
    guarded = "" if access.token is None else ", and a token is required"
    return Finding("port", "ok", f"{access.host}:{access.port} is free{guarded}")


def _check_keys(settings: TrainSettings) -> Finding:
    process = settings.process
    if process.insecure:
        text = "--insecure: every rig that answers is trusted, and everybody on the network can see the images"
        return Finding("keys", "warning", text)
    security = security_for(process.connect, keys=process.keys)
    if security is None:
        return Finding("keys", "ok", "none are used: the rig is on this machine; if it uses keys, give --keys FOLDER")
    for endpoint in process.connect:
        security.rig(endpoint.partition("#")[2] or None, endpoint)
    return Finding("keys", "ok", f"trusted: {', '.join(list(security.trusted)[:8])}")


def _check_rig(settings: TrainSettings, endpoint: str, patience_s: float) -> Finding:
    """Connect as the learner will, but without a name, so that the rig keeps no pairs for us."""
    process = settings.process
    security = security_for([endpoint], keys=process.keys, insecure=process.insecure)
    with Subscriber([endpoint], security=security, insecure=process.insecure) as subscriber:
        until_s = time.monotonic() + patience_s
        while not (stats := subscriber.stats()).devices and time.monotonic() < until_s:
            subscriber.receive(1, 0.1)
    if not stats.devices and (why := unknown_host(endpoint)) is not None:
        return Finding("rig", "problem", why)
    return rig_finding(endpoint, list(stats.devices), stats.failed_handshakes)


def rig_finding(endpoint: str, devices: list[str], failures: Mapping[str, int]) -> Finding:
    """Return the finding about a rig.

    devices: those that sent something; failures: failed handshakes by reason (`stream.transport.handshake.REASONS`).
    """
    if devices:
        return Finding("rig", "ok", f"{endpoint}: {', '.join(devices[:8])} answers")
    why = next((reason for reason, count in failures.items() if count), None)
    if why is None:
        text = f"{endpoint} does not answer: start the rig, check its address and firewall (the learner waits for it)"
        return Finding("rig", "warning", text)
    if why in ("refused", "wrong_key"):
        command = there("stream", "keys")
        text = f"{endpoint} has keys that do not fit ours ({why}): `{command}` on both sides says what to type, restart the rig"
    else:
        text = (
            f"the handshake with {endpoint} failed ({why}): only one side has keys (--keys FOLDER uses them on this "
            "machine too), or it is not a rig"
        )
    return Finding("rig", "problem", text)


COMMAND = Command(run=run, description=DESCRIPTION, **FROM_WORDS)
