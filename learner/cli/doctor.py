"""`python -m learner doctor`: would the learner run with these settings? Looks at everything outside, changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from learner.cli.main import ProcessConfig, Settings, parse
from learner.distributed.collectives import require_alone
from learner.errors import PortInUse
from learner.footprint import free_bytes
from learner.page.access import access_for
from stream.host.findings import (
    GIB,
    Finding,
    can_write,
    check_clock,
    check_disk,
    existing_folder,
    read_clock,
    report,
    run_check,
)
from stream.live.subscriber import Subscriber
from stream.transport.endpoint import security_for

DESCRIPTION = """Would the learner run with these flags? Looks at rigs, keys, GPU, disk, port and clock; changes nothing.

  python -m learner doctor --connect tcp://RIG:5555
  python -m learner doctor --config /etc/babyagent/learner.toml --json

Exit codes: 0 nothing is in its way, 1 a problem, 2 wrong settings."""
PATIENCE_S = 5.0
"""A rig greets within a second."""
FLOOR_BYTES = 1 * GIB
PAIR_BYTES = 1 << 19
"""Of a pair in the store, generously: two eyes at 720p as JPEG."""


def run(words: Sequence[str]) -> tuple[str, int]:
    """What is found with these flags, and the exit code. Raises what `parse` does."""
    require_alone("doctor")
    settings = parse(words, prog="python -m learner doctor", description=DESCRIPTION)
    result = report(examine(settings), as_json=settings.process.json)
    return json.dumps(result.figures) if settings.process.json else "", result.code


def examine(settings: Settings) -> Iterator[Finding]:
    """Findings one by one; rigs, which are waited for, come last."""
    process = settings.process
    yield check_clock(read_clock(time.time()))
    yield processor(process.device, settings.learner.precision, _gpu())
    yield run_check("disk", lambda: _disk(process.run_dir, settings.learner.memory.capacity))
    if process.http_port:
        yield run_check("port", lambda: _port(process))
    for path in process.replay:
        yield recording(path, readable=os.access(path, os.R_OK))
    if not process.replay:
        yield run_check("keys", lambda: _keys(settings))
        for endpoint in process.connect:
            yield run_check("rig", partial(_rig, settings, endpoint))


def _gpu() -> tuple[str, int] | None:
    """Name and free bytes of the GPU, if there is one."""
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_name(), free_bytes(torch.device("cuda"))


def processor(wanted: str, precision: str, gpu: tuple[str, int] | None) -> Finding:
    """Whether what is to train is there. gpu: name and free bytes of one that torch can use."""
    if wanted == "cpu" or (gpu is None and wanted == "auto"):
        if precision == "bfloat16":
            text = "a preset for a GPU on the CPU, which is very slow: use --preset cpu, or see `nvidia-smi` and torch's wheel"
            return Finding("processor", "warning", text)
        return Finding("processor", "ok", f"CPU, {len(os.sched_getaffinity(0))} cores")
    if gpu is None:
        text = "torch finds no GPU: look at `nvidia-smi` and install the torch for its driver, or use --device cpu"
        return Finding("processor", "problem", text)
    return Finding("processor", "ok", f"{gpu[0]}, {gpu[1] / GIB:.1f} GiB free")


def recording(path: Path, *, readable: bool) -> Finding:
    """Whether a recording is there; `python -m stream info` looks into it."""
    if readable:
        return Finding("recording", "ok", str(path))
    return Finding("recording", "problem", f"{path} cannot be read: look at --replay")


def _disk(run_dir: Path, capacity: int) -> Finding:
    folder = existing_folder(run_dir.absolute())
    free = shutil.disk_usage(folder).free
    return check_disk(
        folder, free, writable=can_write(folder), floor_bytes=FLOOR_BYTES, wanted_bytes=capacity * PAIR_BYTES
    )


def _port(process: ProcessConfig) -> Finding:
    access = access_for(process.http_host, process.http_port, process.http_token)
    try:
        access.listen().close()
    except PortInUse as error:
        return Finding("port", "warning", f"{error}; the learner trains without it meanwhile")
    if access.token is not None:
        return Finding("port", "ok", f"{access.host}:{access.port} is free, a token is asked for")
    return Finding("port", "ok", f"{access.host}:{access.port} is free")


def _keys(settings: Settings) -> Finding:
    process = settings.process
    if process.insecure:
        return Finding("keys", "warning", "--insecure: whoever answers is trusted, and the way can be read")
    security = security_for(process.connect, keys=process.keys)
    if security is None:
        return Finding("keys", "ok", "none are needed: the rig is on this machine")
    for endpoint in process.connect:
        security.rig(endpoint.partition("#")[2] or None, endpoint)
    return Finding("keys", "ok", f"trusted: {', '.join(list(security.trusted)[:8])}")


def _rig(settings: Settings, endpoint: str) -> Finding:
    """Call it as the learner will, but without a name: it keeps no pair for us."""
    process = settings.process
    security = security_for([endpoint], keys=process.keys, insecure=process.insecure)
    with Subscriber([endpoint], security=security, insecure=process.insecure) as subscriber:
        until_s = time.monotonic() + PATIENCE_S
        while not (stats := subscriber.stats()).devices and time.monotonic() < until_s:
            subscriber.receive(1, 0.1)
    return answer(endpoint, list(stats.devices), stats.failed_handshakes)


def answer(endpoint: str, devices: list[str], failures: Mapping[str, int]) -> Finding:
    """What came of a call. failures: handshakes that failed, by reason (`stream.transport.handshake.REASONS`)."""
    if devices:
        return Finding("rig", "ok", f"{endpoint}: {', '.join(devices[:8])} answers")
    why = next((reason for reason, count in failures.items() if count), None)
    if why in ("refused", "wrong_key"):
        text = f"{endpoint} is there, but its keys are not ours ({why}): `python -m stream keys` on both sides, restart the rig"
        return Finding("rig", "problem", text)
    if why is not None:
        text = f"something at {endpoint} does not speak as we do ({why}): keys on one side only, or not a rig"
        return Finding("rig", "problem", text)
    text = f"{endpoint} does not answer: start the rig, look at its address and firewall (the learner waits for it)"
    return Finding("rig", "warning", text)
