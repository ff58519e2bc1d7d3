"""`python -m device`: hears Ctrl-C from its first moment, then loads the rig and runs the command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from stream.host.program import Stop


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    stop = Stop.on_signals("stopping")
    from device.cli.main import run  # OpenCV takes seconds to load on a Pi

    return run(list(sys.argv[1:] if argv is None else argv), stop)


if __name__ == "__main__":
    sys.exit(main())
