"""Commits: one instant of the learner made durable, while it goes on training.

The state is copied between two steps, with the place in the stream. Beside training it is then written to a folder
(`learner.runs.checkpoint`), and one transaction of the store makes the pairs, the place and the pointer to that folder the newest
commit. Only then the source hears that it may forget. Killed anywhere, a learner is at its newest commit again: a folder that
no commit names is none. Where the newest folder is damaged, the commit before counts.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

import msgspec
import numpy as np
import torch
from torch import Tensor

from buffer.store import Commit, Store, StoreError, StoreReader
from learner.errors import LearnerError
from learner.loop import Learner
from learner.metrics import LearnerMetrics
from learner.runs.checkpoint import NoRoom, load_checkpoint, save_checkpoint
from stream import codec
from stream.errors import MalformedMessage
from stream.fsync import sync_path
from stream.pair import EncodedPair
from stream.source import Cursor, Source

log = logging.getLogger(__name__)


TELL_S = 1.0
"""How often whoever waits for a full disk is asked whether to go on."""


class Note(msgspec.Struct, frozen=True):
    """What a commit says beside its pairs."""

    folder: Annotated[str, msgspec.Meta(pattern=r"^commit-[0-9]{6,18}-step-[0-9]{1,18}\Z")]
    """Of the state, among the run's checkpoints."""
    cursor: Cursor
    """Which pairs the source had given."""


class Committer:
    """Commits a learner and acknowledges to its source; driven by the training thread, between two steps. Context manager.

    folder: of the states. One commit is in flight at a time. publish: given each state that has become durable, in the writer's
    thread, before another is copied.
    """

    def __init__(
        self,
        learner: Learner,
        source: Source,
        store: Store,
        folder: Path,
        *,
        clock: Callable[[], float],
        metrics: LearnerMetrics,
        publish: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._learner = learner
        self._source = source
        self._store = store
        self._folder = folder
        self._clock = clock
        self._metrics = metrics
        self._publish = publish
        self._number = max((commit.number for commit in store.commits()), default=0)
        self._copies: dict[str, Tensor] = {}
        _copied(learner.state_dict(), self._copies)  # memory is found for the copy now, not while training stops
        self._started_s = 0.0
        self._flight: Future[Note] | None = None
        self._publishing: Future[None] | None = None
        self._writer = ThreadPoolExecutor(1, "commit")

    @property
    def in_flight(self) -> bool:
        """Whether a commit was begun that is not settled, or its state still being published."""
        return self._flight is not None or (self._publishing is not None and not self._publishing.done())

    def keep(self, key: int, pair: EncodedPair, tell: Callable[[], bool] = lambda: True) -> None:
        """Store a pair that went into memory. Raises StoreError once the store cannot be written.

        tell: asked each second while the store takes no more, its disk being full; False: wait no longer.
        """
        item = pack(pair)
        while not self._store.put(key, item, timeout_s=TELL_S):
            if not tell():
                self._store.lose_patience()

    def begin(self) -> None:
        """Copy the state; everything else happens beside training. Only while no commit is in flight."""
        if self._publishing is not None:
            self._publishing.result()  # its state is about to be written over
        self._started_s = self._clock()
        self._number += 1
        state = _copied(self._learner.state_dict(), self._copies)
        note = Note(f"commit-{self._number:06d}-step-{self._learner.steps}", self._source.cursor())
        self._flight = flight = self._writer.submit(self._write, note, state)
        self._publishing = self._writer.submit(self._publish_durable, flight, state)
        self._metrics.pause_seconds.observe(self._clock() - self._started_s)

    def settle(self, *, wait: bool = False) -> None:
        """Acknowledge the commit in flight, if there is one and it is durable, or once it is. Raises what ended it."""
        flight = self._flight
        if flight is None or not (wait or flight.done()):
            return
        self._flight = None
        note = flight.result()
        self._metrics.committed(self._clock() - self._started_s)
        self._source.acknowledge(note.cursor)

    def finish(self) -> None:
        """Commit the present state, and return once it is durable, acknowledged and published. Raises what ended it.

        A full disk is not waited for here: whoever ends the run would wait too.
        """
        self._store.lose_patience()
        self.settle(wait=True)
        self.begin()
        self.settle(wait=True)
        if self._publishing is not None:
            self._publishing.result()

    def close(self) -> None:
        """Let the commit in flight end; idempotent."""
        self._store.lose_patience()
        self._writer.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, note: Note, state: dict[str, Any]) -> Note:
        """In the writer's thread: first the folder, then the commit that names it."""
        if not self._folder.is_dir():
            self._folder.mkdir()
            sync_path(self._folder.parent)
        self._save(self._folder / note.folder, state)
        self._store.commit(state["memory"]["keys"], msgspec.json.encode(note)).result()
        _sweep(self._store, self._folder)
        return note

    def _save(self, path: Path, state: dict[str, Any]) -> None:
        """Once there is room for it."""
        while True:
            try:
                save_checkpoint(path, state)
                return
            except NoRoom as problem:
                if not self._store.room_awaited(problem):
                    raise

    def _publish_durable(self, flight: Future[Note], state: dict[str, Any]) -> None:
        """In the writer's thread, behind its commit, which `settle` acknowledges meanwhile."""
        if flight.exception() is None:
            self._publish(state)


def restore(learner: Learner, store: Store, folder: Path) -> Cursor | None:
    """Put the learner back to the newest commit that is whole, and return its place in the stream; None: there is none yet.

    A damaged commit is said and dropped. Raises LearnerError where none is whole, or another version made them.
    """
    found = read(learner, store, folder)
    if found is not None:
        store.rewind(found[0].number)
    _sweep(store, folder)
    return found[1].cursor if found is not None else None


def read(learner: Learner, store: StoreReader, folder: Path) -> tuple[Commit, Note] | None:
    """Put the learner to the newest commit that is whole, and change nothing there; None: there is none yet.

    A damaged commit is said. Raises LearnerError where none is whole, or another version made them.
    """
    damaged: list[LearnerError] = []
    for commit in store.commits():
        try:
            note = _load(learner, commit, store, folder)
        except LearnerError as error:
            damaged.append(error)
            continue
        for problem in damaged:
            log.warning("%s: going on from the commit before, at step %d", problem, learner.steps)
        return commit, note
    if damaged:
        raise LearnerError(f"{damaged[0]}, and there is no other commit that is whole: choose another --run-dir")
    return None


def pack(pair: EncodedPair) -> bytes:
    """A pair as the store keeps it: the parts of its message, without the topic, as msgpack."""
    return msgspec.msgpack.encode(codec.to_parts(pair)[1:])


def unpack(item: bytes) -> EncodedPair:
    """The pair in an item; raises MalformedMessage."""
    try:
        parts = msgspec.msgpack.decode(item, type=list[bytes])
    except msgspec.MsgspecError as error:
        raise MalformedMessage("parts", str(error)) from error
    return codec.from_parts([codec.TOPIC, *parts])


def _load(learner: Learner, commit: Commit, store: StoreReader, folder: Path) -> Note:
    try:
        note = msgspec.json.decode(commit.note, type=Note)
        state = load_checkpoint(folder / note.folder)
        learner.load_state_dict(state, _pairs(store, commit.keys.tolist()))
    except (LookupError, ValueError, RuntimeError, msgspec.MsgspecError) as error:
        reason = str(error).partition("\n")[0]
        raise LearnerError(
            f"commit {commit.number} was made by another version or on another --device ({reason})"
        ) from error
    return note


def _pairs(store: StoreReader, keys: list[int]) -> Iterator[EncodedPair | None]:
    """The pairs of a commit; None in the place of one that is damaged."""
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


def _sweep(store: Store, folder: Path) -> None:
    """Remove the folders that no commit names."""
    named = {msgspec.json.decode(commit.note, type=Note).folder for commit in store.commits()}
    for path in folder.glob("commit-*"):
        if path.name not in named:
            shutil.rmtree(path)


def _copied(value: Any, copies: dict[str, Tensor], path: str = "") -> Any:
    """A nested state that no step changes, its tensors in the `copies` of the last time: a third of the time of new ones."""
    if isinstance(value, Tensor):
        copy = copies.get(path)
        if copy is None or copy.shape != value.shape or copy.dtype != value.dtype:
            copy = copies[path] = torch.empty_like(value, device="cpu", requires_grad=False)
        return copy.copy_(value.detach())
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: _copied(item, copies, f"{path}/{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copied(item, copies, f"{path}/{index}") for index, item in enumerate(value)]
    return value
