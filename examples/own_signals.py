"""Publish an IMU beside the images: a function is called after each shot and returns the rows since its last call.

Here they are made up. Run it with: python examples/own_signals.py or, in its folder, python -m device --signals own_signals:Imu
"""

import time
from itertools import islice

import numpy as np
import tyro

from device.capture import capture
from device.dedupe import Dedupe, DedupeConfig
from device.sim.camera import SimCamera
from stream.live.publisher import Publisher
from stream.signals.signal import Signal, Telemetry


class Imu:
    next_ns = 0

    def __call__(self, captured_ns: int) -> Telemetry:
        times_ns = np.arange(max(self.next_ns, captured_ns - 95_000_000), captured_ns + 1, 5_000_000)
        self.next_ns = captured_ns + 5_000_000
        return Telemetry({"acceleration": Signal(np.sin(times_ns[:, None] / 1e9 + np.arange(3)), times_ns, "m/s^2")})


def main(count: int = 100, bind: str = "tcp://127.0.0.1:5555") -> None:
    epoch, shots = f"{time.time_ns():032x}", islice(SimCamera(), count)
    with Publisher(bind, device="mine", epoch=epoch, on_full="wait") as publisher:
        print(f"publishing at {publisher.endpoint}", flush=True)
        for pair in capture(shots, Dedupe(DedupeConfig()), device="mine", epoch=epoch, signals=Imu()):
            publisher.send(pair)
            print(pair.header.name, {name: len(signal) for name, signal in pair.telemetry.signals.items()})
        publisher.bye()


if __name__ == "__main__":
    tyro.cli(main)
