"""One part of the GPU bench in its own process: what it may use, and how it reports. It needs the standard library only.

Each result is written to the disk as soon as it is measured, so that it remains if the part is stopped or dies.
"""

from __future__ import annotations

import gc
import importlib
import json
import math
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Figures = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Task:
    """The settings and limits of a part.

    pictures: a folder of images (`benchmarks.gpu.pictures`); lines: the file that results are appended to.
    """

    device: str
    """auto, cuda or cpu."""
    scale: str
    """"full", or "rehearsal": small sizes that a CPU finishes in seconds."""
    pictures: str
    lines: str
    deadline_s: float
    """Deadline by time.monotonic(), the same clock in all processes of the machine. The process is stopped a little later."""

    @property
    def is_full(self) -> bool:
        """Whether the sizes are those for a measurement on a GPU."""
        return self.scale == "full"

    def left_s(self) -> float:
        """Return the seconds until the deadline."""
        return self.deadline_s - time.monotonic()

    def report(self, name: str, figures: Figures) -> None:
        """Append a result. It replaces an earlier result of the same name."""
        with Path(self.lines).open("a", encoding="utf-8") as file:
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

    def encode(self) -> str:
        """Return the task as one argument of a command line."""
        return json.dumps(asdict(self))


def read_lines(path: Path) -> dict[str, Any]:
    """Return the results of a part by their names. A line that was cut short is left out."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            result = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[result["name"]] = result["figures"]
    return found


def finite(value: Any) -> Any:
    """Convert to JSON values that every reader accepts: a number that is not finite becomes its name."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    importlib.import_module(sys.argv[1]).run(Task(**json.loads(sys.argv[2])))
