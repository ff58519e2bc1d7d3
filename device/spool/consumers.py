"""Who pairs are kept for: each learner's name, how far it has made every epoch durable, and when it was last heard of.

One small JSON file with a checksum, replaced as a whole. Damaged or gone, it begins empty: pairs are then offered again,
and a learner drops what it has. A list that begins empty says nothing of learners that are not back yet, so nothing goes
on its word before they had the time to be heard of. A rig may have no clock of its own, so a silence that began in this
process is measured by the monotonic clock; the time of day only tells how long the rig was off.
"""

from __future__ import annotations

import logging
import os
import re
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec

from stream.fsync import sync_path
from stream.live.backfill_messages import MAX_EPOCHS, Epoch, Seq

MAX_CONSUMERS = 64
MAX_FILE_BYTES = 16 << 20
SAVE_INTERVAL_S = 3600.0
"""How old what the file says of silences may be; acknowledgements are saved at once."""
LOG_INTERVAL_S = 10.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

log = logging.getLogger(__name__)


class _KeptConsumer(msgspec.Struct, forbid_unknown_fields=True):
    heard_s: float
    upto: Annotated[dict[Epoch, Seq], msgspec.Meta(max_length=MAX_EPOCHS)]


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    crc: int
    complete: bool
    """Whether whoever is not in the list had the time to be heard of."""
    consumers: Annotated[dict[str, _KeptConsumer], msgspec.Meta(max_length=MAX_CONSUMERS)]


@dataclass(slots=True)
class _Consumer:
    heard_s: float
    """By the monotonic clock."""
    upto: dict[str, int] = field(default_factory=dict)


class Consumers:
    """The learners that pairs are kept for. Not thread-safe, but for `save`, which is slow: call it outside of any lock.

    path: of the file. clock: seconds, monotonic. wall: seconds since 1970. forget_after_s: of silence.
    grace_s: how long a list that begins empty, or was not complete, is not taken for complete.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        forget_after_s: float,
        grace_s: float,
    ) -> None:
        self._path, self._clock, self._wall, self._forget_after_s = path, clock, wall, forget_after_s
        self._logged_s = float("-inf")
        self._saved_s = clock()
        self._changed = False
        now_s, today_s = clock(), wall()
        complete, known = self._load()
        self._complete_s = float("-inf") if complete else now_s + grace_s
        self._known = {
            name: _Consumer(heard_s=now_s - max(0.0, today_s - kept.heard_s), upto=kept.upto)
            for name, kept in known.items()
        }

    def __len__(self) -> int:
        return len(self._known)

    def hear(self, name: str) -> bool:
        """Take note that a consumer is there; False where its name cannot be, or there are too many."""
        known = self._known.get(name)
        if known is None:
            if len(self._known) >= MAX_CONSUMERS or not _NAME.fullmatch(name):
                self._complain("no pairs are kept for learner %r: its name cannot be, or it is one too many", name)
                return False
            log.info("pairs are kept for learner %s", name)
            known = self._known[name] = _Consumer(heard_s=0.0)
            self._changed = True
        known.heard_s = self._clock()
        return True

    def acknowledge(self, name: str, upto: Mapping[str, int]) -> bool:
        """Everything below `upto[epoch]` is durable with a consumer; numbers never go back. False where nothing changed."""
        if not self.hear(name):
            return False
        kept = self._known[name].upto
        news = {epoch: seq for epoch, seq in upto.items() if seq > kept.get(epoch, 0)}
        kept.update(news)
        self._changed |= bool(news)
        return bool(news)

    def upto(self, epoch: str) -> int:
        """Below this number every consumer has every pair of an epoch; 0 where there is none."""
        return min((consumer.upto.get(epoch, 0) for consumer in self._known.values()), default=0)

    def may_go(self, epoch: str) -> int:
        """Below this number the pairs of an epoch may be deleted: nobody that is known, or may come back, lacks them."""
        return self.upto(epoch) if self._clock() >= self._complete_s else 0

    def heard_within(self, seconds: float) -> dict[str, Mapping[str, int]]:
        """How far those have come that were heard of lately, by name."""
        since_s = self._clock() - seconds
        return {name: consumer.upto for name, consumer in self._known.items() if consumer.heard_s >= since_s}

    def forget(self, epochs: Collection[str]) -> None:
        """Forget who was silent for too long, and every epoch that is not among these."""
        silent_s = self._clock() - self._forget_after_s
        for name in [name for name, consumer in self._known.items() if consumer.heard_s < silent_s]:
            log.warning("learner %s is forgotten: not heard of for %.1f days", name, self._forget_after_s / 86400)
            del self._known[name]
            self._changed = True
        for consumer in self._known.values():
            consumer.upto = {epoch: seq for epoch, seq in consumer.upto.items() if epoch in epochs}

    def to_save(self) -> bytes | None:
        """What `save` is to write; None where the file says it already."""
        now_s, today_s = self._clock(), self._wall()
        if not self._changed and now_s - self._saved_s < SAVE_INTERVAL_S:
            return None
        self._changed, self._saved_s = False, now_s
        consumers = {
            name: _KeptConsumer(heard_s=today_s - (now_s - consumer.heard_s), upto=consumer.upto)
            for name, consumer in self._known.items()
        }
        complete = now_s >= self._complete_s
        return msgspec.json.encode(_Kept(_crc(complete, consumers), complete, consumers))

    def save(self, data: bytes) -> None:
        """Replace the file; where the disk refuses, the old one stays and pairs are offered once more. Touches nothing else."""
        new = self._path.with_name(f"{self._path.name}.new")
        try:
            with new.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
            sync_path(self._path.parent)
        except OSError as error:
            self._complain("%s could not be saved: %s", self._path, error)

    def _load(self) -> tuple[bool, dict[str, _KeptConsumer]]:
        """Whether the list is complete, and who is in it."""
        try:
            if self._path.stat().st_size > MAX_FILE_BYTES:
                raise ValueError("it is too large")
            kept = msgspec.json.decode(self._path.read_bytes(), type=_Kept)
            if kept.crc != _crc(kept.complete, kept.consumers) or not all(
                _NAME.fullmatch(name) for name in kept.consumers
            ):
                raise ValueError("its checksum differs")
        except FileNotFoundError:
            return False, {}
        except (ValueError, OSError, msgspec.MsgspecError, RecursionError) as error:
            log.warning(
                "%s is damaged (%s): it begins anew, and learners are offered again what they have", self._path, error
            )
            return False, {}
        return kept.complete, kept.consumers

    def _complain(self, text: str, *values: object) -> None:
        now_s = self._clock()
        if now_s - self._logged_s >= LOG_INTERVAL_S:
            self._logged_s = now_s
            log.warning(text, *values)


def _crc(complete: bool, consumers: Mapping[str, _KeptConsumer]) -> int:
    return zlib.crc32(msgspec.json.encode((complete, consumers)))
