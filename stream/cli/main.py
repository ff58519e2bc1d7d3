"""The commands around a stream: record, replay, look at recordings, and keys."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Sequence

from stream.errors import StreamError
from stream.host.completion import Options, options, script, shell_of

USAGE = """usage: python -m stream COMMAND ...; COMMAND --help tells its flags

  python -m stream record --connect tcp://RIG:5555 --out walk.mcap
      record what rigs publish, until Ctrl-C; the same again goes on in walk-2.mcap
  python -m stream replay walk.mcap
      publish it again as the rig did, for a learner on this machine; --speed 0 as fast as it learns
  python -m stream info walk.mcap
      what is in it, and whether it is whole
  python -m stream recover cut.mcap whole.mcap
      write what can be read of a damaged file into a clean one
  python -m stream keys
      keys by which rigs and learners know each other

Recordings are MCAP files that Foxglove and Rerun open as they are. Exit codes: 0 done, 1 failed on the way or not now
(disk full, port in use, nothing to recover), 2 wrong settings.
Tab completes flags after: source <(babyagent-stream --print-completion bash), or zsh."""

COMMANDS = ("record", "replay", "info", "recover")


def run(words: Sequence[str], stop: threading.Event) -> str:
    """Run the command of these words until it is done or `stop` is set; returns what is to be printed.

    Raises StreamError or ValueError for settings that cannot be used, OSError where it failed on the way; in one line.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    if not words or words[0] in ("-h", "--help"):
        return USAGE
    name, rest = words[0], words[1:]
    if name == "keys":
        from stream.cli.keys import run as run_keys

        return run_keys(rest)
    if (shell := shell_of(words)) is not None:
        return _completion(shell)
    if name not in COMMANDS:
        raise StreamError(f"there is no command {name!r}: use record, replay, info, recover or keys (--help shows how)")
    command: Callable[[Sequence[str], threading.Event], str] = importlib.import_module(f"stream.cli.{name}").run
    return command(rest, stop)


def _completion(shell: str) -> str:
    commands: dict[str, Options] = {}
    for name in COMMANDS:
        commands[name] = options(getattr(importlib.import_module(f"stream.cli.{name}"), f"{name.title()}Settings"))
    commands["keys"] = {"keys": ("own", "trust", "list", "forget"), "--keys": (), "--help": ()}
    return script(shell, "babyagent-stream", commands)
