"""The stream of the bench: a simulated walk without end, or recordings that come again and again under the same numbers.

Whether a pair is held out follows from its header. So a recorded pair that was held out once is held out each time it comes
again, and never trained on.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, suppress
from functools import lru_cache
from pathlib import Path

from benchmarks.shared.pairs import WalkOnce, renumbered
from device.cameras.open import Origin, camera_kind
from device.sim.camera import SimConfig
from learner.cli.settings import ProcessConfig
from learner.cli.sources import OpenSource, source_opener
from learner.errors import Failed, SettingsError
from stream.errors import EndOfStream
from stream.pair import EncodedPair

WALK = ("sim",)
MAX_BYTES = 4 << 30
"""Encoded pairs of recordings that are held in memory."""
_RECEIVE_PAIRS, _WAIT_S = 64, 1.0


def pairs_of(names: tuple[str, ...], world: SimConfig) -> Iterable[EncodedPair]:
    """Return the pairs of a stream, without end: of a walk through the world, or of the recordings that are named.

    Raises what `check` raises, and Failed for a recording without a pair or for too many bytes.
    """
    return _walk(world) if names == WALK else itertools.cycle(recorded(names))


def check(names: Sequence[str]) -> None:
    """Raise SettingsError, CameraError, StreamError or Failed in one line for names that are no stream, or have no pair."""
    for name in () if tuple(names) == WALK else names:
        with closing(_received(name)) as pairs:
            next(pairs)


@lru_cache(maxsize=1)
def recorded(names: tuple[str, ...]) -> list[EncodedPair]:
    """Return the pairs of recordings, one after the other, as the learner gets them with `--source` or `--replay`.

    Each recording is an epoch of its own, with the same name in each process. Its number stands in the first half, which decides
    from where on pairs are held out: were it the same for all, short recordings would be held out all or not at all.
    """
    pairs: list[EncodedPair] = []
    held_bytes = 0
    for number, name in enumerate(names):
        for seq, pair in enumerate(_received(name)):
            pairs.append(renumbered(pair, seq, epoch=f"{number:016x}{0:016x}"))
            held_bytes += len(pair.left) + len(pair.right)
            if held_bytes > MAX_BYTES:
                raise Failed(
                    f"--stream: the recordings have more than {MAX_BYTES >> 30} GiB: name fewer, or shorter ones"
                )
    return pairs


def _opener(name: str) -> OpenSource:
    if Path(name).is_file():
        return source_opener(ProcessConfig(replay=(Path(name),)))
    if camera_kind(name).origin is not Origin.RECORDING:
        raise SettingsError(f"--stream {name}: name sim alone, or recordings, films and folders of images")
    return source_opener(ProcessConfig(source=name))


def _received(name: str) -> Generator[EncodedPair]:
    """Yield the pairs of one recording. Raises Failed at its end if it had none."""
    found = 0
    with closing(_opener(name)("bench", None)) as source, suppress(EndOfStream):
        while True:
            pairs = source.receive(_RECEIVE_PAIRS, _WAIT_S)
            found += len(pairs)
            yield from pairs
    if not found:
        raise Failed(f"--stream {name}: there is no pair to learn from")


@lru_cache(maxsize=1)
def _walk(world: SimConfig) -> WalkOnce:
    return WalkOnce(world)
