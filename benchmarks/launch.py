"""The process from which a bench forks others: packages that take seconds to import are here already, and its clock can be set.

Importing this module replaces `time.time` and `time.time_ns`, before any other module can keep them: they are wrong by the
seconds in the file of `run`, which is read at each look at the clock. Monotonic time stays right. Nothing of the product knows
of this. Only `benchmarks.shared.forked` may import it, in the new process.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

PRELOADED = ("learner.cli.compose", "stream.cli.record", "device.spool.spool", "timm", "safetensors.torch")
_true_s, _true_ns = time.time, time.time_ns
_clock: Path | None = None


def _wrong_by_s() -> float:
    try:
        return 0.0 if _clock is None else float(_clock.read_text())
    except OSError:  # nobody has set the clock yet
        return 0.0


time.time = lambda: _true_s() + _wrong_by_s()
time.time_ns = lambda: _true_ns() + int(1e9 * _wrong_by_s())
for name in PRELOADED:
    import_module(name)


def run(module: str, arguments: Sequence[str], clock: Path | None) -> None:
    """Run a module as `python -m` does. clock: the file that sets the clock.

    A program of the product obeys its supervisor as those of the benches do: the order `stop` is a Ctrl-C, and it ends with its
    supervisor.
    """
    global _clock
    _clock = clock
    if not module.startswith("benchmarks."):
        _obey_supervisor()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _obey_supervisor() -> None:
    from benchmarks.shared.processes import Orders

    stop = Orders().stop

    def wait() -> None:
        stop.wait()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()
