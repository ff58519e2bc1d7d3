"""The parts of the GPU bench: how they share the time, and how each runs in a process of its own that can be stopped.

Each result is written to the disk as soon as it is measured, so that it remains if the part is stopped or dies. This module is
also the program of that process. It needs the standard library only.
"""

from __future__ import annotations

import gc
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from stream.host.program import Stop

ROOT = Path(__file__).parents[2]
GRACE_S = 10.0
GRACE_SHARE = 0.1
"""A part is asked to end before it is stopped: by this share of its time, or by GRACE_S if that is less."""
DEATH_S = 10.0
"""How long the bench waits for the end of a killed process. One that hangs in the driver of a GPU may never end."""
LOG_LINES = 20
POLL_S = 0.05
Figures = Mapping[str, Any]


class Part(NamedTuple):
    """A module with a function `run(task)`, its share of the time, and what it does."""

    name: str
    module: str
    share: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """The settings and limits of a part."""

    device: str
    """cuda or cpu."""
    scale: str
    """"full", or "rehearsal": small sizes that a CPU finishes in seconds."""
    pictures: str
    """A folder of images (`benchmarks.gpu.pictures`)."""
    out: str
    """The folder of the results."""
    part: str = ""
    deadline_s: float = math.inf
    """Deadline by time.monotonic(), the same clock in all processes of the machine. The process is stopped a little later."""

    @property
    def is_full(self) -> bool:
        """Whether the sizes are those for a measurement on a GPU."""
        return self.scale == "full"

    def left_s(self) -> float:
        """Return the seconds until the deadline."""
        return self.deadline_s - time.monotonic()

    def results(self, part: str) -> dict[str, Any]:
        """Return the results of a part by their names. A line that was cut short is left out."""
        found = {}
        with suppress(FileNotFoundError, json.JSONDecodeError):
            for line in self._lines(part).read_text(encoding="utf-8").splitlines():
                result = json.loads(line)
                found[result["name"]] = result["figures"]
        return found

    def report(self, name: str, figures: Figures) -> None:
        """Append a result. It replaces an earlier result of the same name."""
        with self._lines(self.part).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, "figures": finite(figures)}) + "\n")

    def attempt(self, name: str, measure: Callable[[], Figures], *, needs_s: float = 0.0) -> Figures:
        """Measure, and report the result. An exception is reported with its traceback.

        If fewer than `needs_s` seconds are left, nothing is run.
        """
        began_s = time.monotonic()
        if self.left_s() < needs_s:
            figures: Figures = {"skipped": f"{self.left_s():.0f} s were left, it needs {needs_s:.0f}"}
        else:
            try:
                figures = measure()
            except Exception:
                figures = {"error": traceback.format_exc()}
        figures = {**figures, "took_s": round(time.monotonic() - began_s, 2)}
        self.report(name, figures)
        gc.collect()  # networks that point at each other hold memory of the card
        return figures

    def run(self, part: Part, limit_s: float, stop: Stop) -> dict[str, Any]:
        """Run a part, stop it at its limit or when `stop` is set, and return its result, which is also in `<out>/<name>.json`.

        status: done, failed (an exception was raised, or the process died) or stopped. results: by name, those before a stop
        included.
        """
        began_s = time.monotonic()
        self._lines(part.name).unlink(missing_ok=True)
        task = replace(self, part=part.name, deadline_s=began_s + limit_s - min(GRACE_S, GRACE_SHARE * limit_s))
        log = Path(self.out, f"{part.name}.log")
        command = [sys.executable, "-m", "benchmarks.gpu.parts", part.module, json.dumps(asdict(task))]
        code = _run(command, log, limit_s, stop)
        results = self.results(part.name)
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
        Path(self.out, f"{part.name}.json").write_text(json.dumps(result, indent=1) + "\n")
        return result

    def _lines(self, part: str) -> Path:
        return Path(self.out, f"{part}-{self.scale}-{self.device}.lines.jsonl")


def limits_s(parts: Sequence[Part], left_s: float) -> list[float]:
    """Divide the remaining seconds among the remaining parts, by their shares.

    Only the first limit is used. It is computed again before each part, so that unused time goes to the later parts.
    """
    whole = sum(part.share for part in parts)
    return [left_s * part.share / whole for part in parts]


def finite(value: Any) -> Any:
    """Convert to JSON values that every reader accepts: a number that is not finite becomes its name."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _run(command: Sequence[str], log: Path, limit_s: float, stop: Stop) -> int | None:
    """Run a command and everything that it starts; return its exit code, or None if it was stopped."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it cuBLAS is not deterministic, even if torch is set to be
    }
    end_s = time.monotonic() + limit_s
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        while (code := process.poll()) is None and time.monotonic() < end_s and not stop.is_set():
            stop.sleep(POLL_S)
        return code
    finally:
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGKILL)  # kill its workers too, which may still run
            process.wait(DEATH_S)


if __name__ == "__main__":
    importlib.import_module(sys.argv[1]).run(Task(**json.loads(sys.argv[2])))
