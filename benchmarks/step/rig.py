"""A rig for the step bench: a process that publishes views of the simulated walk at a steady rate.

The learner is measured, so pairs cost nothing here: the same images are sent again and again under new numbers, each with
the time at which it is sent. The orders `go` and `rest` start and stop the stream;
any other one ends the process.
"""

from __future__ import annotations

import time
from itertools import count, cycle
from multiprocessing.connection import Connection

from benchmarks.shared.pairs import DEVICE, EPOCH, rendered_pairs, renumbered
from benchmarks.shared.processes import Pace
from stream.live.publisher import Publisher

VIEWS = 64


def publish(pipe: Connection, pairs_per_s: float, size: tuple[int, int]) -> None:
    """Send the endpoint, then obey the orders. size: height and width of an image, pixels."""
    views, numbers = cycle(rendered_pairs(VIEWS, size)), count()
    with Publisher("tcp://127.0.0.1:0", device=DEVICE, epoch=EPOCH, linger_s=1.0) as publisher:
        pipe.send(publisher.endpoint)
        while (order := pipe.recv()) in ("go", "rest"):
            pace = Pace()
            while order == "go" and not pipe.poll():
                if publisher.subscribers():
                    publisher.send(renumbered(next(views), next(numbers), time.time_ns()))
                pace.wait(pairs_per_s)
