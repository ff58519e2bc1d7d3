"""`python -m stream` as a person uses it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from recorded import read_pairs
from running import running

from stream.__main__ import PROGRAM
from stream.host.program import Stop
from stream.pair import EncodedPair

LOOPBACK = "tcp://127.0.0.1:0"


command = partial(running, "stream")


def said(*words: str) -> str:
    """What a command prints, run here."""
    return PROGRAM.run(words, Stop()).text


def pairs_in(path: Path) -> list[EncodedPair]:
    return read_pairs(path.read_bytes())
