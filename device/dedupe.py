"""Decides whether the rig has seen a shot before, from small luma images, before any colour conversion or encoding.

New content is often small, such as a new thing on a known table. Measures of the whole image, perceptual hashes among them,
hardly notice it, but a *maximum over tiles* does. With 1 % of the duplicates kept, dHash finds 2 % of the new objects that
cover 0.17 % of the image, and a maximum over tiles finds 99 %, at 1/100 of the cost. Therefore the score of two pairs is the
largest difference of a tile's mean luma, over all tiles of both eyes. A gain for each eye is divided out first, because another
exposure is nothing new. The score is in grey levels of the newer image.

Two refinements were measured on real stereo images with half a pixel of jitter, 5 % of gain and noise. The recall of an object
that covers 0.2 % of the image, with 1 % of the duplicates kept, is 0.952 without both, 0.990 with the first, and 0.998 with both:
- There are 64 x 36 tiles instead of 32 x 18, so that an object of twice their side covers a whole tile wherever it lies.
- A camera that trembles moves edges. The difference that a shift by a fifth of a tile explains, by the slope of the remembered
  image, is not counted.
A mount that vibrates more than that scores like a small object: raise the threshold there.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from device.camera import EyeImage, decode_image
from stream.image import Image
from stream.pair import Kept

Junk = Literal["dark", "covered"]
"""Dark: both eyes see nothing (night, two lens caps). Covered: one eye sees nothing (a finger, one lens cap)."""

GRID = (64, 36)
"""Number of tiles across and down."""
_BLOCKS = (8, 6)  # divides GRID, so that the mean of a block is the plain mean of its tiles
_EYES = 2
_TREMBLE = 0.2  # tiles; two pairs of the same view may be shifted by so much: 4 pixels of 1280
_PRUNE_SLACK = 1e-3  # grey levels; larger than the errors of float32, so that pruning never changes a decision
_GAIN = 0.1  # a kept pair raises an adaptive threshold by 10 %
_LOWEST, _HIGHEST = 4.0, 128.0  # grey levels; below is the noise of sensors, above no pair would be new

_REDUCED = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    1: cv2.IMREAD_GRAYSCALE,
}

_Float = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class DedupeConfig:
    """The settings of dedupe: they decide when a pair counts as seen before. Raises ValueError for a setting out of range."""

    threshold: float = 16.0
    """A pair is new if some tile differs by more grey levels (of 255) than this; raise it on a vibrating mount."""
    target_per_hour: float | None = None
    """Pairs to keep per hour, for a link, a card or a battery with a budget. The threshold is then adapted, and `threshold` is
    its value at the start."""
    max_silence_s: float = 10.0
    """Keep a pair if none was kept for this long; inf: never for that reason."""
    audit_share: float = 0.01
    """Keep this share of the suppressed pairs at random, to measure what suppression loses."""
    ring: int = 64
    """Number of earlier new pairs that are remembered beside the last one, so that a return to a place is not new."""
    dark_mean: float = 40.0
    """An eye sees nothing if its mean grey level is below this and its contrast is below `dark_contrast`."""
    dark_contrast: float = 4.0
    """Standard deviation of the tiles of an eye. 0: no pair is junk."""
    blur_variance: float = 15.0
    """A kept pair counts as blurred if the variance of the Laplacian of one luma is below this."""
    off: bool = False
    """Keep every pair, junk too."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 255:
            raise ValueError(f"threshold must be above 0 and at most 255 grey levels, got {self.threshold}")
        if not self.max_silence_s > 0:
            raise ValueError(f"max_silence_s must be above 0 (inf: off), got {self.max_silence_s}")
        if not 0 <= self.audit_share <= 1:
            raise ValueError(f"audit_share is a share from 0 to 1, got {self.audit_share}")
        if not 0 <= self.ring <= 4096:
            raise ValueError(f"ring must be 0 to 4096 pairs, got {self.ring}")
        for name, value in asdict(self).items():
            if name != "max_silence_s" and isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value}")
        target, silence_alone = self.target_per_hour, 3600 / self.max_silence_s
        if target is not None and not target > silence_alone:
            raise ValueError(
                f"target_per_hour is {target:g}, but max_silence_s {self.max_silence_s:g} alone keeps "
                f"{silence_alone:g} an hour: raise one of them"
            )


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision about a pair: kept for a reason, junk for a reason, or suppressed as seen before (both None).

    score: grey levels between it and the last new pair; inf if there is none, or dedupe is off. blurred: determined for kept
    pairs only.
    """

    kept: Kept | None
    junk: Junk | None
    score: float
    blurred: bool = False


class Dedupe:
    """Compares each pair with those that were new before: the last one and a ring of earlier ones.

    The comparison with the last *new* pair, instead of the previous one, notices a slow drift. A pair that was kept because of
    silence or for the audit is not remembered, because a similar one is remembered already.
    """

    def __init__(self, config: DedupeConfig, *, seed: int = 0) -> None:
        self._config = config
        self._ring = PairRing(1 + config.ring)
        self._log_threshold = math.log(config.threshold)
        self._random = np.random.default_rng(seed)
        self._kept_ns: int | None = None
        self._judged_ns: int | None = None

    @property
    def threshold(self) -> float:
        """The present threshold, in grey levels; it changes only if there is a target rate."""
        return math.exp(self._log_threshold)

    def judge(self, left_luma: Image, right_luma: Image, now_ns: int) -> Verdict:
        """Decide about a pair from its luma images (uint8 [h, w], any size) and its capture time, nanoseconds since 1970."""
        if self._config.off:
            return Verdict("new", None, math.inf, self._is_blurred(left_luma, right_luma))
        tiles, means = _tiles(left_luma, right_luma)
        junk = self._junk(tiles, means)
        if junk is not None:
            return Verdict(None, junk, 0.0)
        score = self._ring.distance_to_last(tiles, means)
        kept = self._reason(tiles, means, score, now_ns)
        self._adapt(kept is not None, now_ns)
        if kept is None:
            return Verdict(None, None, score)
        self._kept_ns = now_ns
        if kept == "new":
            self._ring.remember(tiles, means)
        return Verdict(kept, None, score, self._is_blurred(left_luma, right_luma))

    def _is_blurred(self, left_luma: Image, right_luma: Image) -> bool:
        return min(_sharpness(left_luma), _sharpness(right_luma)) < self._config.blur_variance

    def _reason(self, tiles: _Float, means: _Float, score: float, now_ns: int) -> Kept | None:
        if score > self.threshold and not self._ring.holds(tiles, means, self.threshold):
            return "new"
        # abs: after the clock was set back, the rule must work before the old time is reached again
        if self._kept_ns is not None and abs(now_ns - self._kept_ns) >= self._config.max_silence_s * 1e9:
            return "silence"
        if self._random.random() < self._config.audit_share:
            return "audit"
        return None

    def _junk(self, tiles: _Float, means: _Float) -> Junk | None:
        blind = means < self._config.dark_mean
        if blind.any():
            blind &= tiles.std(axis=1) < self._config.dark_contrast
        if blind.all():
            return "dark"
        return "covered" if blind.any() else None

    def _adapt(self, kept: bool, now_ns: int) -> None:
        """Adapt the logarithm of the threshold by integral control, so that the target number of pairs per hour is kept."""
        elapsed_s = max(0, now_ns - (now_ns if self._judged_ns is None else self._judged_ns)) / 1e9
        self._judged_ns = now_ns
        if self._config.target_per_hour is None:
            return
        surplus = kept - elapsed_s * self._config.target_per_hour / 3600
        wanted = self._log_threshold + _GAIN * surplus
        self._log_threshold = min(max(wanted, math.log(_LOWEST)), math.log(_HIGHEST))


class PairRing:
    """A ring of the last `capacity` new pairs, as tiles of mean 1, with the difference that a trembling camera explains.

    The search is exact and cheap. The mean of a block cannot differ by more than its largest tile does, so an entry whose
    *blocks* differ by more than the threshold is skipped, and its tiles are not compared.
    """

    def __init__(self, capacity: int) -> None:
        self._tiles = np.zeros((capacity, _EYES, GRID[0] * GRID[1]), np.float32)
        self._slack = np.zeros_like(self._tiles)
        self._blocks = np.zeros((capacity, _EYES, _BLOCKS[0] * _BLOCKS[1]), np.float32)
        self._block_slack = np.zeros_like(self._blocks)
        self._count = 0

    def remember(self, tiles: _Float, means: _Float) -> None:
        """Put a pair in the place of the oldest one; tiles float32 [2, 2304] and means float32 [2] in grey levels."""
        slot = self._count % len(self._tiles)
        self._tiles[slot] = tiles / means[:, None]
        self._slack[slot] = _TREMBLE * _slope(self._tiles[slot])
        self._blocks[slot] = _block_means(self._tiles[slot])
        self._block_slack[slot] = _block_means(self._slack[slot])
        self._count += 1

    def distance_to_last(self, tiles: _Float, means: _Float) -> float:
        """Return the difference in grey levels between a pair and the last remembered one; inf if there is none."""
        return self._distance((self._count - 1) % len(self._tiles), tiles, means) if self._count else math.inf

    def holds(self, tiles: _Float, means: _Float, threshold: float) -> bool:
        """Return whether a remembered pair differs by at most `threshold` grey levels."""
        used = min(self._count, len(self._tiles))
        blocks = _block_means(tiles / means[:, None])
        differences = np.abs(self._blocks[:used] - blocks) - self._block_slack[:used]
        bounds = (differences.max(axis=2) * means).max(axis=1)
        near = np.flatnonzero(bounds <= threshold + _PRUNE_SLACK)
        return any(self._distance(int(slot), tiles, means) <= threshold for slot in near)

    def _distance(self, slot: int, tiles: _Float, means: _Float) -> float:
        gains = means[:, None]
        differences = np.abs(tiles - self._tiles[slot] * gains) - self._slack[slot] * gains
        return max(0.0, float(differences.max()))


def luma_of(eye: EyeImage) -> Image:
    """Return a small grey image of an eye, uint8 [h, w], made in the cheapest way.

    It is the hardware's own luma, or a JPEG decoded at 1/8 to 1/1 of its size, or the pixels, which are reduced before they are
    made grey. At least two pixels for each tile are left, if there are as many. Raises BadShot if the image cannot be decoded.
    """
    if eye.luma is not None:
        return eye.luma
    height, width, _ = eye.shape()
    factor = max(1, min(width // (2 * GRID[0]), height // (2 * GRID[1])))
    if eye.jpeg is not None:
        flags = next(flags for step, flags in _REDUCED.items() if step <= factor)
        return decode_image(eye.jpeg, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    pixels = np.asarray(eye.pixels)
    if factor > 1:  # linear, not area: 4 pixels for each are enough, and it is 5 times faster
        step = (factor + 1) // 2
        pixels = cv2.resize(pixels, (width // step, height // step), interpolation=cv2.INTER_LINEAR)
    return np.asarray(pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), np.uint8)


def _tiles(left: Image, right: Image) -> tuple[_Float, _Float]:
    """Return the mean luma in grey levels, of each tile, float32 [2, 2304], and of each eye, float32 [2], which is at least 1."""
    eyes = [cv2.resize(eye.astype(np.float32), GRID, interpolation=cv2.INTER_AREA).ravel() for eye in (left, right)]
    tiles = np.stack(eyes).astype(np.float32, copy=False)
    return tiles, np.maximum(tiles.mean(axis=1), np.float32(1))


def _block_means(tiles: _Float) -> _Float:
    across, down = GRID[0] // _BLOCKS[0], GRID[1] // _BLOCKS[1]
    blocks: _Float = tiles.reshape(_EYES, _BLOCKS[1], down, _BLOCKS[0], across).mean(axis=(2, 4))
    return blocks.reshape(_EYES, -1)


def _slope(tiles: _Float) -> _Float:
    """Return the difference of luma between neighbouring tiles, horizontal plus vertical: float32 [2, 2304]."""
    images = tiles.reshape(_EYES, GRID[1], GRID[0])
    edge = cv2.BORDER_REPLICATE
    across = [cv2.Sobel(image, cv2.CV_32F, 1, 0, ksize=1, scale=0.5, borderType=edge) for image in images]
    down = [cv2.Sobel(image, cv2.CV_32F, 0, 1, ksize=1, scale=0.5, borderType=edge) for image in images]
    slope: _Float = np.abs(np.stack(across)) + np.abs(np.stack(down))
    return slope.reshape(_EYES, -1)


def _sharpness(luma: Image) -> float:
    """Return the variance of the Laplacian, which is small if no edge is sharp."""
    return float(cv2.meanStdDev(cv2.Laplacian(luma, cv2.CV_16S))[1][0, 0]) ** 2
