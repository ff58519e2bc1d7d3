"""Child processes: workers with a pipe to each, and a supervised process that is killed and stopped on purpose.

The supervised process gets orders on its standard input and reports on its standard output. A report that it has written arrives
even if the process is killed right after, because the pipe keeps it: the reports are a journal.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from learner.errors import Failed

Found = TypeVar("Found")
START_S = 60.0
LEAVE_S = 5.0
LATE_S = 0.1
"""A process that was delayed for longer than this does not catch up."""


class Child(Protocol):
    """The parts of `subprocess.Popen` that a supervised process needs."""

    pid: int
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code. Raises subprocess.TimeoutExpired."""

    def kill(self) -> None:
        """Send SIGKILL."""

    def send_signal(self, sig: int) -> None:
        """Send a signal, if it runs."""


class Supervised:
    """Processes that run one after the other under one name; used by one thread.

    command: arguments after `python`; a later start may have others. receive: called with each reported line, by a thread of its
    own. log: the file to which all of them append their errors. new: starts a process; see also `benchmarks.shared.forked`.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        receive: Callable[[str], None],
        log: Path,
        new: Callable[[Sequence[str], Path], Child] | None = None,
    ) -> None:
        self.name = name
        self.command = command
        self.log = log
        self.starts = 0
        self.crashes = 0
        """How often the process has ended without an order."""
        self.said_from = 0
        """Size of the log when the process was started that runs now, or ended last."""
        self._new = new or _popen
        self._receive = receive
        self._downs = self._stalls = 0
        self._process: Child | None = None
        self._reader = threading.Thread()

    @property
    def pid(self) -> int | None:
        """Process id of the process that runs now; None if none runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start a process, unless one runs or it was taken down. If it was stalled, the process starts stopped."""
        if self._process is not None or self._downs:
            return
        self.said_from = self.log.stat().st_size if self.log.exists() else 0
        self._process = self._new(self.command, self.log)
        self.starts += 1
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        if self._stalls:
            self._process.send_signal(signal.SIGSTOP)

    def order(self, text: str) -> None:
        """Send an order; do nothing if no process runs."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.write(f"{text}\n".encode())

    def take_down(self) -> None:
        """Kill the process (SIGKILL), and start no other one until `bring_up` was called as often."""
        self._downs += 1
        self.close()

    def bring_up(self) -> None:
        """Undo one `take_down`."""
        self._downs -= 1
        self.start()

    def stall(self) -> None:
        """Stop the process (SIGSTOP), until `resume` was called as often."""
        self._stalls += 1
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo one `stall`."""
        self._stalls -= 1
        if self._process is not None and not self._stalls:
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill the process if it runs. Afterwards all its reports have been received."""
        if self._process is not None:
            self._process.kill()
            self._finish()

    def check(self) -> bool:
        """Return False if the process has ended without an order. This is counted as a crash, and it can be started again."""
        if self._process is None or self._process.poll() is None:
            return True
        self.crashes += 1
        self._finish()
        return False

    def end(self, timeout_s: float) -> int:
        """Order the process to stop; return its exit code. It is killed if it does not end in time."""
        self.order("stop")
        if self._process is None:
            return -signal.SIGKILL
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        self._process.kill()
        return self._finish()

    def _finish(self) -> int:
        process, self._process = self._process, None
        assert process is not None
        code = process.wait()
        self._reader.join()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        return code

    def _read(self, process: Child) -> None:
        assert process.stdout is not None
        rest = b""
        while data := process.stdout.read(1 << 16):
            *lines, rest = (rest + data).split(b"\n")  # a kill may have cut off the last line
            for line in lines:
                self._receive(line.decode())


def _popen(command: Sequence[str], log: Path) -> Child:
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, bufsize=0
        )


class Orders:
    """The orders that a supervised process has received. The process ends itself once its supervisor is gone.

    obey: called with each order except the last one, `stop`, by a thread.
    """

    def __init__(self, obey: Callable[[str], None] = lambda order: None) -> None:
        self.stop = threading.Event()
        self._obey = obey
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            if line.strip() == "stop":
                self.stop.set()
            else:
                self._obey(line.strip())
        os._exit(1)


class Pace:
    """Waits so that rounds of work come at a steady rate, beginning when it is made."""

    def __init__(self) -> None:
        self._due_s = time.monotonic()

    def wait(self, per_s: float) -> None:
        """Wait for the time of the next round, at `per_s` rounds per second."""
        self._due_s = max(self._due_s + 1 / per_s, time.monotonic() - LATE_S)
        time.sleep(max(0.0, self._due_s - time.monotonic()))


def report(*words: object) -> None:
    """Send one line to the supervisor. A process that dies while it writes may cut the line off, but never mixes two lines."""
    data = f"{' '.join(map(str, words))}\n".encode()
    while data:
        data = data[os.write(1, data) :]


def in_own_process(work: Callable[..., Found], *arguments: object) -> Found:
    """Call a function in a new process, which shares nothing with this one, and return its result."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


class Workers:
    """Starts named processes that share nothing with this one. It has to be closed."""

    def __init__(self) -> None:
        self._spawn = multiprocessing.get_context("spawn")
        self._workers: dict[str, tuple[BaseProcess, Connection]] = {}

    def start(self, name: str, work: Callable[..., None], *arguments: object) -> None:
        """Call `work` in a new process, with its end of the pipe and these arguments."""
        ours, theirs = self._spawn.Pipe()
        process = self._spawn.Process(target=_run, args=(work, theirs, *arguments), daemon=True)
        process.start()
        theirs.close()
        self._workers[name] = (process, ours)

    def send(self, message: object) -> None:
        """Send a message to all processes."""
        for _process, pipe in self._workers.values():
            pipe.send(message)

    def receive(self, name: str, timeout_s: float = START_S) -> Any:
        """Wait for a message of a process. Raises BenchFailed if none arrives in time, or if the function has failed."""
        pipe = self._workers[name][1]
        if not pipe.poll(timeout_s):
            raise Failed(f"the {name} did not respond within {timeout_s:.0f} s")
        try:
            message = pipe.recv()
        except EOFError:
            raise Failed(f"the {name} ended without a result: see above") from None
        if isinstance(message, Failed):
            raise Failed(f"the {name} failed: {message}")
        return message

    def pid(self, name: str) -> int:
        """Return the process id of a process."""
        return self._workers[name][0].pid or 0

    def close(self) -> None:
        """End all processes."""
        for process, pipe in self._workers.values():
            process.join(LEAVE_S)  # one that has failed still removes its files
            process.kill()
            process.join()
            pipe.close()


def _run(work: Callable[..., None], pipe: Connection, *arguments: object) -> None:
    """Work in the process: its output goes to the standard error, and an exception is sent to the parent."""
    os.dup2(sys.stderr.fileno(), 1)
    logging.disable(logging.INFO)
    try:
        work(pipe, *arguments)
    except Exception as error:  # the parent reports any error
        pipe.send(Failed(f"{type(error).__name__}: {error}"))
