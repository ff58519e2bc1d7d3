"""`python -m device calibrate`: known cameras paint a board, and the calibration that is found brings their rows together."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from painted_cameras import PaintedCameras, cameras

from device.__main__ import main
from device.board.charuco import Board
from device.board.solve import CalibrationFailed, calibrate
from device.board.views import View, Views
from stream.calibration.file import read_calibration
from stream.calibration.rectify import row_errors
from stream.calibration.stereo import Floats, Model, StereoCalibration, floats
from stream.image import Image

SIZE = (360, 480)
POSES: list[tuple[float, ...]] = [
    *((0, 0, 0, x, y, 0.5) for x in (-0.12, 0.0, 0.14) for y in (-0.09, 0.0, 0.09)),
    *((turn, tip, 5, 0.02, 0.0, 0.42) for turn, tip in ((30, 0), (-30, 0), (0, 30), (0, -30), (20, 20), (-20, 25))),
]


def painted(model: Model, poses: list[tuple[float, ...]]) -> tuple[StereoCalibration, list[tuple[Image, Image]]]:
    known, picture = cameras(model, SIZE), Board().picture()
    picture = np.asarray(cv2.resize(picture, None, fx=0.08, fy=0.08, interpolation=cv2.INTER_AREA), np.uint8)
    eyes, shown = PaintedCameras(known), []
    for turn, tip, roll, x, y, depth in poses:
        depth = depth if model == "pinhole" else 0.6 * depth
        rotation = floats(cv2.Rodrigues(np.radians([turn, tip, roll]))[0])
        shown.append(eyes.see(picture, 0.3, rotation, floats([x + 0.02, y, depth])))
    return known, shown


def rows_of_true_points(known: StereoCalibration, found: StereoCalibration) -> Floats:
    """How far rows are apart, by the found calibration, of points as the known cameras see them."""
    points = np.random.default_rng(0).uniform((-0.3, -0.2, 0.6), (0.3, 0.2, 3.0), (200, 1, 3))
    module = cv2.fisheye if known.model == "fisheye" else cv2
    zero, turn = np.zeros((3, 1)), cv2.Rodrigues(known.rotation)[0]
    seen = [
        module.projectPoints(points, spin, move, eye.matrix, eye.distortion)[0].reshape(-1, 2)
        for eye, spin, move in ((known.left, zero, zero), (known.right, turn, known.translation.reshape(3, 1)))
    ]
    return row_errors(found, *seen)


@pytest.mark.parametrize("model", ["pinhole", "fisheye"])
def test_a_folder_of_views_of_a_known_rig_gives_a_calibration_by_which_rows_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model: Model
) -> None:
    known, shown = painted(model, POSES)
    for eye, name in enumerate(("left", "right")):
        (tmp_path / name).mkdir()
        for number, pair in enumerate([shown[0], *shown]):
            cv2.imwrite(str(tmp_path / name / f"{number}.png"), pair[eye])
    out = tmp_path / "calibration.json"
    words = ["calibrate", "--camera", f"dir:{tmp_path}", "--out", str(out), "--model", model, "--json"]
    assert main(words) == 0
    printed, said = capsys.readouterr()
    figures = json.loads(printed)
    found = read_calibration([out])
    assert found.size == SIZE
    assert np.abs(rows_of_true_points(known, found)).max() < 0.5
    assert figures["row_px"] < 0.5 < 3 < figures["row_px_before"]
    assert figures["reprojection_px"] < 0.5
    assert figures["measured_views"] == (figures["views"] + figures["measured_views"]) // 5
    assert "2 like an earlier one" in said


def test_the_board_is_written_as_a_picture_that_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "board.png"
    assert main(["calibrate", "--board-png", str(path), "--columns", "7", "--rows", "5", "--square-mm", "25"]) == 0
    assert "--columns 7 --rows 5 --square-mm 25" in capsys.readouterr().out
    picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    assert len(Board(7, 5).find(np.asarray(picture, np.uint8)).ids) == 6 * 4
    assert picture.shape == (6 * 295, 8 * 295), "25 mm at 300 dots an inch"


def test_views_are_taken_if_they_help_and_what_is_missing_is_said() -> None:
    _, shown = painted("pinhole", [POSES[4], POSES[4], POSES[0], POSES[10]])
    views = Views(Board(), wanted=3)
    empty = np.full(SIZE, 200, np.uint8)
    part = shown[0][0].copy()
    part[:, :282] = 200
    assert [views.look(*pair) for pair in ((empty, empty), (part, shown[0][1]), *shown)] == [
        *("no board", "too few corners", "taken", "like an earlier one", "taken", "taken"),
    ]
    assert not views.complete
    assert "3 of 3 views; bring it to the top right" in views.describe()
    assert "tilt it" in views.describe()
    assert "1 no board" in views.describe()
    with pytest.raises(ValueError, match="several sizes"):
        views.look(empty[:100], empty[:100])


def test_a_live_board_has_to_be_held_still() -> None:
    _, shown = painted("pinhole", [POSES[4], POSES[0], POSES[0]])
    views = Views(Board(), wanted=3, hold_still=True)
    assert [views.look(*pair) for pair in shown] == ["not still", "not still", "taken"]


def views_of(noise: float, count: int = 12, moved: float = 0.0) -> list[View]:
    """Views without painting: corners as known cameras see them, with noise, and with a board that moves between the eyes."""
    known, board, random = cameras("pinhole", SIZE), Board(), np.random.default_rng(0)
    ids, views = np.arange(40), []
    for turn, tip, roll, x, y, depth in POSES[-count:]:
        rotation = floats(cv2.Rodrigues(np.radians([turn, tip, roll]))[0])
        points = board.places(ids) @ rotation.T + (x - 0.1, y - 0.07, depth)
        late = np.add(points, (0, moved * random.uniform(-1, 1), 0))
        seen = []
        for eye, placed, spin, move in (
            (known.left, points, np.eye(3), np.zeros(3)),
            (known.right, late, known.rotation, known.translation),
        ):
            spun = cv2.Rodrigues(spin)[0]
            projected = cv2.projectPoints(placed, spun, move.reshape(3, 1), eye.matrix, eye.distortion)[0]
            seen.append(floats(projected).reshape(-1, 2) + random.normal(0, noise, (len(ids), 2)))
        views.append(View(ids, *seen))
    return views


def test_a_bad_result_is_refused_with_the_remedy_and_replaces_nothing(tmp_path: Path) -> None:
    found, quality = calibrate(views_of(0.1), Board(), SIZE, "pinhole")
    assert quality.row_px < 0.5
    assert found.size == SIZE
    for views, reason in (
        (views_of(0.1, count=7), "only 7 useful views, 8 are needed: calibrate with more views"),
        (views_of(2.0), "px from where they should be, 1.0 at most: glue the board"),
        (views_of(0.1, moved=0.01), "px apart, 1.0 at most: hold the board still"),
    ):
        with pytest.raises(CalibrationFailed, match=reason):
            calibrate(views, Board(), SIZE, "pinhole")
    old = tmp_path / "calibration.json"
    old.write_text("older")
    for eye in ("left", "right"):
        (tmp_path / eye).mkdir()
        cv2.imwrite(str(tmp_path / eye / "0.png"), np.full(SIZE, 200, np.uint8))
    assert main(["calibrate", "--camera", f"dir:{tmp_path}", "--out", str(old)]) == 1
    assert old.read_text() == "older"


def test_settings_that_make_no_board_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--views", "3"]) == 2
    assert main(["calibrate", "--columns", "2", "--camera", "sim"]) == 2
    assert main(["calibrate", "--camera", "sim"]) == 2
    said = capsys.readouterr().err
    assert "--views must be 8 to 200" in said
    assert "the simulated world has no board" in said


@pytest.mark.parametrize(
    "words", ["--tolerance-ms inf", "--right-late-ms inf", "--right-late-ms nan", "--exposure-us -1"]
)
def test_a_number_that_no_camera_can_use_is_refused_by_its_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    for eye in ("left", "right"):
        (tmp_path / eye).mkdir()
        cv2.imwrite(str(tmp_path / eye / "1700000000000.png"), np.full(SIZE, 200, np.uint8))
    flag, number = words.split()
    assert main(["calibrate", "--camera", f"dir:{tmp_path}", flag, number]) == 2
    assert f"error: {flag} must be " in capsys.readouterr().err
