"""Opens cameras one after the other, and prints what each gives as a line of JSON: python v4l2_shots.py COUNT CAMERA...

It runs as a process of its own, over the stand-in of V4L2 that LD_PRELOAD brings (v4l2_stand_in.c).
"""

from __future__ import annotations

import hashlib
import json
import sys
from contextlib import closing
from itertools import islice
from typing import Any

from device.camera import BadShot, CameraSettings, EyeImage, configure_opencv
from device.cameras.open import open_camera
from stream.errors import ReportedError


def described(eye: EyeImage) -> dict[str, Any]:
    jpeg = None if eye.jpeg is None else hashlib.sha256(eye.jpeg).hexdigest()
    edge = None if eye.pixels is None else [int(eye.pixels[0, 0].max()), int(eye.pixels[-1, -1].max())]
    return {"ns": eye.captured_ns, "shape": eye.shape(), "jpeg": jpeg, "edge": edge}


def main(count: int, names: list[str]) -> None:
    configure_opencv()
    for name in names:
        shots, error, code, fps = [], "", 0, None
        try:
            with closing(open_camera(name, CameraSettings(size=(48, 64), exposure_us=8000))) as camera:
                fps = camera.fps
                for shot in islice(camera, count):
                    if isinstance(shot, BadShot):
                        raise shot
                    shots.append([described(shot.left), described(shot.right)])
        except ReportedError as failure:
            error, code = str(failure), failure.exit_code
        sys.stdout.write(json.dumps({"shots": shots, "error": error, "code": code, "fps": fps}) + "\n")


main(int(sys.argv[1]), sys.argv[2:])
