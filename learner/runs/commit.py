"""Commits make one moment of the learner durable, while it goes on training.

Between two steps the state is copied, together with the cursor of the source. Beside training the pairs become durable. The state
is then saved as a checkpoint, with all that is needed to go on from it: the keys of its pairs, their checksums, the cursor, and
the store they are in. One transaction of the store makes the pairs, the cursor and the name of that checkpoint the newest commit.
It is read back, and only then the pairs are acknowledged to the source, and the checkpoints that it replaces are removed.

The rules here touch no file, thread or clock themselves: store, checkpoints, writer and clock are passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Protocol

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from buffer.patience import Patience
from buffer.store_reader import Commit, StoreError
from learner.loop import Learner
from learner.memory.holdout import stored_keys
from learner.runs.checkpoint import order_of
from learner.runs.note import COMMIT, Note, checksum_of, decode_note
from stream import codec
from stream.errors import MalformedMessage
from stream.pair import EncodedPair
from stream.source import Cursor, Source

ASK_S = 1.0
"""Seconds between two calls that ask the caller whether to go on waiting for a full disk."""


class StoredPairs(Protocol):
    """The methods of `buffer.store.StoreReader` that a restore uses."""

    @property
    def identity(self) -> str:
        """The name of the store."""

    @property
    def is_new(self) -> bool:
        """Whether the store does not exist yet."""

    def commits(self) -> Sequence[Commit]:
        """Return the commits that can be restored, newest first."""

    def checksums(self, keys: Any) -> NDArray[np.int64]:
        """Return the checksums of the items of these keys, int64 [n]; -1 for one that is missing."""

    def items(self, keys: Any) -> Iterator[bytes]:
        """Yield the items of these keys."""


class PairStore(StoredPairs, Protocol):
    """The methods of `buffer.store.Store` that a commit uses."""

    def put(self, key: int, item: bytes, timeout_s: float | None = None) -> bool:
        """Queue an item."""

    def flush(self) -> Future[None]:
        """Make all items put so far durable."""

    def commit(self, keys: Any, note: bytes) -> Future[None]:
        """Make keys and note the newest commit."""

    def rewind(self, number: int, adopted: tuple[Any, bytes] | None = None) -> None:
        """Go back to this commit, on which the keys and note `adopted` follow."""


class Checkpoints(Protocol):
    """The methods of `learner.runs.checkpoint.CheckpointFolder` that commits use."""

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Write a new checkpoint."""

    def load(self, name: str) -> dict[str, Any]:
        """Return the state of a checkpoint."""

    def names(self) -> set[str]:
        """Return the names of all checkpoints, damaged ones included."""

    def is_taken(self, number: int) -> bool:
        """Return whether the name of a checkpoint of this number is in use."""

    def is_whole(self, name: str) -> bool:
        """Return whether all files of a checkpoint are undamaged."""

    def is_unfinished(self, name: str) -> bool:
        """Return whether a process was killed while it wrote this checkpoint."""

    def remove(self, name: str) -> None:
        """Remove a checkpoint, if it is there."""


def _ignore(_value: Any) -> None:
    """Ignore the value: nobody observes it."""


@dataclass(eq=False)
class Committer:
    """Commits a learner and acknowledges to its source. The training thread calls it between two steps, and closes it.

    One commit is in flight at a time. The store must be at the commit from which the learner goes on.
    """

    learner: Learner
    source: Source
    store: PairStore
    checkpoints: Checkpoints
    _: KW_ONLY
    clock: Callable[[], float]
    """Returns seconds, monotonic."""
    patience: Patience = field(default_factory=Patience)
    """The same as that of store and checkpoints: it decides how long they wait for a full disk."""
    writer: Executor = field(default_factory=lambda: ThreadPoolExecutor(1, "commit"))
    """Carries out its tasks one after the other. The committer closes it."""
    publish: Callable[[Mapping[str, Any]], None] = _ignore
    """The writer calls it with each state that has become durable, before the next one is copied."""
    on_pause: Callable[[float], None] = _ignore
    """Receives the seconds for which a commit has stopped training."""
    on_commit: Callable[[float], None] = _ignore
    """Receives the seconds from the beginning of a commit until it was durable."""

    def __post_init__(self) -> None:
        notes = _notes(self.store.commits())
        newest = max((order_of(note.folder) for note in notes), default=(0, 0))
        passed_over = {name for name in self.checkpoints.names() if order_of(name) > newest}
        self._damaged = {name for name in passed_over if not self.checkpoints.is_whole(name)}
        # The whole ones stay: their pairs may be found again. New commits get higher numbers than they have.
        self._number = max((order_of(name)[0] for name in passed_over - self._damaged), default=newest[0])
        self._mine = {note.folder for note in notes}.union(*(note.replaces for note in notes[:1]))
        self._copies: dict[str, Tensor] = {}
        copy_state(self.learner.state_dict(), self._copies)  # finds memory for the copies now, not while training stops
        self._started_s = 0.0
        self._flight: Future[Note] | None = None
        self._publishing: Future[None] | None = None
        self._cursor: Cursor | None = None  # of the last commit that was acknowledged

    @property
    def in_flight(self) -> bool:
        """Whether a commit was begun that is not settled, or its state is still being published."""
        return self._flight is not None or (self._publishing is not None and not self._publishing.done())

    def keep(self, key: int, pair: EncodedPair, go_on: Callable[[], bool] = lambda: True) -> None:
        """Store a pair that went into memory. Raises StoreError once the store cannot be written.

        go_on: called each second while the disk is full and the store accepts no pair; False ends the waiting.
        """
        item = pack(pair)
        while not self.store.put(key, item, timeout_s=ASK_S):
            if not go_on():
                self.patience.end()

    def begin(self, cursor: Cursor | None = None) -> None:
        """Copy the state; everything else happens beside training. Call it only while no commit is in flight.

        cursor: None: that of the source.
        """
        flight, state = self._launch(cursor)
        self._publishing = self.writer.submit(self._publish_durable, flight, state)
        self.on_pause(self.clock() - self._started_s)

    def begin_run(self, go_on: Callable[[], bool]) -> None:
        """Make the first commit of a new run durable, before anything else is written about the run. Its state is not published.

        So lines of steps or weights without a commit mean that something was lost. go_on: called each second;
        False ends the waiting for a full disk. Raises the error that ended the commit.
        """
        if self._mine:
            return
        flight, _ = self._launch()
        while not wait([flight], ASK_S).done:
            if not go_on():
                self.patience.end()
        self._settled()

    def settle(self, *, wait: bool = False) -> None:
        """Acknowledge the commit in flight if it is durable; `wait` until it is. Raises the error that ended it."""
        if self._flight is not None and (wait or self._flight.done()):
            self._cursor = self._settled().cursor
            self.source.acknowledge(self._cursor)

    def finish(self) -> None:
        """Commit the present state, and return once it is durable, acknowledged and published. Raises the error that ended it.

        It does not wait for a full disk, because the person who ends the run would wait too.
        """
        self.patience.end()
        self.settle(wait=True)
        self.begin()
        self.settle(wait=True)
        if self._publishing is not None:
            self._publishing.result()

    def amend(self) -> None:
        """Commit, after `finish`, what was found out since then. The source may be closed: it has nothing to acknowledge."""
        self.begin(self._cursor)
        self._settled()
        if self._publishing is not None:
            self._publishing.result()

    def close(self) -> None:
        """Let the commit in flight end; idempotent."""
        self.patience.end()
        self.writer.shutdown()

    def _settled(self) -> Note:
        """Return the note of the commit in flight, once it is durable. Raises the error that ended it."""
        assert self._flight is not None
        flight, self._flight = self._flight, None
        note = flight.result()
        self.on_commit(self.clock() - self._started_s)
        return note

    def _launch(self, cursor: Cursor | None = None) -> tuple[Future[Note], dict[str, Any]]:
        """Copy the state and the cursor, and let the writer commit them."""
        if self._publishing is not None:
            self._publishing.result()  # its state is about to be overwritten
        self._started_s = self.clock()
        self._number += 1
        while self.checkpoints.is_taken(self._number):
            self._number += 1
        state = copy_state(self.learner.state_dict(), self._copies)
        folder = f"commit-{self._number:06d}-step-{self.learner.steps}"
        self._flight = self.writer.submit(self._write, folder, cursor or self.source.cursor(), state)
        return self._flight, state

    def _write(self, folder: str, cursor: Cursor, state: dict[str, Any]) -> Note:
        """In the writer: make the pairs durable, then the checkpoint, then the commit; read it back, remove what it replaces."""
        self.store.flush().result()  # a whole checkpoint can then be continued from, whatever ends the process now
        keys = stored_keys(state)
        checksums = self.store.checksums(keys)
        pairs = checksum_of(keys, checksums)
        note = Note(folder, cursor, self.store.identity, pairs, tuple(sorted(self._mine)))
        encoded = msgspec.json.encode(note)
        self.checkpoints.save(folder, state | {COMMIT: {"note": encoded.decode(), "checksums": checksums}})
        self.store.commit(keys, encoded).result()
        commits = self.store.commits()
        if not commits or commits[0].note != encoded:
            raise StoreError(
                f"the commit of {folder} cannot be read back from pairs.sqlite: was it replaced? Start again"
            )
        named = {note.folder for note in _notes(commits)}
        for name in self._mine - named | self._damaged:
            self.checkpoints.remove(name)
        self._mine, self._damaged = named, set()
        return note

    def _publish_durable(self, flight: Future[Note], state: dict[str, Any]) -> None:
        """In the writer, after the commit, which `settle` may acknowledge at the same time."""
        if flight.exception() is None:
            self.publish(state)


def _notes(commits: Sequence[Commit]) -> list[Note]:
    """Return the notes of commits; those of another version are left out."""
    notes = []
    for commit in commits:
        with suppress(msgspec.MsgspecError):
            notes.append(decode_note(commit.note))
    return notes


def pack(pair: EncodedPair) -> bytes:
    """Return a pair as the store keeps it: the parts of its message, without the topic, as msgpack."""
    return msgspec.msgpack.encode(codec.to_parts(pair)[1:])


def unpack(item: bytes) -> EncodedPair:
    """Return the pair in an item of the store. Raises MalformedMessage."""
    try:
        parts = msgspec.msgpack.decode(item, type=list[bytes])
    except msgspec.MsgspecError as error:
        raise MalformedMessage("parts", str(error)) from error
    return codec.from_parts([codec.TOPIC, *parts])


def copy_state(value: Any, copies: dict[str, Tensor], path: str = "") -> Any:
    """Copy a nested state, so that no step changes the copy.

    copies: the tensors of the last copy, which are overwritten: that takes a third of the time of allocating new ones.
    """
    if isinstance(value, Tensor):
        copy = copies.get(path)
        if copy is None or copy.shape != value.shape or copy.dtype != value.dtype:
            copy = copies[path] = torch.empty_like(value, device="cpu", requires_grad=False)
        return copy.copy_(value.detach())
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: copy_state(item, copies, f"{path}/{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [copy_state(item, copies, f"{path}/{index}") for index, item in enumerate(value)]
    return value
