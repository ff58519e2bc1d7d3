"""`python -m learner`: hears Ctrl-C from its first moment, then loads the learner and runs the command."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from learner.errors import LearnerError, NonFiniteLoss
from stream.errors import StreamError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code: 0 done, 1 failed on the way, 2 wrong settings."""
    stop = _stop_on_signals()
    try:
        from learner.command import run  # torch takes seconds to load
    except ModuleNotFoundError as error:  # the base install, which a rig needs, has no torch
        _fail(f"{error.name} is not installed here: pip install -e '.[learner]' in the checkout", 2)

    try:
        print(run(sys.argv[1:] if arguments is None else arguments, stop.is_set))
    except (NonFiniteLoss, OSError) as error:  # OSError: a full disk, a folder that went away
        _fail(error, 1)
    except (LearnerError, StreamError) as error:
        _fail(error, 2)


def _stop_on_signals() -> threading.Event:
    """The first Ctrl-C or SIGTERM asks for a clean stop; a second one ends the process at once."""
    stop = threading.Event()

    def ask(number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)
        if os.isatty(2):
            os.write(2, b"stopping after a commit; the same again ends at once\n")  # print is not safe here

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    return stop


def _fail(error: Exception | str, code: int) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
