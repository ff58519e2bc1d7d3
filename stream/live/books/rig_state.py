"""What a rig shows of itself beside its pairs: whether it sends live, its clock, its vitals. Pure."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

from stream.live.backfill_messages import SpansReply, Vitals
from stream.pair import Header

SETTLED_S = 0.3
"""Seconds without a live pair before pairs beyond the last live one are pulled: until then they may be on their way."""
_EPOCHS_KEPT = 4

log = logging.getLogger(__name__)


class RigState:
    """The present state of the rig with the name of a device; it also notices that two rigs have this name.

    Times are seconds of the consumer's monotonic clock.
    """

    def __init__(self) -> None:
        self._newest: Header | None = None
        self._last_live_s: float | None = None
        self._last_heard_s: float | None = None
        self._clock: tuple[int, int] | None = None
        self._vitals = Vitals()
        self._published, self._spooled = deque[str](maxlen=_EPOCHS_KEPT), deque[str](maxlen=_EPOCHS_KEPT)
        self._name_is_shared = False

    def see_pair(self, header: Header, now_s: float) -> bool:
        """Note the newest live pair; return whether the rig's clock was set back between it and the one before."""
        newest = self._newest
        stepped = (
            newest is not None
            and (newest.epoch, newest.seq + 1) == (header.epoch, header.seq)
            and header.left_ns < newest.left_ns
        )
        self._newest, self._last_live_s = header, now_s
        self.hear(now_s)
        self.see_published(header.epoch, header.device)
        return stepped

    def hear(self, now_s: float) -> None:
        """Note a sign of life."""
        self._last_heard_s = now_s if self._last_heard_s is None else max(self._last_heard_s, now_s)

    def see_published(self, epoch: str, name: str) -> None:
        """Note the epoch that is published now. name: of the device."""
        self._notice_return(self._published, epoch, name)

    def see_spooled(self, epoch: str, name: str) -> None:
        """Note the newest epoch that the spool has named. name: of the device."""
        self._notice_return(self._spooled, epoch, name)

    def read(self, reply: SpansReply, answered_ns: int) -> None:
        """Note the clock and the vitals of the rig. answered_ns: when the reply was received, nanoseconds since 1970."""
        self._clock = (reply.now_ns - (reply.asked_ns + answered_ns) // 2, max(0, answered_ns - reply.asked_ns) // 2)
        self._vitals = reply.vitals

    def is_flowing(self, now_s: float) -> bool:
        """Return whether live pairs come at this moment."""
        return self._last_live_s is not None and now_s - self._last_live_s < SETTLED_S

    def stats(self) -> dict[str, Any]:
        """Return its part of the fields of `DeviceStats`."""
        offset_ns, error_ns = self._clock or (None, None)
        return {
            "clock_offset_ns": offset_ns,
            "clock_error_ns": error_ns,
            "battery": self._vitals.battery,
            "temperature_c": self._vitals.temperature_c,
            "last_received_s": self._last_live_s,
            "last_heard_s": self._last_heard_s,
        }

    def _notice_return(self, epochs: deque[str], epoch: str, name: str) -> None:
        """Note the newest epoch. A rig that starts again never returns to an old one; two of one name do."""
        if epochs and epochs[-1] == epoch:
            return
        if epoch in epochs and not self._name_is_shared:
            self._name_is_shared = True
            log.warning("two devices are named %s: give each a --name of its own", name)
        epochs.append(epoch)
