"""`python -m learner`: train on a stream, check a machine, report on runs, export weights."""

from __future__ import annotations

import sys

from stream.host.program import Program

PROGRAM = Program(
    package="learner",
    script="babyagent-learner",
    commands={
        "": "learner.cli.train",
        "doctor": "learner.cli.doctor",
        "report": "learner.cli.report",
        "export": "learner.cli.export",
        "cooldown": "learner.cli.cooldown",
        "runs": "learner.cli.runs",
    },
    stop_message="stopping: probe, checkpoint, report; press again to leave the report out",
    stop_hurries=True,
    extra="learner",
    heavy=("torch", "timm", "sklearn", "scipy", "safetensors", "matplotlib"),
    logs=False,
    wrong_settings=(),
)
main = PROGRAM.main


if __name__ == "__main__":
    sys.exit(main())
