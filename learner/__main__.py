"""`python -m learner`: hears Ctrl-C from its first moment, then loads the learner and runs the command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from learner.errors import Failed, LearnerError
from stream.errors import StreamError
from stream.host.program import Stop


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code: 0 done, 1 failed on the way, 2 wrong settings."""
    stop = Stop.on_signals("stopping after a commit")
    try:
        from learner.cli import doctor
        from learner.cli.main import run
    except ModuleNotFoundError as error:  # the base install, which a rig needs, has no torch
        _fail(f"{error.name} is not installed here: pip install -e '.[learner]' in the checkout", 2)

    words, code = list(sys.argv[1:] if arguments is None else arguments), 0
    try:
        if words[:1] == ["doctor"]:
            said, code = doctor.run(words[1:])
        else:
            said = run(words, stop.is_set)
    except (Failed, OSError) as error:  # OSError: a full disk, a folder or another process that went away
        _fail(error, 1)
    except (LearnerError, StreamError) as error:
        _fail(error, 2)
    if said:
        print(said)
    if code:
        sys.exit(code)


def _fail(error: Exception | str, code: int) -> NoReturn:
    if os.environ.get("RANK", "0") == "0":  # what stops one of torchrun's processes stops all: it is said once
        print(f"error: {error}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
