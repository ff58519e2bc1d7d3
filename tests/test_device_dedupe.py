"""Dedupe: its properties, statistics, and the numbers on real images."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from device.camera import BadShot, CameraSettings, EyeImage
from device.cameras.recorded.folders import open_folders
from device.capture import capture
from device.dedupe import GRID, Dedupe, DedupeConfig, PairRing, Verdict, luma_of
from stream.image import Image

HEIGHT, WIDTH = 180, 320  # a tile is 5 x 5 pixels
SECOND = 1_000_000_000
NEVER = DedupeConfig(max_silence_s=math.inf, audit_share=0.0)
seeds = st.integers(0, 2**32 - 1)


def scene(seed: int, low: int = 40, high: int = 200) -> Image:
    """A smooth random picture of grey levels low to high."""
    coarse = np.random.default_rng(seed).integers(low, high, (9, 16)).astype(np.float32)
    return as_image(cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR))


def as_image(values: NDArray[np.float32] | cv2.typing.MatLike) -> Image:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def with_object(image: Image, x: int, y: int, side: int, levels: int) -> Image:
    changed = image.astype(np.int16)
    changed[y : y + side, x : x + side] += levels
    return np.clip(changed, 0, 255).astype(np.uint8)


def judged(dedupe: Dedupe, *pairs: tuple[Image, Image], step_ns: int = SECOND // 10) -> list[Verdict]:
    return [dedupe.judge(left, right, index * step_ns) for index, (left, right) in enumerate(pairs)]


def test_the_first_pair_is_new() -> None:
    verdict = Dedupe(NEVER).judge(scene(1), scene(2), 0)
    assert (verdict.kept, verdict.score) == ("new", math.inf)


@given(seeds, seeds)
@settings(max_examples=25)
def test_an_identical_pair_is_never_kept(left: int, right: int) -> None:
    pair = (scene(left), scene(right))
    _, second = judged(Dedupe(NEVER), pair, pair)
    assert (second.kept, second.junk) == (None, None)
    assert second.score < 1e-3


@given(seeds, st.floats(0.7, 1.25), st.floats(0.7, 1.25))
@settings(max_examples=25)
def test_a_change_of_exposure_alone_is_never_kept(seed: int, left_gain: float, right_gain: float) -> None:
    left, right = scene(seed), scene(seed + 1)
    brighter = (as_image(left * np.float32(left_gain)), as_image(right * np.float32(right_gain)))
    _, second = judged(Dedupe(NEVER), (left, right), brighter)
    assert second.kept is None
    assert second.score < 2


@given(seeds, st.integers(0, WIDTH - 11), st.integers(0, HEIGHT - 11), st.booleans())
@settings(max_examples=50)
def test_an_object_of_two_tiles_side_is_found_wherever_it_lies_in_either_eye(
    seed: int, x: int, y: int, in_left: bool
) -> None:
    """0.17 % of the image, 40 grey levels from its surroundings."""
    left, right = scene(seed), scene(seed + 1)
    changed = with_object(left if in_left else right, x, y, 10, 40)
    _, second = judged(Dedupe(NEVER), (left, right), (changed, right) if in_left else (left, changed))
    assert second.kept == "new"


def test_sensor_noise_and_a_trembling_camera_are_not_new() -> None:
    random = np.random.default_rng(5)
    still = scene(3)

    def seen_again() -> Image:
        shift = np.array([[1, 0, random.uniform(-0.5, 0.5)], [0, 1, random.uniform(-0.5, 0.5)]], np.float32)
        moved = cv2.warpAffine(still, shift, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
        return as_image(moved + random.normal(0, 4, still.shape).astype(np.float32))

    verdicts = judged(Dedupe(NEVER), *[(seen_again(), seen_again()) for _ in range(50)])
    assert sum(verdict.kept is not None for verdict in verdicts) == 1


def test_a_slow_drift_is_noticed_because_the_last_new_pair_is_the_reference() -> None:
    start = scene(7, 80, 120)
    drifting = [with_object(start, 100, 60, 20, 2 * step) for step in range(20)]
    verdicts = judged(Dedupe(NEVER), *[(image, image) for image in drifting])
    assert [verdict.kept for verdict in verdicts].count("new") >= 2


def test_a_return_to_a_place_is_not_new_while_the_ring_remembers_it() -> None:
    places = [(scene(seed), scene(seed + 50)) for seed in range(5)]
    remembered = judged(Dedupe(NEVER), *places, *places)
    assert [verdict.kept for verdict in remembered] == ["new"] * 5 + [None] * 5
    forgotten = judged(Dedupe(DedupeConfig(max_silence_s=math.inf, audit_share=0, ring=3)), *places, *places)
    assert [verdict.kept for verdict in forgotten] == ["new"] * 10
    without = judged(Dedupe(DedupeConfig(max_silence_s=math.inf, audit_share=0, ring=0)), *places[:2], *places[:2])
    assert [verdict.kept for verdict in without] == ["new"] * 4


def test_a_place_with_something_new_in_it_is_not_a_revisit() -> None:
    here, there = scene(1), scene(2)
    changed = with_object(here, 200, 100, 10, 50)
    verdicts = judged(Dedupe(NEVER), (here, here), (there, there), (changed, here))
    assert verdicts[-1].kept == "new"


def slow_distance(tiles: NDArray[np.float32], means: NDArray[np.float32], before: NDArray[np.float32]) -> float:
    """The definition in its simplest form: the largest difference that a shift by a fifth of a tile does not explain."""
    worst = 0.0
    for eye in range(2):
        old = (before[eye] / before[eye].mean() * means[eye]).reshape(GRID[1], GRID[0])
        padded = np.pad(old, 1, mode="edge")
        slope = np.abs(padded[1:-1, 2:] - padded[1:-1, :-2]) / 2 + np.abs(padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
        worst = max(worst, float((np.abs(tiles[eye].reshape(old.shape) - old) - 0.2 * slope).max()))
    return worst


@given(seeds, st.integers(1, 12), st.floats(1, 60))
@settings(max_examples=60)
def test_the_pruned_search_of_the_ring_equals_brute_force(seed: int, count: int, threshold: float) -> None:
    random = np.random.default_rng(seed)
    base = random.uniform(40, 200, (2, GRID[0] * GRID[1])).astype(np.float32)
    spread = random.uniform(0, 40)
    entries = [base + random.uniform(-spread, spread, (2, 1)).astype(np.float32) * (random.random(base.shape) < 0.01)
               for _ in range(count)]  # fmt: skip
    memory = PairRing(8)
    for entry in entries:
        memory.remember(entry.astype(np.float32), entry.mean(axis=1, dtype=np.float32))
    means = base.mean(axis=1, dtype=np.float32)
    distances = [slow_distance(base, means, entry.astype(np.float32)) for entry in entries[-8:]]
    assert memory.distance_to_last(base, means) == pytest.approx(distances[-1], abs=1e-3)
    if min(abs(distance - threshold) for distance in distances) > 1e-3:  # otherwise rounding decides
        assert memory.holds(base, means, threshold) == (min(distances) <= threshold)


def test_a_pair_is_kept_after_the_longest_silence_and_also_when_the_clock_stepped_back() -> None:
    pair = (scene(1), scene(2))
    dedupe = Dedupe(DedupeConfig(max_silence_s=10, audit_share=0))
    times_s = [100, 109.9, 110, 119, 120, 50, 55, 60]
    kept = [dedupe.judge(*pair, int(time_s * SECOND)).kept for time_s in times_s]
    assert kept == ["new", None, "silence", None, "silence", "silence", None, "silence"]


def test_the_audit_keeps_its_share_of_the_suppressed_pairs() -> None:
    share, trials = 0.05, 3000
    pair = (scene(1), scene(2))
    dedupe = Dedupe(DedupeConfig(max_silence_s=math.inf, audit_share=share), seed=11)
    kept = [dedupe.judge(*pair, index).kept for index in range(trials)]
    assert abs(kept.count("audit") - share * trials) < 4 * math.sqrt(trials * share * (1 - share))
    again = Dedupe(DedupeConfig(max_silence_s=math.inf, audit_share=share), seed=11)
    assert kept[:200] == [again.judge(*pair, index).kept for index in range(200)]


def test_a_pair_kept_for_the_audit_does_not_become_the_reference() -> None:
    """Otherwise everything could drift away unnoticed, in steps below the threshold."""
    start = scene(7, 80, 120)
    dedupe = Dedupe(DedupeConfig(max_silence_s=math.inf, audit_share=1.0))
    verdicts = judged(dedupe, *[(with_object(start, 100, 60, 20, 4 * step),) * 2 for step in range(8)])
    assert {"new", "audit"} == {verdict.kept for verdict in verdicts[1:]}


@pytest.mark.parametrize(("left", "right", "junk"), [(5, 5, "dark"), (120, 5, "covered"), (5, 120, "covered")])
def test_an_eye_that_sees_nothing_is_junk(left: int, right: int, junk: str) -> None:
    """Grey level 5 with sensor noise stands for a cap, a scene around 120 for an open eye."""
    random = np.random.default_rng(0)
    pair = [as_image(random.normal(5, 2, (HEIGHT, WIDTH)).astype(np.float32)) if level == 5 else scene(1)
            for level in (left, right)]  # fmt: skip
    verdict = Dedupe(NEVER).judge(pair[0], pair[1], 0)
    assert (verdict.kept, verdict.junk) == (None, junk)


def test_a_dark_room_with_a_lamp_is_not_junk() -> None:
    room = with_object(np.full((HEIGHT, WIDTH), 4, np.uint8), 100, 40, 30, 200)
    assert Dedupe(NEVER).judge(room, room, 0).kept == "new"


def test_a_blurred_pair_is_judged_as_any_other_and_marked_as_blurred() -> None:
    random = np.random.default_rng(0)
    sharp = as_image(scene(1) + random.normal(0, 25, (HEIGHT, WIDTH)).astype(np.float32))
    soft = as_image(cv2.GaussianBlur(sharp, (0, 0), 4))
    first, second = Dedupe(NEVER).judge(sharp, sharp, 0), Dedupe(NEVER).judge(sharp, soft, 0)
    assert (first.kept, first.blurred, second.kept, second.blurred) == ("new", False, "new", True)


def test_an_adaptive_threshold_finds_its_target_of_pairs_an_hour() -> None:
    """Objects of exponentially distributed contrast come and go at 10 Hz; the target is a fifth of the pairs."""
    random = np.random.default_rng(3)
    plain = np.full((36, 64), 100, np.uint8)
    config = DedupeConfig(target_per_hour=7200, audit_share=0, ring=0)
    dedupe = Dedupe(config)
    kept = []
    for index in range(8000):
        x, y = random.integers(0, 60), random.integers(0, 32)
        view = with_object(plain, int(x), int(y), 2, int(random.exponential(25)))
        kept.append(dedupe.judge(view, view, index * SECOND // 10).kept is not None)
    assert np.mean(kept[4000:]) == pytest.approx(0.2, rel=0.1)


def test_an_adaptive_threshold_stays_above_sensor_noise_when_nothing_happens() -> None:
    pair = (scene(1), scene(2))
    dedupe = Dedupe(DedupeConfig(target_per_hour=720, audit_share=0))
    for index in range(500):
        dedupe.judge(*pair, index * 3600 * SECOND)
    assert dedupe.threshold >= 3.99


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 0}, "threshold"),
        ({"threshold": 256}, "threshold"),
        ({"threshold": math.nan}, "threshold"),
        ({"max_silence_s": 0}, "max_silence_s"),
        ({"audit_share": 1.5}, "audit_share"),
        ({"ring": -1}, "ring"),
        ({"target_per_hour": math.inf}, "target_per_hour must be a finite number, got inf"),
        ({"target_per_hour": math.nan}, "target_per_hour must be a finite number, got nan"),
        ({"dark_mean": math.nan}, "dark_mean must be a finite number"),
        ({"dark_contrast": math.inf}, "dark_contrast must be a finite number"),
        ({"blur_variance": -math.inf}, "blur_variance must be a finite number"),
        ({"target_per_hour": 100}, "max_silence_s 10 alone keeps 360"),
    ],
)
def test_a_setting_out_of_range_is_refused_in_one_line(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        DedupeConfig(**change)  # type: ignore[arg-type]
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("height", "width"), [(720, 1280), (480, 752), (370, 1226), (90, 160), (28, 28)])
def test_luma_is_small_and_the_same_from_pixels_and_from_a_jpeg(height: int, width: int) -> None:
    big = as_image(cv2.resize(scene(4), (width, height), interpolation=cv2.INTER_CUBIC))
    colour = np.stack([big, big, big], axis=2)
    jpeg = cv2.imencode(".jpg", colour)[1].tobytes()
    from_pixels, from_jpeg = luma_of(EyeImage(0, pixels=colour)), luma_of(EyeImage(0, jpeg=jpeg))
    for luma in (from_pixels, from_jpeg):
        assert luma.dtype == np.uint8
        assert min(height, 2 * GRID[1]) <= luma.shape[0] <= 4 * GRID[1] + 180
    one, other = (cv2.resize(luma, GRID, interpolation=cv2.INTER_AREA) for luma in (from_pixels, from_jpeg))
    assert np.abs(one.astype(int) - other).mean() < 2


def test_the_hardwares_own_luma_is_taken_as_it_is() -> None:
    luma = scene(1)
    assert luma_of(EyeImage(0, pixels=np.zeros((720, 1280, 3), np.uint8), luma=luma)) is luma


def test_a_jpeg_that_does_not_decode_is_a_bad_shot() -> None:
    jpeg = cv2.imencode(".jpg", scene(1))[1].tobytes()
    with pytest.raises(BadShot, match="cut off"):
        luma_of(EyeImage(0, jpeg=jpeg[: len(jpeg) // 2]))
    with pytest.raises(BadShot, match="no frame"):
        luma_of(EyeImage(0, jpeg=b"\xff\xd8\xff\xd9"))


@pytest.mark.parametrize("name", ["kitti_street_a", "kitti_street_b", "kitti_colour"])
def test_every_pair_of_a_moving_car_is_kept(name: str, shared_data: Path) -> None:
    folder = shared_data / "stereo" / name
    pairs = list(kept_of(folder))
    assert len(pairs) == len(list((folder / "left").iterdir()))


def test_of_a_still_view_at_most_two_pairs_of_forty_are_kept(shared_data: Path) -> None:
    """One is new; audit and silence have their defaults."""
    assert 1 <= len(kept_of(shared_data / "stereo" / "euroc_still")) <= 2


def kept_of(folder: Path) -> list[str]:
    camera = open_folders(folder / "left", folder / "right", CameraSettings(start_ns=0))
    return [pair.header.kept for pair in capture(camera, Dedupe(DedupeConfig()), device="rig", epoch="0" * 32)]


def test_a_new_object_of_a_five_hundredth_of_a_real_view_is_found_and_duplicates_are_not(shared_data: Path) -> None:
    """Recall >= 0.99 at <= 1 % of duplicates kept, both under noise of 2-7 levels, 5 % of gain, half a pixel of jitter."""
    random = np.random.default_rng(1)
    photos = sorted((shared_data / "control" / "pacs" / "photo").glob("*/*.jpg"))[7::37]
    objects = [cv2.imread(str(photo), cv2.IMREAD_GRAYSCALE) for photo in photos]
    views = [
        (name, number)
        for name in ("kitti_street_a", "kitti_street_b", "euroc_still")
        for number in ("000000", "000025")
    ]
    found = kept = trials = 0
    for name, number in views:
        files = [shared_data / "stereo" / name / eye / f"{number}.jpg" for eye in ("left", "right")]
        eyes = [np.asarray(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)) for file in files]
        reference = [disturbed(eye, random) for eye in eyes]
        for _ in range(25):
            thing = np.asarray(objects[random.integers(len(objects))])
            found += is_new(reference, [disturbed(eye, random) for eye in pasted(eyes, thing, 0.002, random)])
            kept += is_new(reference, [disturbed(eye, random) for eye in eyes])
            trials += 1
    assert found / trials >= 0.99
    assert kept / trials <= 0.01


def is_new(reference: list[Image], pair: list[Image]) -> bool:
    dedupe = Dedupe(NEVER)
    dedupe.judge(reference[0], reference[1], 0)
    return dedupe.judge(pair[0], pair[1], 1).kept == "new"


def disturbed(eye: Image, random: np.random.Generator) -> Image:
    """The luma (320x180) of the view when it is seen again."""
    height, width = eye.shape
    shift = np.array([[1, 0, random.uniform(-0.5, 0.5)], [0, 1, random.uniform(-0.5, 0.5)]], np.float32)
    moved = cv2.warpAffine(eye, shift, (width, height), borderMode=cv2.BORDER_REFLECT).astype(np.float32)
    noise = random.standard_normal(eye.shape, np.float32) * np.float32(random.uniform(2, 7))
    seen = as_image(moved * np.float32(random.uniform(0.95, 1.05)) + noise)
    return np.asarray(cv2.resize(seen, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)


def pasted(eyes: list[Image], thing: Image, share: float, random: np.random.Generator) -> list[Image]:
    """Both eyes with the object in them, at a disparity of up to 40 pixels."""
    height, width = eyes[0].shape
    side = round(math.sqrt(share * height * width))
    y, x, disparity = random.integers(height - side), random.integers(40, width - side), random.integers(40)
    small = cv2.resize(thing, (side, side), interpolation=cv2.INTER_AREA)
    changed = [eye.copy() for eye in eyes]
    changed[0][y : y + side, x : x + side] = small
    changed[1][y : y + side, x - disparity : x - disparity + side] = small
    return changed
