"""`python -m device record`: a camera into a file, in one process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from painted_cameras import cameras
from test_device_source import album, black

from device.__main__ import main
from stream.calibration.camera_info import recorded_calibration
from stream.calibration.file import write_calibration
from stream.calibration.rectify import rectified
from stream.recording.source import RecordingSource

SIM = ("--camera", "sim", "--size", "64x48", "--places", "2", "--count", "20", "--dedupe-threshold", "5")


@pytest.mark.usefixtures("own_signals")
def test_what_a_camera_shows_is_in_the_file_and_its_counts_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "walk.mcap"
    assert main(["record", *SIM, "--out", str(out), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    pairs = RecordingSource([out]).receive(100, 0.0)
    assert figures["file"] == str(out)
    assert [pair.header.seq for pair in pairs] == list(range(figures["pairs"]))
    assert figures["captured"] == 20 == figures["pairs"] + figures["suppressed"] + figures["junk"]


@pytest.mark.usefixtures("own_signals")
def test_the_calibration_of_rectified_images_is_in_the_file(tmp_path: Path) -> None:
    known, out = cameras(), tmp_path / "walk.mcap"
    assert known.size is not None
    height, width = known.size
    write_calibration(tmp_path / "rig.json", known, {})
    words = ["--size", f"{width}x{height}", "--count", "2", "--rectify", str(tmp_path / "rig.json")]
    assert main(["record", "--camera", "sim", *words, "--out", str(out)]) == 0
    found, expected = recorded_calibration(out), rectified(known, known.size)
    np.testing.assert_allclose(found.left.matrix, expected.left.matrix)
    np.testing.assert_allclose(found.translation, expected.translation, atol=1e-9)
    np.testing.assert_allclose(found.rotation, np.eye(3), atol=1e-9)
    assert found.size == known.size
    assert len(RecordingSource([out]).receive(100, 0.0)) >= 1


@pytest.mark.usefixtures("own_signals")
def test_a_folder_of_one_camera_is_recorded_as_often_as_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "album.mcap"
    assert main(["record", "--camera", f"dir:{album(tmp_path / 'a')}", "--repeat", "2", "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith("12 pairs, ")


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (["--camera", "sim", "--count", "0"], 2, "--count must be 1"),
        (["--camera", "nothing:1"], 2, "no camera 'nothing:1'"),
        (["--camera", "sim", "--repeat", "0"], 2, "--repeat must be 1"),
        (["--camera", "sim", "--duration", "-1"], 2, "--duration must be"),
    ],
)
def test_a_wrong_setting_is_one_line_and_leaves_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, what: str
) -> None:
    assert main(["record", *words, "--out", str(tmp_path / "a.mcap")]) == code
    assert what in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("own_signals")
def test_a_file_that_exists_is_not_touched_and_the_recording_gets_the_next_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "walk.mcap"
    out.write_bytes(b"mine")
    for name in ("walk-2.mcap", "walk-3.mcap"):
        assert main(["record", *SIM, "--out", str(out), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["file"] == str(tmp_path / name)
        assert RecordingSource([tmp_path / name]).receive(100, 0.0)
    assert out.read_bytes() == b"mine"
    assert main(["record", *SIM, "--out", str(tmp_path / "none" / "walk.mcap")]) == 2
    assert "make the folder first, or choose another --out" in capsys.readouterr().err


@pytest.mark.usefixtures("own_signals")
def test_a_camera_of_which_no_pair_is_kept_leaves_no_file_and_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.mcap"
    assert main(["record", "--camera", f"dir:{black(tmp_path / 'black')}", "--out", str(out)]) == 1
    assert "no pair was kept" in capsys.readouterr().out
    assert not out.exists()
