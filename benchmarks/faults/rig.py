"""A rig for the faults bench: the real spool and publisher, small pairs that are all different, and a journal.

It reports `attempt` before a pair is kept, and `kept` or `refused` after: so the kept pairs are known, whatever happens to the
spool. If it is killed between the two, the pair may have been kept or not.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.shared.processes import Orders, Pace, report
from device.spool.rules import SpoolLimits
from device.spool.spool import Spool
from stream.codec import encode_pair
from stream.errors import ReportedError
from stream.live.publisher import Publisher
from stream.pair import EncodedPair

SMALL = (24, 32)
"""Height and width of an image of noise, which has 2.3 kB and cannot be compressed."""
IDLE_S = 0.02
GRACE_S = 8.0
"""Longer than most absences of a consumer in this bench."""


class RigLoad(msgspec.Struct, frozen=True):
    """The pairs that a rig makes, and the room for them."""

    spool_bytes: int
    pairs_per_s: float
    size: tuple[int, int] = SMALL
    """Height and width of an image, pixels."""
    grace_s: float = GRACE_S
    """The spool's `grace_s`."""


class SpoolRigPlan(msgspec.Struct, frozen=True):
    """The settings of the rig; its process gets them as JSON."""

    device: str
    spool: str
    load: RigLoad


class SpoolRig:
    """Obeys the orders `go`, `rest` and `rate` (pairs per second). It reports how many consumers its spool knows."""

    def __init__(self, plan: SpoolRigPlan) -> None:
        self.plan = plan
        self.going = False
        self._consumers = 0
        self.pairs_per_s = plan.load.pairs_per_s
        self.orders = Orders(self._obey)

    def run(self) -> None:
        """Keep and publish until the order to stop arrives."""
        plan = self.plan
        with (
            Spool(
                Path(plan.spool),
                SpoolLimits(plan.load.spool_bytes, free_floor_bytes=0),
                device=plan.device,
                grace_s=plan.load.grace_s,
            ) as spool,
            Publisher(
                "tcp://127.0.0.1:0", device=plan.device, epoch=spool.epoch, shelf=spool, linger_s=1.0
            ) as publisher,
        ):
            report("listening", publisher.endpoint.rpartition(":")[2])
            seq, pace = 0, Pace()
            while not self.orders.stop.is_set():
                self._report_consumers(spool)
                if not self.going:
                    report("rests")
                    while not self.going and not self.orders.stop.wait(IDLE_S):
                        self._report_consumers(spool)
                        publisher.subscribers()
                    pace = Pace()
                    continue
                self._keep(seq, spool, publisher)
                seq += 1
                pace.wait(self.pairs_per_s)

    def _keep(self, seq: int, spool: Spool, publisher: Publisher) -> None:
        pair = make_pair(self.plan.device, spool.epoch, seq, time.time_ns(), self.plan.load.size)
        report("attempt", spool.epoch, seq, pair.header.crc, time.monotonic_ns())
        report("kept" if spool.append(pair) else "refused", spool.epoch, seq)
        publisher.send(pair)

    def _report_consumers(self, spool: Spool) -> None:
        count = spool.stats().consumers
        if count != self._consumers:
            self._consumers = count
            report("consumers", count)

    def _obey(self, order: str) -> None:
        word, _, value = order.partition(" ")
        match word:
            case "rate":
                self.pairs_per_s = float(value)
            case _:
                self.going = word == "go"


def make_pair(device: str, epoch: str, seq: int, captured_ns: int, size: tuple[int, int] = SMALL) -> EncodedPair:
    """Return a pair whose images depend on epoch and number, so that a pair under a wrong number can be recognised."""
    left, right = np.random.default_rng([int(epoch, 16), seq]).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    return encode_pair(
        left, right, device=device, epoch=epoch, seq=seq, left_ns=captured_ns, right_ns=captured_ns, codec="lz4"
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        SpoolRig(msgspec.json.decode(sys.argv[1], type=SpoolRigPlan)).run()
    except ReportedError as error:
        sys.exit(f"error: {error}")
