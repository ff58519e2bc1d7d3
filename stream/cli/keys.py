"""The command `python -m stream keys ...`: makes the keys of this machine, and manages the trusted ones."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from stream.host.command import Command
from stream.host.program import Result, Stop
from stream.host.typed import there
from stream.transport.keys import check_name, forget, keys_folder, make_keys, own_name, parse_key, trust, trusted_keys

DESCRIPTION = """Keys by which a rig and a learner know each other; without them a stream stays on its own machine.

  on the rig       python -m stream keys --own-name rig1       prints what to type on the learner
  on the learner   python -m stream keys trust rig1 'KEY'      prints what to type on the rig

Secret keys never leave their machine. A running rig notices a change when it is started again."""
RESTART = "A rig that is running here must be started again to use the change."


@dataclass(frozen=True, kw_only=True)
class _Command:
    keys: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of the keys; by default $BABYAGENT_KEYS, else babyagent/keys in the user's configuration."""

    @property
    def folder(self) -> Path:
        return self.keys if self.keys is not None else keys_folder(os.environ)


@dataclass(frozen=True, kw_only=True)
class _Inviting(_Command):
    own_name: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """What the other machine is to call this one: on a rig its --name. By default as given before, else the host's name."""


@dataclass(frozen=True, kw_only=True)
class Own(_Inviting):
    """Make the keys of this machine if there are none, and print what to type on the other one (the default)."""


@dataclass(frozen=True, kw_only=True)
class Trust(_Inviting):
    """Trust the key of another machine: a rig then accepts its connections; a learner then finds it under this name."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """Any name: 1 to 64 of A-Z a-z 0-9 . _ -"""
    key: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="KEY")]
    """The key that `python -m stream keys` printed on the other machine, in single quotes."""


@dataclass(frozen=True, kw_only=True)
class List(_Command):
    """Print the trusted names and keys, one in each line."""


@dataclass(frozen=True, kw_only=True)
class Forget(_Command):
    """Stop trusting a key."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """Name of the key, as `list` shows it."""


def run(command: Own | Trust | List | Forget, _stop: Stop) -> Result:
    """Make, trust, list or forget keys. Raises KeysError."""
    match command:
        case Own():
            return Result(f"On the other machine, type{_WHERE}:\n  {_invitation(command)}")
        case Trust():
            invitation = _invitation(command)
            trust(command.folder, command.name, command.key)
            return Result(
                f"{command.name} is trusted. {RESTART}\n"
                f"If {command.name} does not trust this machine yet, type there{_WHERE}:\n  {invitation}"
            )
        case List():
            keys = trusted_keys(command.folder)
            return Result("\n".join(f"{name} {key}" for name, key in keys.items()) or "no key is trusted yet")
        case Forget():
            forget(command.folder, command.name)
            return Result(f"{command.name} is forgotten. {RESTART}")


_WHERE = " in its checkout (with its own --keys, if it was given one)"


def _invitation(command: _Inviting) -> str:
    """Return the command by which another machine trusts this one. Raises KeysError."""
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:64].lstrip("._-") or "NAME"
    if command.own_name is not None:
        check_name(command.own_name)  # before anything is written
    key = make_keys(command.folder)
    return there("stream", "keys", "trust", own_name(command.folder, command.own_name) or host, key)


def _key_last(words: Sequence[str]) -> list[str]:
    """Return the words with a key that begins with a dash at their end, where it is not taken for a flag."""
    for at, word in enumerate(words):
        with suppress(ValueError):
            if word.startswith("-") and "--" not in words and parse_key(word):
                return [*words[:at], *words[at + 1 :], "--", word]
    return list(words)


COMMAND = Command(run=run, settings=Own | Trust | List | Forget, description=DESCRIPTION, arrange=_key_last)
