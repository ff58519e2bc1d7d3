"""`python -m device`: publish or record a camera, check a rig, calibrate its cameras, write a labelled control set."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from stream.host.program import Program

PROGRAM = Program(
    package="device",
    script="babyagent-device",
    commands={
        "": "device.cli.stream",
        "stream": "device.cli.stream",
        "doctor": "device.cli.doctor",
        "record": "device.cli.record",
        "calibrate": "device.cli.calibrate",
        "consumers": "device.cli.consumers",
        "walk": "device.cli.walk",
    },
)


def main(words: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code."""
    return PROGRAM.main(words)


if __name__ == "__main__":
    sys.exit(main())
