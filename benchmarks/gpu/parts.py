"""The parts of the GPU bench: how they share the time, and how each runs in a process that can be stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.task import Task, read_lines
from stream.host.program import Stop

ROOT = Path(__file__).parents[2]
GRACE_S = 10.0
GRACE_SHARE = 0.1
"""A part is asked to end before it is stopped: by this share of its time, or by GRACE_S if that is less."""
LOG_LINES = 20
POLL_S = 0.05


class Part(NamedTuple):
    """A module with a function `run(task)`, its share of the time, and what it does."""

    name: str
    module: str
    share: float
    text: str


@dataclass(frozen=True)
class Setup:
    """The settings that all parts of a run have in common."""

    device: str
    scale: str
    pictures: Path
    out: Path


def limits_s(parts: Sequence[Part], left_s: float) -> list[float]:
    """Divide the remaining seconds among the remaining parts, by their shares.

    Only the first limit is used. It is computed again before each part, so that unused time goes to the later parts.
    """
    whole = sum(part.share for part in parts)
    return [left_s * part.share / whole for part in parts]


def run_part(part: Part, setup: Setup, limit_s: float, stop: Stop) -> dict[str, Any]:
    """Run a part, stop it at its limit or when `stop` is set, and return its result, which is then also in `<out>/<name>.json`.

    status: done, failed (an exception was raised, or the process died) or stopped. results: by name, those before a stop
    included.
    """
    lines, log = setup.out / f"{part.name}.lines.jsonl", setup.out / f"{part.name}.log"
    lines.unlink(missing_ok=True)
    began_s = time.monotonic()
    task = Task(
        device=setup.device,
        scale=setup.scale,
        pictures=str(setup.pictures),
        lines=str(lines),
        deadline_s=began_s + limit_s - min(GRACE_S, GRACE_SHARE * limit_s),
    )
    code = _run([sys.executable, "-m", "benchmarks.gpu.task", part.module, task.encode()], log, limit_s, stop)
    results = read_lines(lines)
    broken = [name for name, figures in results.items() if "error" in figures]
    result: dict[str, Any] = {
        "part": part.name,
        "status": "stopped" if code is None else "failed" if code or broken else "done",
        "took_s": round(time.monotonic() - began_s, 1),
        "limit_s": round(limit_s, 1),
        "broken": broken,
        "results": results,
    }
    if code != 0:
        result["log"] = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
    (setup.out / f"{part.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def _run(command: Sequence[str], log: Path, limit_s: float, stop: Stop) -> int | None:
    """Run a command and everything that it starts; return its exit code, or None if it was stopped."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it cuBLAS is not deterministic, even if torch is set to be
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    end_s = time.monotonic() + limit_s
    try:
        while (code := process.poll()) is None and time.monotonic() < end_s and not stop.is_set():
            stop.sleep(POLL_S)
        return code
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # kill its workers too, which may still run
        process.wait()
