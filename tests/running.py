"""Commands of ours as a person runs them: processes of their own, what they say, how they end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
WAIT_S = 90.0  # generous: the machine may be busy; nothing here is judged by its speed


@dataclass
class Running:
    """A running `python -m MODULE`; what it says on the standard error comes line by line."""

    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)

    def saying(self, pattern: str) -> re.Match[str]:
        """Wait until it says this."""
        deadline_s = time.monotonic() + WAIT_S
        while True:
            match = re.search(pattern, "".join(self.said))
            if match:
                return match
            assert self.process.poll() is None, "".join(self.said)
            assert time.monotonic() < deadline_s, "".join(self.said)
            time.sleep(0.02)

    def end(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """Exit code and standard output, after a signal where one is given."""
        if number is not None:
            self.process.send_signal(number)
        assert self.process.stdout is not None
        output = self.process.stdout.read()
        return self.process.wait(WAIT_S), output


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@contextmanager
def running(module: str, *words: str, file_limit_bytes: int | None = None) -> Iterator[Running]:
    """The command until the end of the block, if it has not ended by then; the limit is on the size of any file of it."""
    limit = [] if file_limit_bytes is None else ["prlimit", f"--fsize={file_limit_bytes}"]
    process = subprocess.Popen(
        [*limit, sys.executable, "-m", module, *words],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    command = Running(process)
    errors = process.stderr
    assert errors is not None
    reader = threading.Thread(target=lambda: command.said.extend(errors), daemon=True)
    reader.start()
    try:
        yield command
    finally:
        process.kill()
        process.wait()
        reader.join()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
