"""Pairs for measurements: the simulated walk after dedupe, rendered views, noise as large as a camera's JPEG, photographs."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Iterator
from itertools import count, islice

import cv2
import msgspec
import numpy as np

from device.camera import Shot
from device.capture import capture
from device.dedupe import Dedupe, DedupeConfig
from device.sim.camera import SimCamera, SimConfig
from stream.codec import decode, encode_pair
from stream.image import Image
from stream.pair import Codec, EncodedPair, Header

DEVICE, EPOCH = "bench", "0" * 32
HD = (720, 1280)
EYE_BYTES = 179_000
"""Bytes of the JPEG that a 720p camera gives for one eye."""
NOISE_SIZE = (244, 245)
"""Height and width of an image of noise with as many bytes."""
DISPARITY_PX = 2
Eyes = tuple[Image, Image]
"""Left and right image, uint8 [H, W] or [H, W, 3] of one shape."""


def kept_pairs(shots: Iterable[Shot], *, seed: int, dedupe: DedupeConfig | None = None) -> Iterator[EncodedPair]:
    """Yield the pairs that a rig keeps of these shots, encoded. seed: of the audit; it also names the epoch."""
    return capture(shots, Dedupe(dedupe or DedupeConfig(), seed=seed), device="sim", epoch=f"{seed:032x}")


def walk_pairs(world: SimConfig) -> Iterator[EncodedPair]:
    """Yield the pairs that a rig keeps of a simulated walk, without end."""
    return kept_pairs(SimCamera(world), seed=world.seed)


class WalkOnce:
    """The pairs that a rig keeps of a simulated walk, without end. Each is made once and given to every reader."""

    def __init__(self, world: SimConfig) -> None:
        self._made: list[EncodedPair] = []
        self._rest = walk_pairs(world)

    def __iter__(self) -> Iterator[EncodedPair]:
        for number in count():
            if number == len(self._made):
                self._made.append(next(self._rest))
            yield self._made[number]


class TimedPairs:
    """Pairs of an iterator, with the CPU time that making them took, so that it can be left out of the budget."""

    def __init__(self, pairs: Iterable[EncodedPair]) -> None:
        self._pairs = iter(pairs)
        self.cpu_s = 0.0

    def __iter__(self) -> Iterator[EncodedPair]:
        return self

    def __next__(self) -> EncodedPair:
        started_s = time.process_time()
        try:
            return next(self._pairs)
        finally:
            self.cpu_s += time.process_time() - started_s


def rendered_eyes(count: int, size: tuple[int, int], *, every: int = 2) -> list[Eyes]:
    """Return `count` views of the simulated walk, without dedupe. size: height and width, pixels.

    every: only each n-th frame is used.
    """
    shots = islice(iter(SimCamera(size=size, start_ns=0)), 0, every * count, every)
    return [(_pixels(shot.left.pixels), _pixels(shot.right.pixels)) for shot in shots]


def rendered_pairs(count: int, size: tuple[int, int]) -> list[EncodedPair]:
    """Return pairs of the simulated walk, of every second frame, as JPEG and numbered from 0."""
    return [encoded(*eyes, seq, codec="jpeg") for seq, eyes in enumerate(rendered_eyes(count, size))]


def jpeg_sized_pairs(count: int) -> list[EncodedPair]:
    """Return 720p pairs whose images are random bytes, with the size of a JPEG and as hard to compress.

    They begin as a JPEG does, but cannot be decoded.
    """
    random = np.random.default_rng(0)
    pairs = []
    for seq in range(count):
        left, right = (b"\xff\xd8\xff" + random.bytes(EYE_BYTES - 3) for _ in range(2))
        header = Header(
            device=DEVICE,
            epoch=EPOCH,
            seq=seq,
            left_ns=seq,
            right_ns=seq,
            height=HD[0],
            width=HD[1],
            channels=3,
            codec="jpeg",
            crc=zlib.crc32(right, zlib.crc32(left)),
        )
        pairs.append(EncodedPair(header, left, right))
    return pairs


def noise_pair() -> EncodedPair:
    """Return a lossless pair of noise, as large as two 720p JPEGs."""
    return encoded(*np.random.default_rng(0).integers(0, 256, (2, *NOISE_SIZE, 3), dtype=np.uint8))


def encoded(
    left: Image, right: Image, seq: int = 0, captured_ns: int | None = None, *, codec: Codec = "lz4"
) -> EncodedPair:
    """Return a pair, lossless unless another codec is given.

    captured_ns: capture time of both eyes; None: the number of the pair.
    """
    at_ns = seq if captured_ns is None else captured_ns
    return encode_pair(left, right, device=DEVICE, epoch=EPOCH, seq=seq, left_ns=at_ns, right_ns=at_ns, codec=codec)


def renumbered(pair: EncodedPair, seq: int, captured_ns: int | None = None, **header: object) -> EncodedPair:
    """Return a pair with the same images and another number.

    captured_ns: capture time of both eyes; None keeps the times. header: further fields of the header to replace.
    """
    moment = {} if captured_ns is None else {"left_ns": captured_ns, "right_ns": captured_ns}
    return EncodedPair(msgspec.structs.replace(pair.header, seq=seq, **moment, **header), pair.left, pair.right)


def eyes_of(pair: EncodedPair) -> Eyes:
    """Decode both images of a pair."""
    decoded = decode(pair)
    return decoded.left, decoded.right


def two_eyes(image: Image, random: np.random.Generator) -> Eyes:
    """Make a stereo pair of a photograph, uint8 [H, W, 3]: the right eye sees it shifted and with another exposure."""
    gain, offset = random.uniform(0.9, 1.1), random.uniform(-8, 8)
    shift = np.array([[1, 0, -DISPARITY_PX], [0, 1, 0]], np.float32)
    right = cv2.warpAffine(image, shift, image.shape[1::-1], borderMode=cv2.BORDER_REFLECT_101).astype(np.float32)
    return image, np.asarray(np.clip(np.rint(right * gain + offset), 0, 255), np.uint8)


def _pixels(image: Image | None) -> Image:
    assert image is not None  # the simulator gives pixels
    return image
