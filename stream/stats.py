"""The statistics of a source that receives pairs from devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class DeviceStats:
    """One device as its consumer knows it. The counts go on over epochs and over restarts of the consumer."""

    epoch: str
    """The newest one."""
    next_seq: int
    """One past the newest pair that the device is known to have made in that epoch."""
    received: int = 0
    lost: int = 0
    """Pairs that will never be received: dropped where there is no spool, evicted from the spool, or damaged in it."""
    returned: int = 0
    """Pairs that were counted as lost first and received later."""
    pending: int = 0
    """Pairs that are missing and can still be pulled from the spool."""
    repeated: int = 0
    """Pairs that were received again, and dropped."""
    suppressed: int = 0
    junk: int = 0
    clock_steps: int = 0
    """How often the clock of the device went back between two pairs."""
    clock_offset_ns: int | None = None
    """The clock of the device minus ours; None without a spool, which is what we ask."""
    clock_error_ns: int | None = None
    """Bound of the error of clock_offset_ns: half the time that the question took."""
    battery: float | None = None
    """Last reported charge, 0 to 1; None where the device has no battery, or no spool to ask."""
    temperature_c: float | None = None
    """Last reported temperature of its hottest sensor in degrees Celsius; None likewise."""
    ended: bool = False
    """The device has announced the end of its stream, and no pair of it is missing."""
    last_received_s: float | None = None
    """When its last live pair was received, by the clock of the source; None before the first."""


@dataclass(frozen=True, slots=True)
class SourceStats:
    """All devices of a source. `bytes` and `malformed` count in this process, all else over restarts of the consumer."""

    received: int = 0
    bytes: int = 0
    """Encoded images of the received pairs."""
    lost: int = 0
    pending: int = 0
    repeated: int = 0
    malformed: Mapping[str, int] = field(default_factory=dict)
    """Messages that were dropped, by reason of `stream.pair.REASONS`."""
    failed_handshakes: Mapping[str, int] = field(default_factory=dict)
    """By reason of `stream.transport.handshake.REASONS`."""
    devices: Mapping[str, DeviceStats] = field(default_factory=dict)
    before: Mapping[str, DeviceStats] = field(default_factory=dict)
    """The devices as the process before this one had left them."""
    endpoints: tuple[str, ...] = ()
    """Addresses at which devices are expected."""
