"""A rig for the step bench: a process that publishes views of the simulated walk at a steady rate, made beforehand.

What is measured is the learner, so its pairs cost nothing here: the same images again and again under new numbers, each with
the time at which it leaves. It is told `go` and `rest` while it runs.
"""

from __future__ import annotations

import sys
import time
from itertools import cycle, islice

import msgspec

from benchmarks.shared.processes import Orders, say
from device.sim.camera import SimCamera
from stream.codec import encode_pair
from stream.live.publisher import Publisher
from stream.pair import EncodedPair

DEVICE, EPOCH = "bench", "0" * 32
VIEWS = 64
IDLE_S = 0.01
LATE_S = 0.1
"""A rig that was held up for longer does not make up for it."""


class RigPlan(msgspec.Struct, frozen=True):
    """What it is started with, as JSON."""

    pairs_per_s: float
    size: tuple[int, int]
    """Height and width of an image, pixels."""


def walk_pairs(count: int, size: tuple[int, int]) -> list[EncodedPair]:
    """Views of the simulated walk, every second frame, numbered from 0."""
    found = []
    for seq, shot in enumerate(islice(iter(SimCamera(size=size, start_ns=0)), 0, 2 * count, 2)):
        left, right = shot.left.pixels, shot.right.pixels
        assert left is not None
        assert right is not None
        found.append(encode_pair(left, right, device=DEVICE, epoch=EPOCH, seq=seq, left_ns=seq, right_ns=seq))
    return found


def run(plan: RigPlan) -> None:
    """Publish until told to stop."""
    going = False

    def take(order: str) -> None:
        nonlocal going
        going = order == "go"

    orders = Orders(take)
    views = cycle(walk_pairs(VIEWS, plan.size))
    with Publisher("tcp://127.0.0.1:0", device=DEVICE, epoch=EPOCH, linger_s=1.0) as publisher:
        say("listening", publisher.endpoint)
        seq, due_s = 0, time.monotonic()
        while not orders.stop.is_set():
            if not going or not publisher.subscribers():
                time.sleep(IDLE_S)
                due_s = time.monotonic()
                continue
            view, now_ns = next(views), time.time_ns()
            header = msgspec.structs.replace(view.header, seq=seq, left_ns=now_ns, right_ns=now_ns)
            publisher.send(EncodedPair(header, view.left, view.right))
            seq += 1
            due_s = max(due_s + 1 / plan.pairs_per_s, time.monotonic() - LATE_S)
            time.sleep(max(0.0, due_s - time.monotonic()))


if __name__ == "__main__":
    run(msgspec.json.decode(sys.argv[1], type=RigPlan))
