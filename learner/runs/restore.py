"""Puts a learner back to the newest commit of its run that is whole.

The folder of a checkpoint holds the note of its commit and the checksums of its pairs. So it can be continued from as long as
the store has those pairs, whatever the store says about commits. Checkpoints of earlier versions need the store's word.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from buffer.store_reader import Commit, StoreError
from learner.errors import LearnerError, SettingsError
from learner.loop import Learner
from learner.memory.holdout import stored_keys
from learner.runs.checkpoint import order_of
from learner.runs.commit import Checkpoints, PairStore, StoredPairs, unpack
from learner.runs.note import COMMIT, Note, checksum_of, decode_note
from stream.errors import MalformedMessage
from stream.pair import EncodedPair
from stream.source import Cursor

log = logging.getLogger(__name__)

UNFIT = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError, msgspec.MsgspecError)
"""What a state that does not fit this learner raises."""


class Found(NamedTuple):
    """A commit that was loaded, and how the store goes on from it: see `buffer.store.Store.rewind`."""

    note: Note
    number: int
    adopted: tuple[ArrayLike, bytes] | None


class _Listed(NamedTuple):
    """A commit that the store lists."""

    commit: Commit
    note: Note


def restore(
    learner: Learner, store: PairStore, checkpoints: Checkpoints, require_new: Callable[[], None] = lambda: None
) -> Cursor | None:
    """Put the learner back to its newest whole commit, and return the cursor of the source; None: the run is new.

    The store forgets newer commits. Checkpoints stay, except those that a killed process has not finished.
    require_new: called before a run is taken for a new one; raises LearnerError if it is not.
    Raises LearnerError if no commit is whole, or another version made them; then nothing has changed.
    """
    found = load_newest(learner, store, checkpoints)
    if found is None:
        require_new()
        store.rewind(0)
    else:
        store.rewind(found.number, found.adopted)
    for name in checkpoints.names():  # a process that is killed in each of its commits must not fill the disk
        if checkpoints.is_unfinished(name):
            checkpoints.remove(name)
    return None if found is None else found.note.cursor


def load_newest(learner: Learner, store: StoredPairs, checkpoints: Checkpoints) -> Found | None:
    """Load the newest whole commit into the learner, and change nothing else; None: there is no commit yet.

    A newer commit that is not whole is logged. Raises LearnerError if no commit is whole, or another version made them, and
    SettingsError if the labelled images of the run are others now.
    """
    listed, problems = _listed(store)
    names = checkpoints.names()
    for name in sorted(names | listed.keys(), key=order_of, reverse=True):
        try:
            found = _load(learner, name, listed, store, checkpoints)
        except SettingsError:  # no older commit and no other store would help
            raise
        except LearnerError as error:
            problems.append(error)
            continue
        for problem in problems:
            log.warning("%s: going on from the commit before, at step %d", problem, learner.steps)
        return found
    is_start = all(_is_unfinished_start(name, checkpoints) for name in names)
    if problems and not (names and is_start and not listed and not store.is_new):
        raise LearnerError(
            f"{problems[0]}, and there is no other commit to go on from: "
            "restore pairs.sqlite and checkpoints/ from one copy, or choose another --run-dir"
        )
    return None


def _is_unfinished_start(name: str, checkpoints: Checkpoints) -> bool:
    """Return whether a process was killed while it wrote this checkpoint, and had not learned yet.

    Its store lay there before. Without one, files are missing, and with them the name under which rigs keep pairs for the run.
    """
    return checkpoints.is_unfinished(name) and order_of(name)[1] == 0


def _listed(store: StoredPairs) -> tuple[dict[str, _Listed], list[LearnerError]]:
    """Return the commits that the store lists, by the names of their checkpoints, and what is wrong with others."""
    listed: dict[str, _Listed] = {}
    problems: list[LearnerError] = []
    try:
        for commit in store.commits():
            try:
                note = decode_note(commit.note)
            except msgspec.MsgspecError as error:
                problems.append(_foreign(f"commit {commit.number}", error))
            else:
                listed[note.folder] = _Listed(commit, note)
    except StoreError as error:  # a checkpoint may know more
        problems.append(LearnerError(str(error)))
    return listed, problems


def _load(
    learner: Learner, name: str, listed: dict[str, _Listed], store: StoredPairs, checkpoints: Checkpoints
) -> Found:
    """Load this checkpoint with its pairs. Raises LearnerError if it is damaged, foreign, or lacks pairs."""
    state, mine = checkpoints.load(name), listed.get(name)
    try:
        keys = mine.commit.keys if mine is not None and COMMIT not in state else stored_keys(state)
        found = _found(name, keys, state.pop(COMMIT, None), listed, store)
        learner.load_state_dict(state, _stored_pairs(store, keys.tolist()))
    except UNFIT as error:
        raise _foreign(f"commit {order_of(name)[0]}", error) from error
    if found.adopted is not None:
        log.info("checkpoint %s is whole, and pairs.sqlite has its pairs but does not list it: going on from it", name)
    return found


def _found(name: str, keys: NDArray[np.int64], record: Any, listed: dict[str, _Listed], store: StoredPairs) -> Found:
    """Return the commit of a checkpoint, whose pairs are all in the store. record: from its state; None in earlier versions."""
    mine, present = listed.get(name), store.checksums(keys)
    if record is None:
        if mine is None:
            raise LearnerError(f"checkpoint {name} is one of an earlier version, and pairs.sqlite does not list it")
        _require_none(present < 0, name)
        return Found(mine.note, mine.commit.number, None)
    encoded = record["note"].encode()
    note, checksums = decode_note(encoded), np.asarray(record["checksums"], np.int64)
    if note.folder != name or note.pairs != checksum_of(keys, checksums):
        raise LearnerError(f"checkpoint {name} is that of another commit")
    if mine is not None and mine.note == note:
        _require_none(present < 0, name)
        return Found(note, mine.commit.number, None)
    if note.store != store.identity:
        raise LearnerError(f"checkpoint {name} belongs to another pairs.sqlite than the one beside it")
    _require_none(present != checksums, name)
    older = (other.commit.number for other in listed.values() if order_of(other.note.folder) < order_of(name))
    return Found(note, max(older, default=0), (keys, encoded))


def _require_none(missing: NDArray[np.bool_], name: str) -> None:
    """Raise LearnerError if any of the pairs of a checkpoint are missing, bool [n]."""
    if missing.any():
        raise LearnerError(f"{missing.sum()} of the {len(missing)} pairs of checkpoint {name} are not in pairs.sqlite")


def _foreign(what: str, error: Exception) -> LearnerError:
    reason = str(error).partition("\n")[0]
    return LearnerError(f"{what} was made by another version or on another --device ({reason})")


def _stored_pairs(store: StoredPairs, keys: list[int]) -> Iterator[EncodedPair | None]:
    """Yield the pairs of a commit, None in the place of one that is damaged."""
    damaged: list[Exception] = []
    for key in keys:
        pair = None
        try:
            (item,) = store.items([key])
            pair = unpack(item)
        except (StoreError, MalformedMessage) as error:
            damaged.append(error)
        yield pair
    if damaged:
        log.warning("%d remembered pairs are damaged and never used again, the first: %s", len(damaged), damaged[0])
