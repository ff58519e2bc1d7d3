"""`python -m stream`: record and replay streams, look at recordings, exchange keys."""

from __future__ import annotations

import sys

from stream.host.program import Program

USAGE = """usage: python -m stream COMMAND ...; COMMAND --help explains its flags

  python -m stream record --connect tcp://RIG:5555 --out walk.mcap
      record what rigs publish, until Ctrl-C; the same command again continues in walk-2.mcap
  python -m stream replay walk.mcap
      publish it again as the rig did, for a learner on this machine; --speed 0: as fast as it learns
  python -m stream info walk.mcap
      list what it holds, and check whether it is complete
  python -m stream recover cut.mcap whole.mcap
      write the readable part of a damaged file into a clean one
  python -m stream keys
      exchange the keys by which rigs and learners recognise each other

Recordings are MCAP files that Foxglove and Rerun open as they are. Exit codes: 0 done, 1 failed on the way or not possible now
(disk full, port in use, nothing to recover), 2 wrong settings.
Tab completes flags after: source <(python -m stream --print-completion bash), or zsh."""

PROGRAM = Program(
    package="stream",
    script="babyagent-stream",
    commands={name: f"stream.cli.{name}" for name in ("record", "replay", "info", "recover", "keys")},
    usage=USAGE,
    stop_message="ending; press again to end at once",
)


main = PROGRAM.main
"""Runs a command and returns the exit code."""

if __name__ == "__main__":
    sys.exit(main())
