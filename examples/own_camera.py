"""Publish a camera class of one's own: here one USB camera whose frames hold both eyes side by side.

A camera is anything that gives shots; dedupe, encoding and network are the rig's own. Add a `Spool` where nothing may be lost.
Run it with: python examples/own_camera.py 0 (or a video file), and python -m learner --connect tcp://127.0.0.1:5555 beside it.
"""

import time
from collections.abc import Iterator

import cv2
import numpy as np
import tyro

from device.camera import EyeImage, Shot
from device.capture import capture
from device.dedupe import Dedupe, DedupeConfig
from stream.live.publisher import Publisher


class SideBySideCamera:
    def __init__(self, name: str) -> None:
        self.video = cv2.VideoCapture(int(name) if name.isdigit() else name)

    def __iter__(self) -> Iterator[Shot]:
        while (frame := self.video.read()[1]) is not None:  # uint8 [H, 2 W, 3] BGR
            left, right = np.split(np.asarray(frame, np.uint8), 2, axis=1)
            yield Shot(EyeImage(time.time_ns(), pixels=left), EyeImage(time.time_ns(), pixels=right))


def main(camera: tyro.conf.Positional[str], bind: str = "tcp://127.0.0.1:5555") -> None:
    epoch = f"{time.time_ns():032x}"  # no two starts may have the same one
    with Publisher(bind, device="mine", epoch=epoch, on_full="wait") as publisher:
        print(f"publishing at {publisher.endpoint}", flush=True)
        for pair in capture(SideBySideCamera(camera), Dedupe(DedupeConfig()), device="mine", epoch=epoch):
            print(f"{pair.header.name}  kept because {pair.header.kept}  sent {publisher.send(pair)}")
        publisher.bye()


tyro.cli(main)
