"""The settings of a rig that streams, for its command line and its TOML file. The text under each field is its help."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from device.cameras.open import Origin
from device.cli.capture_settings import Bound, RigSettings, host_name

MAX_GIB = 4096
MAX_LINGER_S = 86400


@dataclass(frozen=True, kw_only=True)
class StreamSettings(RigSettings):
    """Publish the stereo pairs of a camera over ZeroMQ, without those that show nothing new."""

    config: Path | None = None
    """A TOML file with any of these settings, such as deploy/device.toml; a flag wins over it."""
    bind: str = "tcp://127.0.0.1:5555"
    """Where learners connect to. The port after it is used too, for the spool. Port 0 takes any two free ports. * as host means
    every network by IPv4, [::] by IPv6 too."""
    keys: Path | None = None
    """Folder of the keys (`python -m stream keys` makes them). Across a network keys are needed, by default those in the usual
    folder; on this machine alone they are used only if a folder is given."""
    insecure: bool = False
    """Work without keys: everybody on the network can see the images."""
    spool: str = "auto"
    """Where pairs are stored until learners have them: auto | none | FOLDER. auto: pairs of a real camera stay after the process
    has ended (in $STATE_DIRECTORY, or in babyagent/NAME in $XDG_STATE_HOME), others are deleted with it. none: pairs that the
    link drops are lost."""
    spool_gib: float | None = None
    """GiB that the spool may take before the oldest pairs are evicted; 8 by default, 2 if it is deleted with the process."""
    disk_floor_gib: float = 1.0
    """GiB of the disk that stay free."""
    linger_s: float = 60.0
    """After the last pair, wait until learners have made all pairs durable, but not for one that is silent for this long."""
    metrics_port: int = 0
    """Prometheus metrics at http://127.0.0.1:PORT/metrics; 0: none."""
    wait_for_learner: Literal["auto", "yes", "no"] = "auto"
    """Whether to wait for a learner before the first shot. auto: yes for a recording, for --count with sim and for --fps 0; then
    the rig also waits until every pair is taken. no: a pair that no learner takes is dropped."""
    json: bool = False
    """End with one line of JSON on the standard output."""

    def check(self) -> None:
        """See CaptureSettings."""
        super().check()
        if not self.spool:
            raise ValueError("--spool is auto, none or a folder")

    def bounds(self) -> Iterator[Bound]:
        """See CaptureSettings."""
        yield from super().bounds()
        yield "--spool-gib", self.spool_gib, 0.01, MAX_GIB, " (--spool none: no spool)"
        yield "--disk-floor-gib", self.disk_floor_gib, 0, MAX_GIB, ""
        yield "--linger-s", self.linger_s, 0, MAX_LINGER_S, " (0: do not wait)"
        yield "--metrics-port", self.metrics_port, 0, 65535, " (0: none)"

    @property
    def device(self) -> str:
        """The name of the device in the header of each pair."""
        return self.name or host_name()

    @property
    def lossless(self) -> bool:
        """Whether the stream waits for its learner instead of dropping a pair: it can if it ends, or has no pace of its own."""
        return self.origin is not Origin.HARDWARE and (self.ends or self.fps == 0) and self.wait_for_learner != "no"

    @property
    def lasting(self) -> bool:
        """Whether the pairs must survive the process, because those of hardware cannot be made again."""
        return self.origin is Origin.HARDWARE

    @property
    def waits(self) -> bool:
        """Whether to wait for a learner before the first shot."""
        return self.lossless if self.wait_for_learner == "auto" else self.wait_for_learner == "yes"


def format_counts(counts: Mapping[str, object]) -> str:
    """Format named numbers as one line for a person."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in counts.items())
