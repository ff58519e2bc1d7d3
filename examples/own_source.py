"""Learn from a source of one's own: here arrays in a file, as a data set or a simulator of one's own may have them.

A source is anything that gives encoded pairs. An iterator is enough: equal iterators give equal weights.
Run it with: python examples/own_source.py images.npz (arrays `left` and `right`, uint8 [N, H, W, 3] BGR; `right` may be missing)
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import tyro

from learner.config import PRESETS
from learner.loop import Learner, StepReport, learn
from stream.codec import encode_pair
from stream.pair import EncodedPair
from stream.source import IteratorSource


def pairs(path: Path) -> Iterator[EncodedPair]:
    arrays = np.load(path)
    eyes = arrays["left"], arrays.get("right", arrays["left"])  # one camera: the same image is both eyes
    for seq, (one, other) in enumerate(zip(*eyes, strict=True)):
        at_ns = seq * 10**8  # when it was seen: 10 Hz
        yield encode_pair(one, other, device="arrays", epoch="0" * 32, seq=seq, left_ns=at_ns, right_ns=at_ns)


def main(images: tyro.conf.Positional[Path], batch_size: int = 128) -> None:
    preset = PRESETS["cpu"]
    learner = Learner(replace(preset, pacing=replace(preset.pacing, batch_size=batch_size)), torch.device("cpu"))
    for event in learn(learner, IteratorSource(pairs(images)), clock=time.monotonic):
        if isinstance(event, StepReport):
            print(f"step {event.step}  pairs {event.received}  loss {event.loss:.3f}")


tyro.cli(main)
