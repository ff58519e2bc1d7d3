"""`python -m device calibrate`: two cameras are calibrated with a printed board."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import cv2

from device.board.charuco import Board
from device.board.solve import MIN_VIEWS, calibrate
from device.board.views import Views
from device.camera import BadShot, CameraSettings, configure_opencv, pixels_of
from device.cameras.open import Origin, camera_kind, open_camera
from device.cli.capture_settings import CaptureSettings, parse_size
from stream.calibration.file import write_calibration
from stream.calibration.stereo import CalibrationError, Model
from stream.errors import reported_as
from stream.fsync import replace_file
from stream.host.command import Command
from stream.host.program import Result, Stop
from stream.host.progress import Progress
from stream.host.typed import here

MAX_VIEWS = 200
DESCRIPTION = """Calibrate two cameras with a printed board, so that --rectify brings things into the same row of both images.

  python -m device calibrate --board-png board.png                      the board: print it, and glue it onto something flat
  python -m device calibrate --camera v4l2:0,2 --out calibration.json   show it to both cameras: everywhere, tilted, held still
  python -m device --camera v4l2:0,2 --rectify calibration.json         use it

Any camera of `python -m device --help`, also films and folders. A live camera is finished when it has seen enough; Ctrl-C ends it
earlier, with what it has. Give --columns, --rows and --square-mm as printed. An older file is only replaced by a good result.
Exit codes: 0 done, 1 the views give no good calibration, 2 wrong settings."""


@dataclass(frozen=True, kw_only=True)
class CalibrateSettings:
    """Calibrate two cameras with a printed board."""

    camera: str = "v4l2:0,2"
    """Kind of camera, and after a colon what to open, as for `python -m device`."""
    out: Path = Path("calibration.json")
    """The file to write."""
    board_png: Path | None = None
    """Write the board as an image to print, and do nothing else."""
    columns: int = 9
    """Squares of the board across."""
    rows: int = 6
    """Squares of the board down."""
    square_mm: float = 30.0
    """Side of a square as printed, mm. 30 fits on A4 and Letter."""
    views: int = 20
    """Views of the board to take from a live camera; at most this many from a recording."""
    model: Model = "pinhole"
    """Model of the lenses; fisheye: for lenses with more than about 120 degrees."""
    size: str | None = None
    """WIDTHxHEIGHT requested from the hardware; the rig must use the same."""
    exposure_us: float | None = None
    """Exposure time in microseconds that is requested from the hardware; a short one is sharp."""
    tolerance_ms: float | None = None
    """Images of two films or folders that are further apart, in milliseconds, make no pair."""
    right_late_ms: float = 0.0
    """How many milliseconds later than the left film or folder the right one began."""
    json: bool = False
    """End with one line of JSON on the standard output."""

    def check(self) -> None:
        """Raise ValueError, in one line, for a setting that cannot be used."""
        if not MIN_VIEWS <= self.views <= MAX_VIEWS:
            raise ValueError(f"--views must be {MIN_VIEWS} to {MAX_VIEWS}, got {self.views}")
        CaptureSettings(
            exposure_us=self.exposure_us, tolerance_ms=self.tolerance_ms, right_late_ms=self.right_late_ms
        ).check()

    @property
    def camera_settings(self) -> CameraSettings:
        """The settings that concern the camera. Raises ValueError for a size that cannot be used."""
        return CameraSettings(
            size=parse_size(self.size),
            exposure_us=self.exposure_us,
            tolerance_ms=self.tolerance_ms,
            right_late_ms=self.right_late_ms,
        )


def run(settings: CalibrateSettings, stop: Stop) -> Result:
    """Write the board, or collect views and write the calibration. Raises CameraError, CalibrationError or ValueError."""
    configure_opencv()
    board = Board(settings.columns, settings.rows, settings.square_mm / 1e3)
    if settings.board_png is not None:
        return _write_board(board, settings)
    origin = camera_kind(settings.camera).origin
    if origin is Origin.SIMULATION:
        raise CalibrationError("the simulated world has no board, and its rows agree: name a camera with --camera")
    live = origin is Origin.HARDWARE
    views = Views(board, wanted=settings.views, hold_still=live)
    with closing(open_camera(settings.camera, settings.camera_settings)) as camera, Progress() as progress:
        for shot in camera:
            if stop.is_set() or (views.complete if live else len(views.taken) >= settings.views):
                break
            try:
                if isinstance(shot, BadShot):
                    raise shot
                views.look(pixels_of(shot.left), pixels_of(shot.right))
            except BadShot as bad:
                progress.update(lambda bad=bad: f"bad shot: {bad}")  # type: ignore[misc]
            progress.update(views.describe)
        progress.log(views.describe())
    if views.size is None:
        raise CalibrationError(f"{settings.camera}: no shot can be read: `{here('device', 'doctor')}` says why")
    found, quality = calibrate(views.taken, board, views.size, settings.model)
    write_calibration(settings.out, found, quality.figures())
    text = (
        f"{settings.out}: rows are {quality.row_px:.2f} px apart now, {quality.row_px_before:.1f} before (in "
        f"{quality.measured_views} views that were not used), reprojection {quality.reprojection_px:.2f} px; "
        f"use it with --rectify {settings.out}"
    )
    if missing := views.missing():
        text += f"\nit may be wrong where the board was not seen; another time {missing}"
    return Result(text, {"out": str(settings.out), **quality.figures()})


def _write_board(board: Board, settings: CalibrateSettings) -> Result:
    assert settings.board_png is not None
    done, data = cv2.imencode(".png", board.picture())
    assert done
    with reported_as(CalibrationError, f"{settings.board_png} cannot be written"):
        replace_file(settings.board_png, data.tobytes())
    text = (
        f"{settings.board_png}: print it, glue it onto something flat, and measure a square: --columns {settings.columns} --rows "
        f"{settings.rows} --square-mm {settings.square_mm:g} if it is {settings.square_mm:g} mm"
    )
    return Result(text, {"board": str(settings.board_png)})


COMMAND = Command(run=run, settings=CalibrateSettings, description=DESCRIPTION, check=CalibrateSettings.check)
