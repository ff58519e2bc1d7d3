"""The two threads of a spool: one makes appended pairs survive a power cut, one seals full segments."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from device.spool.folder import SpoolFolder
from device.spool.rules import SpoolRules
from device.spool.segment import Segment, State
from device.spool.segment_file import SegmentFile, is_disk_full

SYNC_S = 0.5
SYNC_PAIRS = 16
"""Number of pairs after which a file is synced. A power cut can lose the last 16 pairs, or those of half a second, and those
appended during the sync."""
SEAL_RETRY_S = 30.0
"""Seconds until the next attempt, after the disk had no room for a sealed segment."""


class SyncThread:
    """Syncs files after every few pairs; no pair waits for longer than half a second.

    files: to be synced first. clock: monotonic seconds. on_sync: called by this thread with the seconds that each sync took.
    on_error: called with a file that could not be synced, and the error. on_idle: called after each round of syncs.
    """

    def __init__(
        self,
        files: Iterable[SegmentFile],
        *,
        clock: Callable[[], float],
        on_sync: Callable[[float], None],
        on_error: Callable[[SegmentFile, OSError], None],
        on_idle: Callable[[], None],
    ) -> None:
        self._clock, self._on_sync, self._on_error, self._on_idle = clock, on_sync, on_error, on_idle
        self._waiting = list(files)  # one entry for each pair
        self._closing = False
        self._changed = threading.Condition()  # guards _waiting and _closing
        self._thread = threading.Thread(target=self._run, name="spool-sync", daemon=True)
        self._thread.start()

    def add(self, file: SegmentFile) -> None:
        """Note that a pair was appended to this file."""
        with self._changed:
            self._waiting.append(file)
            self._changed.notify()

    def close(self) -> None:
        """Sync all files that wait, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        closing = False
        while not closing:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                self._changed.wait_for(lambda: len(self._waiting) >= SYNC_PAIRS or self._closing, SYNC_S)
                files, self._waiting = dict.fromkeys(self._waiting), []
                closing = self._closing
            for file in files:
                self._sync(file)
            self._on_idle()

    def _sync(self, file: SegmentFile) -> None:
        started_s = self._clock()
        try:
            file.sync()
        except OSError as error:
            self._on_error(file, error)
        self._on_sync(self._clock() - started_s)


class SealThread:
    """Seals full segments when the rules demand it, and closes the files of deleted ones.

    changed: guards rules and files, and is notified when they change.
    on_error: called without the lock, with the path of a file that could not be sealed, and the error.
    """

    def __init__(
        self,
        rules: SpoolRules,
        files: SpoolFolder,
        *,
        changed: threading.Condition,
        on_error: Callable[[Path, Exception], None],
    ) -> None:
        self._rules, self._files, self._changed, self._on_error = rules, files, changed, on_error
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="spool-seal", daemon=True)
        self._thread.start()

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until nothing is left to seal or to close; return whether this happened within `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._has_work(), timeout_s)

    def close(self) -> None:
        """End the thread once the present segment is done."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def seal(self, segment: Segment) -> bool:
        """Seal a segment; return False if the disk is full, so that a later attempt may succeed."""
        with self._changed:
            file = self._files.files.get(segment)
        if file is None:
            return True
        state = State.SEALED
        try:
            file.seal(segment.end)
        except (sqlite3.Error, OSError) as error:
            if segment.state is not State.DELETED:
                self._on_error(file.path, error)
            if is_disk_full(error) and segment.state is not State.DELETED:
                return False
            state = State.UNSEALABLE
        with self._changed:
            self._rules.sealed(segment, state, file.size())
            self._changed.notify_all()
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._has_work())
                if self._closing:
                    return
                deleted, segment = self._files.to_close[:], self._rules.next_to_seal()
            for file in deleted:
                file.close()
            with self._changed:
                del self._files.to_close[: len(deleted)]
                self._changed.notify_all()
            if segment is not None and not self.seal(segment):
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, SEAL_RETRY_S)

    def _has_work(self) -> bool:
        return bool(self._files.to_close) or self._rules.next_to_seal() is not None
