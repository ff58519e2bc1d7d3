"""A rig for the step bench: a process that publishes views of the simulated walk at a steady rate.

The learner is measured, so pairs cost nothing here: the same images are sent again and again under new numbers, each with
the time at which it is sent. The orders `go` and `rest` start and stop the stream.
"""

from __future__ import annotations

import sys
import time
from itertools import cycle

import msgspec

from benchmarks.shared.pairs import DEVICE, EPOCH, rendered_pairs, renumbered
from benchmarks.shared.processes import Orders, Pace, report
from stream.live.publisher import Publisher

VIEWS = 64
IDLE_S = 0.01


class SteadyRigPlan(msgspec.Struct, frozen=True):
    """The settings of the rig; its process gets them as JSON."""

    pairs_per_s: float
    size: tuple[int, int]
    """Height and width of an image, pixels."""


def run(plan: SteadyRigPlan) -> None:
    """Publish until the order to stop arrives."""
    going = False

    def obey(order: str) -> None:
        nonlocal going
        going = order == "go"

    orders = Orders(obey)
    views = cycle(rendered_pairs(VIEWS, plan.size))
    with Publisher("tcp://127.0.0.1:0", device=DEVICE, epoch=EPOCH, linger_s=1.0) as publisher:
        report("listening", publisher.endpoint)
        seq, pace = 0, Pace()
        while not orders.stop.is_set():
            if not going or not publisher.subscribers():
                time.sleep(IDLE_S)
                pace.restart()
                continue
            publisher.send(renumbered(next(views), seq, time.time_ns()))
            seq += 1
            pace.wait(plan.pairs_per_s)


if __name__ == "__main__":
    run(msgspec.json.decode(sys.argv[1], type=SteadyRigPlan))
