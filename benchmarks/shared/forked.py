"""Processes that are forked from one that has imported the product already (`benchmarks.launch`), as children of `Supervised`."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

_forking = multiprocessing.get_context("forkserver")


class Forked:
    """A process that is forked on Linux, a `benchmarks.shared.processes.Child`.

    It starts in less than a second, where importing torch alone takes ten. command: `-m`, a module and its arguments. log: for
    its errors. clock: see `benchmarks.launch.run`.
    """

    def __init__(self, command: Sequence[str], log: Path, clock: Path | None = None) -> None:
        _forking.set_forkserver_preload(["benchmarks.launch"])
        their_input, self._input = _forking.Pipe(duplex=False)
        self._output, their_output = _forking.Pipe(duplex=False)
        self._process = _forking.Process(
            target=_run_forked, args=(their_input, their_output, log, command[1:], clock), daemon=True
        )
        self._process.start()
        their_input.close()
        their_output.close()
        self.pid = self._process.pid or 0
        self.stdin: IO[bytes] | None = os.fdopen(os.dup(self._input.fileno()), "wb", buffering=0)
        self.stdout: IO[bytes] | None = os.fdopen(os.dup(self._output.fileno()), "rb", buffering=0)

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code. Raises subprocess.TimeoutExpired."""
        self._input.close()
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("a forked process", timeout or 0.0)
        self._output.close()
        return code

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()

    def send_signal(self, sig: int) -> None:
        """Send a signal, if it runs."""
        if self._process.exitcode is None:
            os.kill(self.pid, sig)


def _run_forked(reads: Connection, writes: Connection, log: Path, command: Sequence[str], clock: Path | None) -> None:
    """Work in the forked process."""
    errors = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for number, descriptor in enumerate((reads.fileno(), writes.fileno(), errors)):
        os.dup2(descriptor, number)
    reads.close()
    writes.close()
    os.close(errors)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", buffering=1, closefd=False)
    from benchmarks import launch  # only here: it changes the clock of the process that imports it

    launch.run(command[0], command[1:], clock)
