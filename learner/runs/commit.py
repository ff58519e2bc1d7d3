"""Commits make one moment of the learner durable, while it goes on training.

Between two steps the state is copied, together with the cursor of the source. Beside training it is then saved as a checkpoint,
and one transaction of the store makes the pairs, the cursor and the name of that checkpoint the newest commit. Only after that
the pairs are acknowledged to the source. A learner that is killed at any moment goes on from its newest commit: a checkpoint
that no commit names does not count. Where the newest checkpoint is damaged, the commit before counts.

The rules here touch no file, thread or clock themselves: store, checkpoints, writer and clock are passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field
from typing import Annotated, Any, Protocol

import msgspec
import numpy as np
import torch
from torch import Tensor

from buffer.patience import Patience
from buffer.store_reader import Commit
from learner.loop import Learner
from stream import codec
from stream.errors import MalformedMessage
from stream.pair import EncodedPair
from stream.source import Cursor, Source

ASK_S = 1.0
"""Seconds between two calls that ask the caller whether to go on waiting for a full disk."""


class StoredPairs(Protocol):
    """The methods of `buffer.store.StoreReader` that a restore uses."""

    def commits(self) -> Sequence[Commit]:
        """Return the commits that can be restored, newest first."""

    def items(self, keys: Any) -> Iterator[bytes]:
        """Yield the items of these keys."""


class PairStore(StoredPairs, Protocol):
    """The methods of `buffer.store.Store` that a commit uses."""

    def put(self, key: int, item: bytes, timeout_s: float | None = None) -> bool:
        """Queue an item."""

    def commit(self, keys: Any, note: bytes) -> Future[None]:
        """Make keys and note the newest commit."""

    def rewind(self, number: int) -> None:
        """Go back to this commit."""


class Checkpoints(Protocol):
    """The methods of `learner.runs.checkpoint.CheckpointFolder` that commits use."""

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Write a new checkpoint."""

    def load(self, name: str) -> dict[str, Any]:
        """Return the state of a checkpoint."""

    def keep_only(self, names: set[str]) -> None:
        """Remove all other checkpoints."""


class Note(msgspec.Struct, frozen=True):
    """The part of a commit beside its pairs."""

    folder: Annotated[str, msgspec.Meta(pattern=r"^commit-[0-9]{6,18}-step-[0-9]{1,18}\Z")]
    """The name of its checkpoint."""
    cursor: Cursor
    """The state of the source: the pairs that the learner had received."""


def _ignore(_value: Any) -> None:
    """Ignore the value: nobody observes it."""


@dataclass(eq=False)
class Committer:
    """Commits a learner and acknowledges to its source. The training thread calls it between two steps, and closes it.

    One commit is in flight at a time.
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
        self._number = max((commit.number for commit in self.store.commits()), default=0)
        self._copies: dict[str, Tensor] = {}
        copy_state(self.learner.state_dict(), self._copies)  # finds memory for the copies now, not while training stops
        self._started_s = 0.0
        self._flight: Future[Note] | None = None
        self._publishing: Future[None] | None = None

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

    def begin(self) -> None:
        """Copy the state; everything else happens beside training. Call it only while no commit is in flight."""
        if self._publishing is not None:
            self._publishing.result()  # its state is about to be overwritten
        self._started_s = self.clock()
        self._number += 1
        state = copy_state(self.learner.state_dict(), self._copies)
        note = Note(f"commit-{self._number:06d}-step-{self.learner.steps}", self.source.cursor())
        self._flight = flight = self.writer.submit(self._write, note, state)
        self._publishing = self.writer.submit(self._publish_durable, flight, state)
        self.on_pause(self.clock() - self._started_s)

    def settle(self, *, wait: bool = False) -> None:
        """Acknowledge the commit in flight if it is durable; `wait` until it is. Raises the error that ended it."""
        flight = self._flight
        if flight is None or not (wait or flight.done()):
            return
        self._flight = None
        note = flight.result()
        self.on_commit(self.clock() - self._started_s)
        self.source.acknowledge(note.cursor)

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

    def close(self) -> None:
        """Let the commit in flight end; idempotent."""
        self.patience.end()
        self.writer.shutdown()

    def _write(self, note: Note, state: dict[str, Any]) -> Note:
        """In the writer: save the checkpoint first, then make the commit that names it."""
        self.checkpoints.save(note.folder, state)
        self.store.commit(state["memory"]["keys"], msgspec.json.encode(note)).result()
        self.checkpoints.keep_only(named_checkpoints(self.store))
        return note

    def _publish_durable(self, flight: Future[Note], state: dict[str, Any]) -> None:
        """In the writer, after the commit, which `settle` may acknowledge at the same time."""
        if flight.exception() is None:
            self.publish(state)


def named_checkpoints(store: StoredPairs) -> set[str]:
    """Return the names of the checkpoints that a commit names."""
    return {msgspec.json.decode(commit.note, type=Note).folder for commit in store.commits()}


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
