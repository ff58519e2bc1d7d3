"""Puts a learner back to the newest commit of its run that is whole."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import msgspec

from buffer.store_reader import Commit, StoreError
from learner.errors import LearnerError
from learner.loop import Learner
from learner.runs.commit import Checkpoints, Note, PairStore, StoredPairs, named_checkpoints, unpack
from stream.errors import MalformedMessage
from stream.pair import EncodedPair
from stream.source import Cursor

log = logging.getLogger(__name__)


def restore(learner: Learner, store: PairStore, checkpoints: Checkpoints) -> Cursor | None:
    """Put the learner back to its newest undamaged commit, and return the cursor of the source; None: there is no commit yet.

    Newer commits are removed, and so are checkpoints that no commit names. Raises LearnerError if all commits are damaged, or
    another version made them.
    """
    newest = load_newest(learner, store, checkpoints)
    if newest is not None:
        store.rewind(newest[0].number)
    checkpoints.keep_only(named_checkpoints(store))
    return None if newest is None else newest[1].cursor


def load_newest(learner: Learner, store: StoredPairs, checkpoints: Checkpoints) -> tuple[Commit, Note] | None:
    """Load the newest undamaged commit into the learner, and change nothing else; None: there is no commit yet.

    A damaged commit is logged. Raises LearnerError if all commits are damaged, or another version made them.
    """
    damaged: list[LearnerError] = []
    for commit in store.commits():
        try:
            note = _load(learner, commit, store, checkpoints)
        except LearnerError as error:
            damaged.append(error)
            continue
        for problem in damaged:
            log.warning("%s: going on from the commit before, at step %d", problem, learner.steps)
        return commit, note
    if damaged:
        raise LearnerError(f"{damaged[0]}, and there is no other commit that is whole: choose another --run-dir")
    return None


def _load(learner: Learner, commit: Commit, store: StoredPairs, checkpoints: Checkpoints) -> Note:
    try:
        note = msgspec.json.decode(commit.note, type=Note)
        learner.load_state_dict(checkpoints.load(note.folder), _stored_pairs(store, commit.keys.tolist()))
    except (LookupError, ValueError, RuntimeError, msgspec.MsgspecError) as error:
        reason = str(error).partition("\n")[0]
        raise LearnerError(
            f"commit {commit.number} was made by another version or on another --device ({reason})"
        ) from error
    return note


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
