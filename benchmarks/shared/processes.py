"""A process that is killed and stopped on purpose, and how it is spoken with: orders down its input, news up its output.

A line that it has written is heard even where it is killed in the next moment, because the pipe keeps it: what it says is a
journal.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path


class Supervised:
    """One process after the other under one name; used by one thread.

    command: its arguments behind `python`. hear: is given each line, by a thread of the process.
    log: where its errors go, one process behind the other.
    """

    def __init__(self, name: str, command: Sequence[str], hear: Callable[[str], None], log: Path) -> None:
        self.name = name
        self.starts = 0
        self.crashes = 0
        """Times it ended by itself."""
        self._command = [sys.executable, *command]
        self._hear = hear
        self._log = log
        self._downs = self._stalls = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._reader = threading.Thread()

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it; one that is held down or stalled stays so."""
        if self._process is not None or self._downs:
            return
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0
            )
        self.starts += 1
        self._reader = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
        self._reader.start()
        if self._stalls:
            self._process.send_signal(signal.SIGSTOP)

    def tell(self, order: str) -> None:
        """Give an order; nothing happens where it is not there to hear it."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.write(f"{order}\n".encode())

    def take_down(self) -> None:
        """kill -9, and it stays down until `bring_up` was called as often."""
        self._downs += 1
        self.close()

    def bring_up(self) -> None:
        """The other half of `take_down`."""
        self._downs -= 1
        self.start()

    def stall(self) -> None:
        """Stop it in its tracks, until `resume` was called as often."""
        self._stalls += 1
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """The other half of `stall`."""
        self._stalls -= 1
        if self._process is not None and not self._stalls:
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """kill -9, where it runs; everything that it said has been heard then."""
        if self._process is not None:
            self._process.kill()
            self._gone()

    def watch(self) -> bool:
        """False where it has ended by itself: that is counted, and it can be started again."""
        if self._process is None or self._process.poll() is None:
            return True
        self.crashes += 1
        self._gone()
        return False

    def end(self, timeout_s: float) -> int:
        """Order it to stop; its exit code, that of a kill where it did not come to its end in time."""
        self.tell("stop")
        if self._process is None:
            return -signal.SIGKILL
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        self._process.kill()
        return self._gone()

    def _gone(self) -> int:
        process, self._process = self._process, None
        assert process is not None
        code = process.wait()
        self._reader.join()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        return code

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        rest = b""
        while data := process.stdout.read(1 << 16):
            *lines, rest = (rest + data).split(b"\n")  # the last one was cut off by a kill, where there is one
            for line in lines:
                self._hear(line.decode())


class Orders:
    """The supervised end: what was ordered so far. It ends itself once nobody is there any more to give orders.

    take: is given each line but the last one, `stop`, by a thread.
    """

    def __init__(self, take: Callable[[str], None] = lambda order: None) -> None:
        self.stop = threading.Event()
        self._take = take
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            if line.strip() == "stop":
                self.stop.set()
            else:
                self._take(line.strip())
        os._exit(1)


def say(*words: object) -> None:
    """One line to who supervises us, as one write: whole or not at all where this process dies."""
    data = f"{' '.join(map(str, words))}\n".encode()
    while data:
        data = data[os.write(1, data) :]
