"""The common parts of the four `python -m` programs: the stop signal, the choice of a command, and the exit code.

This module imports nothing heavy, so that Ctrl-C works from the first moment. A command's module is imported when it is chosen.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from enum import IntEnum
from types import FrameType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from stream.errors import ReportedError
from stream.host.memory import out_of_memory
from stream.host.printing import log_with, printable
from stream.host.standins import standing_in
from stream.host.typed import here, versions

if TYPE_CHECKING:
    from stream.host.command import Command

T = TypeVar("T")

HELP_ALL = "--help-all"
HELP = frozenset({"-h", "--help", HELP_ALL})
SLEEP_S = 0.1
"""How long a sleeping program takes at most to notice a request to stop."""


AGAIN_S = 1.0
"""The same signal again within this time is the same request: `timeout` sends two, one to the process and one to its group."""


class ExitCode(IntEnum):
    """The exit codes: how a program ended."""

    DONE = 0
    FAILED = 1
    """The command failed while it ran, or cannot run now; the same settings may work later."""
    WRONG_SETTINGS = 2


class Hurried(BaseException):
    """The end was requested again, in the middle of work that can be left out. No Exception, so that nothing else catches it."""


class Stop:
    """A request to end the program. Any thread can read it at any time, and it is never withdrawn.

    It has no lock, unlike threading.Event: a signal handler that sets an Event can wait for ever for the thread that it
    interrupted.
    """

    def __init__(self) -> None:
        self._requested = False
        self._hurried = False
        self._held = False
        self._in_optional = False

    @classmethod
    def on_signals(cls, message: str, *, hurries: bool = False) -> Self:
        """Return a Stop that the first SIGINT or SIGTERM sets; `message` is then printed.

        The same signal again, AGAIN_S later or more, kills the process, unless the stop is held. hurries: it only leaves out what
        is not needed, and the third one kills.
        """
        stop = cls()
        asked_s: dict[int, float] = {}

        def handle(number: int, _frame: FrameType | None) -> None:
            stop.set()
            if number not in asked_s:
                asked_s[number] = time.monotonic()
                if os.environ.get("RANK", "0") == "0":  # of the processes of torchrun, the first one says it
                    start = "\r" if os.isatty(2) else ""  # over the ^C that a terminal shows
                    os.write(2, f"{start}{message}\n".encode())  # print is not safe here
            elif time.monotonic() - asked_s[number] >= AGAIN_S:
                asked_s[number] = time.monotonic()
                if hurries and not stop._hurried:
                    stop._hurried = True
                    if stop._in_optional:
                        raise Hurried
                elif not stop._held:
                    signal.signal(number, signal.SIG_DFL)
                    os.kill(os.getpid(), number)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, handle)
        return stop

    def set(self) -> None:
        """Request the end."""
        self._requested = True

    def is_set(self) -> bool:
        """Return whether the end has been requested."""
        return self._requested

    def is_hurried(self) -> bool:
        """Return whether the end has been requested again."""
        return self._hurried

    def optional(self, work: Callable[[], T]) -> T | None:
        """Do what can be left out and return its result; None if the end was or is requested again, also in the middle of it.

        Only the main thread may call this. The work must keep what is durable whole, wherever it is interrupted.
        """
        try:
            self._in_optional = True
            try:
                return None if self._hurried else work()
            finally:
                self._in_optional = False
        except Hurried:
            return None

    def hold(self) -> None:
        """From now on no signal kills the process, because a file is being closed."""
        self._held = True

    def sleep(self, seconds: float) -> None:
        """Sleep for some seconds, or until the end is requested."""
        end_s = time.monotonic() + seconds
        while not self._requested and (left_s := end_s - time.monotonic()) > 0:
            time.sleep(min(left_s, SLEEP_S))


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a command."""

    text: str = ""
    """The result as text for a person."""
    figures: Any = None
    """The result as JSON values for a program; printed instead of the text under `--json`."""
    code: int = ExitCode.DONE


@dataclass(frozen=True, kw_only=True)
class Program:
    """A package that is run as `python -m PACKAGE [COMMAND] [flags]`."""

    package: str
    script: str
    """Name of its console script, for which the shell completes arguments."""
    commands: Mapping[str, str]
    """For each command the module that holds its `COMMAND`. The command named "" runs where no command is given."""
    usage: str = ""
    """The text of --help for a program without a command named "", which would have a help text of its own."""
    stop_message: str = "stopping; press again to end at once"
    stop_hurries: bool = False
    """Whether the second signal only leaves out what is not needed (`Stop.is_hurried`)."""
    extra: str = ""
    """The optional dependencies (`pip install -e '.[EXTRA]'`) that its commands import."""
    heavy: tuple[str, ...] = ()
    """Packages that take seconds to load; help, completion and wrong settings do without them."""
    logs: bool = True
    """Whether warnings go to the standard error. False: the commands configure the logging."""
    wrong_settings: tuple[type[Exception], ...] = (ValueError,)
    """Errors, beside ReportedError, that mean that a setting cannot be used."""

    def main(self, words: Sequence[str] | None = None) -> int:
        """Run the command that the arguments name, print its result and return the exit code.

        words: None takes those of this process.
        """
        stop = Stop.on_signals(self.stop_message, hurries=self.stop_hurries)
        _raise_file_limit()
        if self.logs:
            log_with(logging.StreamHandler())
        try:
            result = self.run(sys.argv[1:] if words is None else words, stop)
            if result.text:
                write(result.text)
            return result.code
        except ReportedError as error:
            return _report(error, error.exit_code)
        except OSError as error:  # a full disk, a file that cannot be written, a process that has ended
            return _report(error, ExitCode.FAILED)
        except self.wrong_settings as error:
            return _report(error, ExitCode.WRONG_SETTINGS)
        except KeyboardInterrupt:
            return _report("interrupted", ExitCode.FAILED)
        except Exception as error:
            if (sentence := out_of_memory(error)) is None:
                raise
            return _report(sentence, ExitCode.FAILED)

    def run(self, words: Sequence[str], stop: Stop) -> Result:
        """Run a command until it is done or `stop` is set. Raises the errors of the command."""
        if len(words) in (1, 2) and words[-1] == "--version":
            return Result(versions())
        with standing_in(self.heavy, (self.package, "stream", "buffer", "device")) as replaced:
            from stream.host import completion

            if (shell := completion.shell_of(words)) is not None:
                commands = {name: self.command(name).options(name) for name in self.commands}
                return Result(completion.script(shell, self.script, commands, self.package).removesuffix("\n"))
            name, flags = self._chosen(words)
            if name is None:
                return Result(self.usage)
            prog = here(self.package, *([name] if name else []))
            if replaced:
                self._foresee(name, flags, prog)
        return self.command(name).execute(flags, prog, stop)

    def _foresee(self, name: str, flags: Sequence[str], prog: str) -> None:
        """Read the arguments while heavy packages are replaced; what this says is shown only if the command does not run."""
        said = io.StringIO()
        try:
            with redirect_stderr(said):
                self.command(name).foresee(flags, prog)
        except BaseException:
            sys.stderr.write(said.getvalue())
            raise

    def _chosen(self, words: Sequence[str]) -> tuple[str | None, Sequence[str]]:
        """Return the command that the arguments name, and its own arguments; None to show the usage. Raises ReportedError."""
        named = bool(words) and not words[0].startswith("-")
        name, flags = (words[0], words[1:]) if named else ("", words)
        if not named and "" not in self.commands:
            if not words or words[0] in HELP:
                return None, ()
            name = words[0]
        if name not in self.commands:
            others = [f"`{command}`" for command in self.commands if command]
            others += ["flags alone"] * ("" in self.commands)
            raise ReportedError(f"there is no command {name!r}: use {', '.join(others)} (--help explains them)")
        return name, flags

    def command(self, name: str) -> Command:
        """Import a command. Raises ReportedError if an optional dependency is not installed."""
        try:
            command: Command = importlib.import_module(self.commands[name]).COMMAND
        except ModuleNotFoundError as error:
            if not self.extra:
                raise
            hint = f"pip install -e '.[{self.extra}]' in the checkout"
            raise ReportedError(f"{error.name} is not installed here: {hint}") from error
        return command


def write(text: str) -> None:
    """Print text, of one or more lines, as soon as it is known."""
    print(printable(text, keep="\n\t"), flush=True)


def _raise_file_limit() -> None:
    """Allow as many open files as the system permits: each connection takes one, also that of a stranger."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(OSError, ValueError):  # some systems do not allow their own limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _report(error: Exception | str, code: int) -> int:
    if os.environ.get("RANK", "0") == "0":  # an error that ends all processes of torchrun is printed by the first one
        print(f"error: {printable(str(error))}", file=sys.stderr)
    return code
