"""A learner that trains under a committer, and a source that remembers what was acknowledged."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tiny_learner import TINY, make_pairs, tiny_learner

from buffer.patience import Patience
from buffer.store import Store
from learner.config import LearnerConfig
from learner.loop import Learner, learn
from learner.metrics import LearnerMetrics
from learner.runs.checkpoint import CheckpointFolder
from learner.runs.commit import Committer
from learner.runs.folder import RunDirectory
from learner.runs.restore import restore
from stream.pair import EncodedPair
from stream.source import Cursor, IteratorSource


class Acknowledging(IteratorSource):
    """Remembers what was acknowledged."""

    def __init__(self, pairs: list[EncodedPair], cursor: Cursor | None = None) -> None:
        super().__init__(pairs, cursor=cursor)
        self.acknowledged: list[int] = []

    def acknowledge(self, cursor: Cursor) -> None:
        self.acknowledged.append(cursor["given"])


@dataclass
class Run:
    """A learner that trains under a committer."""

    learner: Learner
    source: Acknowledging
    store: Store
    folder: Path
    committer: Committer
    writer: ThreadPoolExecutor
    metrics: LearnerMetrics

    def train(self, steps: int) -> None:
        goal = self.learner.steps + steps
        events = learn(self.learner, self.source, clock=time.monotonic, keep=self.committer.keep)
        while self.learner.steps < goal and next(events, None) is not None:
            pass

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@contextmanager
def run(
    path: Path,
    pairs: Sequence[EncodedPair] | None = None,
    patience_s: float | None = None,
    config: LearnerConfig = TINY,
) -> Iterator[Run]:
    """Opened, and where its last commit stood."""
    directory, learner, metrics = RunDirectory(path, config), tiny_learner(config), LearnerMetrics()
    patience = Patience(patience_s)
    checkpoints = CheckpointFolder(directory.checkpoints, patience)
    with Store(directory.store, patience=patience) as store, ThreadPoolExecutor(1) as writer:
        cursor = restore(learner, store, checkpoints, directory.require_new)
        source, folder = Acknowledging([*(make_pairs(60) if pairs is None else pairs)], cursor), directory.checkpoints
        with closing(
            Committer(
                learner,
                source,
                store,
                checkpoints,
                clock=time.monotonic,
                patience=patience,
                writer=writer,
                on_pause=metrics.pause_seconds.observe,
                on_commit=metrics.committed,
            )
        ) as committer:
            yield Run(learner, source, store, folder, committer, writer, metrics)
