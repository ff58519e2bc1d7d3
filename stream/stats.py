"""The statistics of a source that receives pairs from devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SILENT_S = 15.0
"""A device counts as silent after this time. One with a spool answers every second; others send a pair every 10 s by default."""


@dataclass(frozen=True, slots=True)
class DeviceStats:
    """What a consumer knows of one device. The counts continue over epochs and over restarts of the consumer."""

    epoch: str
    """The newest epoch."""
    next_seq: int
    """Number of the newest known pair of that epoch, plus one."""
    received: int = 0
    lost: int = 0
    """Pairs that will never be received: dropped without a spool, evicted from the spool, or damaged in it."""
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
    """The clock of the device minus ours; None without a spool, because it is measured with the spool's replies."""
    clock_error_ns: int | None = None
    """Largest error of clock_offset_ns: half the time between request and reply."""
    battery: float | None = None
    """Last reported charge, 0 to 1; None if the device has no battery or no spool."""
    temperature_c: float | None = None
    """Last reported temperature of its hottest sensor, degrees Celsius; None if there is no sensor or no spool."""
    ended: bool = False
    """Whether the device has announced the end of its stream and no pair of it is missing."""
    last_received_s: float | None = None
    """When its last live pair was received, by the clock of the source; None before the first."""
    last_heard_s: float | None = None
    """When it last gave a sign of life (a live pair, an announcement, a reply of its spool), by the clock of the source; None if
    this process has not heard of it."""

    def silent_s(self, now_s: float) -> float | None:
        """Return the seconds since its last sign of life; None if its stream has ended, or this process has not heard of it."""
        return None if self.ended or self.last_heard_s is None else max(0.0, now_s - self.last_heard_s)


@dataclass(frozen=True, slots=True)
class SourceStats:
    """The statistics of a source over all its devices.

    `bytes` and `malformed` begin at 0 in each process. All other counts continue over restarts of the consumer.
    """

    received: int = 0
    bytes: int = 0
    """Bytes of the encoded images of the received pairs."""
    lost: int = 0
    pending: int = 0
    repeated: int = 0
    malformed: Mapping[str, int] = field(default_factory=dict)
    """Number of dropped messages and of dropped signals, by reason of `stream.pair.REASONS`."""
    failed_handshakes: Mapping[str, int] = field(default_factory=dict)
    """Number of failed handshakes, by reason of `stream.transport.handshake.REASONS`."""
    devices: Mapping[str, DeviceStats] = field(default_factory=dict)
    before: Mapping[str, DeviceStats] = field(default_factory=dict)
    """The statistics of the devices at the end of the previous process."""
    endpoints: tuple[str, ...] = ()
    """Addresses at which devices are expected."""

    @property
    def heard(self) -> list[DeviceStats]:
        """Those devices that this process has heard of; the others are known from earlier processes of the run."""
        return [device for device in self.devices.values() if device.last_heard_s is not None]
