"""Commands of ours as a person runs them: processes of their own, what they say, how they end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from waiting import WAIT_S, until

ROOT = Path(__file__).parents[1]


@dataclass
class Running:
    """A running `python -m MODULE`; what it says on the standard error comes line by line."""

    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reader = threading.Thread(target=lambda: self.said.extend(self.process.stderr or ()), daemon=True)
        self.reader.start()

    def saying(self, pattern: str) -> re.Match[str]:
        """Wait until it says this."""

        def match() -> re.Match[str] | None:
            return re.search(pattern, "".join(self.said))

        until(lambda: match() or not self.reader.is_alive(), lambda: self.said)
        found = match()
        assert found is not None, self.said
        return found

    def end(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """Exit code and standard output, after a signal where one is given; by then all that it has said is there."""
        if number is not None:
            self.process.send_signal(number)
        assert self.process.stdout is not None
        output = self.process.stdout.read()
        self.reader.join(WAIT_S)
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
    try:
        yield command
    finally:
        process.kill()
        process.wait()
        command.reader.join()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
