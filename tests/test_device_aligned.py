"""A rig brings the rows of both images together before dedupe and encoding: by a calibration, or by a shift."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from painted_cameras import SIZE, PaintedCameras, cameras, speckles
from test_stream_calibration import euroc, pose
from test_stream_rows import two_depths

from device.camera import BadShot, CameraSettings, EyeImage, Shot
from device.cameras.aligned import MAX_WAITING, AlignedCamera, AutoShift
from device.cameras.open import open_camera
from device.cli.doctor import check_rows
from device.cli.settings import StreamSettings
from device.cli.stream import COMMAND
from stream.calibration.align import Shift
from stream.calibration.file import write_calibration
from stream.calibration.rows import matched_rows, row_offset
from stream.calibration.stereo import CalibrationError
from stream.image import Image


class Shown:
    """A camera that shows these shots."""

    fps: float | None = 10.0

    def __init__(self, shots: Sequence[Shot | BadShot]) -> None:
        self.closed = False
        self._shots = shots

    def __iter__(self) -> Iterator[Shot | BadShot]:
        yield from self._shots

    def close(self) -> None:
        self.closed = True


def shot(left: Image, right: Image, *, jpeg: bool = False) -> Shot:
    eyes = (EyeImage(1, pixels=left, luma=left[::8, ::8]), EyeImage(2, pixels=right))
    if jpeg:
        eyes = tuple(EyeImage(0, jpeg=cv2.imencode(".jpg", eye)[1].tobytes()) for eye in (left, right))  # type: ignore[assignment]
    return Shot(*eyes)


def folders(root: Path, pairs: Sequence[tuple[Image, Image]], names: tuple[str, str] = ("left", "right")) -> Path:
    for eye, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number, pair in enumerate(pairs):
            cv2.imwrite(str(root / name / f"{number:04}.jpg"), pair[eye])
    return root


def offset_of(shots: Sequence[Shot | BadShot]) -> float:
    pixels = [(s.left.pixels, s.right.pixels) for s in shots if isinstance(s, Shot)]
    found = row_offset([matched_rows(np.asarray(left), np.asarray(right)) for left, right in pixels], 240)
    assert found is not None
    return found.px


def test_a_rig_with_a_calibration_sends_rectified_images(tmp_path: Path) -> None:
    painted = PaintedCameras(cameras())
    pairs = [painted.see(speckles(), 4.0, *pose(5, number, 0)) for number in (0, 8)]
    write_calibration(tmp_path / "rig.json", painted.calibration, {})
    name = f"dir:{folders(tmp_path / 'walk', pairs)}"
    plain = [s for s in open_camera(name) if isinstance(s, Shot)]
    assert all(s.left.jpeg is not None for s in plain)
    shots = list(open_camera(name, CameraSettings(rectify=(tmp_path / "rig.json",))))
    assert len(shots) == 2
    assert all(isinstance(s, Shot) and s.left.jpeg is None and s.left.shape()[:2] == SIZE for s in shots)
    assert abs(offset_of(shots)) < 0.5


def test_the_calibration_of_a_root_is_named_and_used_only_if_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    painted = PaintedCameras(cameras())
    pairs = [painted.see(speckles(), 4.0, *pose(5, 0, 0))]
    folders(tmp_path, pairs, ("mav0/cam0/data", "mav0/cam1/data"))
    for eye, text in zip(("cam0", "cam1"), euroc(painted.calibration), strict=True):
        (tmp_path / "mav0" / eye / "sensor.yaml").write_text(text)
    (plain,) = open_camera(f"dir:{tmp_path}")
    assert isinstance(plain, Shot)
    assert plain.left.jpeg is not None
    assert f"has a calibration, which is not used: --rectify {tmp_path}" in caplog.text
    caplog.clear()
    assert abs(offset_of(list(open_camera(f"dir:{tmp_path}", CameraSettings(rectify=(tmp_path,)))))) < 0.5
    assert not caplog.text


@pytest.mark.parametrize("jpeg", [False, True])
def test_a_shift_that_is_told_is_cut_off(jpeg: bool) -> None:
    camera = Shown([shot(*two_depths(3), jpeg=jpeg), BadShot("torn")])
    aligned = AlignedCamera(camera, Shift(3))
    done, bad = aligned
    assert isinstance(done, Shot)
    assert done.left.shape() == done.right.shape() == (285, 400, 1)
    assert (done.left.jpeg, done.left.luma) == (None, None)
    assert offset_of([done]) == pytest.approx(0, abs=0.5)
    assert isinstance(bad, BadShot)
    aligned.close()
    assert camera.closed


@pytest.mark.parametrize(("rows", "height"), [(11, 277), (-6, 282), (0, 288)])
def test_auto_measures_the_first_shots_and_loses_none(rows: int, height: int, caplog: pytest.LogCaptureFixture) -> None:
    flat = np.full((288, 400), 90, np.uint8)
    shots: list[Shot | BadShot] = [shot(flat, flat)]
    shots += [BadShot("torn"), *(shot(*two_depths(rows, seed), jpeg=True) for seed in range(12))]
    done = list(AlignedCamera(Shown(shots), AutoShift()))
    assert len(done) == len(shots)
    assert [s.left.shape()[0] for s in done if isinstance(s, Shot)] == [height] * 13
    assert all((s.left.jpeg is None) == (rows != 0) for s in done[2:] if isinstance(s, Shot))
    where = f"px {'higher' if rows < 0 else 'lower'}" if rows else "in the same row"
    assert f"{where} in the right image" in caplog.text


def test_auto_decides_by_a_recording_that_is_shorter_than_it_wants() -> None:
    done = list(AlignedCamera(Shown([shot(*two_depths(11, seed)) for seed in range(3)]), AutoShift()))
    assert [s.left.shape()[0] for s in done if isinstance(s, Shot)] == [277] * 3


def test_auto_says_if_nothing_can_be_measured_and_looks_again_later(caplog: pytest.LogCaptureFixture) -> None:
    flat, good = np.full((288, 400), 90, np.uint8), two_depths(3)
    dark = [shot(flat, flat)] * MAX_WAITING
    done = list(AlignedCamera(Shown([*dark, *[shot(*good)] * 250]), AutoShift()))
    heights = [s.left.shape()[0] for s in done if isinstance(s, Shot)]
    assert "too few corners" in caplog.text
    assert heights[MAX_WAITING + 100] == 288, "before eight shots were measured, one of thirty"
    assert heights[-1] == 285


def test_what_does_not_fit_at_the_start_ends_the_rig_and_later_is_a_bad_shot(tmp_path: Path) -> None:
    write_calibration(tmp_path / "rig.json", cameras(), {})
    settings = CameraSettings(rectify=(tmp_path / "rig.json",))
    small, right = (np.full(size, 90, np.uint8) for size in ((96, 128), SIZE))
    with pytest.raises(CalibrationError, match="the images are 128x96, and the calibration is of 320x240"):
        list(open_camera(f"dir:{folders(tmp_path / 'small', [(small, small)])}", settings))
    mixed = folders(tmp_path / "mixed", [(right, right), (small, small)])
    first, second = open_camera(f"dir:{mixed}", settings)
    assert isinstance(first, Shot)
    assert isinstance(second, BadShot)
    with pytest.raises(CalibrationError, match="not there"):
        open_camera("sim", CameraSettings(rectify=(tmp_path / "none.json",)))


def test_rectified_images_are_passed_on_untouched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    row = "718.9 0 607.2 {} 0 718.9 185.2 0 0 0 1 0"
    (tmp_path / "calib.txt").write_text(f"P0: {row.format(0)}\nP1: {row.format(-386.1)}\n")
    name = f"dir:{folders(tmp_path, [two_depths(0)], ('image_0', 'image_1'))}"
    (plain,), (told,) = open_camera(name), open_camera(name, CameraSettings(rectify=(tmp_path,)))
    assert isinstance(plain, Shot)
    assert isinstance(told, Shot)
    assert plain.left.jpeg is not None
    assert plain.left.jpeg == told.left.jpeg
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "rows agree already" in caplog.text


def test_doctor_shows_how_far_rows_are_apart_and_what_to_do() -> None:
    def found(rows: float, turned: float = 0.0) -> tuple[str, str]:
        left, right = two_depths(rows)
        turn = cv2.getRotationMatrix2D((200, 144), turned, 1.0)
        finding = check_rows([shot(left, np.asarray(cv2.warpAffine(right, turn, (400, 288)), np.uint8)), BadShot("x")])
        return finding.level, finding.text

    level, text = found(0)
    assert (level, "in the same row" in text) == ("ok", True)
    level, text = found(11)
    assert level == "warning"
    assert "11.0 px lower" in text
    assert "--row-shift-px 11 corrects it" in text
    level, text = found(0, 2.5)
    assert level == "warning"
    assert "calibrate" in text
    flat = np.full((288, 400), 90, np.uint8)
    assert check_rows([shot(flat, flat)]).level == "ok"
    assert check_rows([shot(flat, flat[:, :100])]).level == "ok"
    assert check_rows([BadShot("x")]).level == "ok"


def test_settings_take_a_number_or_auto_and_not_both_corrections(tmp_path: Path) -> None:
    def parsed(*words: str) -> StreamSettings:
        settings: StreamSettings = COMMAND.parse(words)
        return settings

    assert parsed("--row-shift-px", "auto").camera_settings.row_shift_px == "auto"
    assert parsed("--row-shift-px", "-3").camera_settings.row_shift_px == -3
    assert parsed("--rectify", "a.yaml", "b.yaml").camera_settings.rectify == (Path("a.yaml"), Path("b.yaml"))
    (tmp_path / "rig.toml").write_text('rectify = ["a.yaml"]')
    assert parsed("--config", str(tmp_path / "rig.toml")).rectify == (Path("a.yaml"),)
    (tmp_path / "rig.toml").write_text("row_shift_px = 4")
    assert parsed("--config", str(tmp_path / "rig.toml")).row_shift_px == 4
    (tmp_path / "rig.toml").write_text('row_shift_px = "auto"')
    assert parsed("--config", str(tmp_path / "rig.toml")).row_shift_px == "auto"
    with pytest.raises(ValueError, match="give one of them"):
        parsed("--rectify", "a.yaml", "--row-shift-px", "3")
    with pytest.raises(ValueError, match="-1000 to 1000, or auto, got 5000"):
        parsed("--row-shift-px", "5000")
