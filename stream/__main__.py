"""`python -m stream`: hears Ctrl-C from its first moment, then runs the command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from stream.errors import EndpointTaken, StreamError
from stream.host.interrupt import stop_on_signals


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code: 0 done, 1 failed on the way or not now, 2 wrong settings."""
    stop = stop_on_signals("ending")
    from stream.cli.main import run  # OpenCV takes seconds to load on a Pi

    try:
        print(run(sys.argv[1:] if arguments is None else arguments, stop))
    except (OSError, EndpointTaken) as error:  # a full disk, a file that cannot be written, a port that somebody has
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (StreamError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
