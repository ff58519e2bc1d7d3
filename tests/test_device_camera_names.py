"""What may stand behind `--camera`: names, addresses, options, and classes of one's own."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import ROOT, environment
from waiting import WAIT_S

from device.camera import CameraError, CameraMissing, CameraSettings, Shot
from device.cameras.custom import CustomCamera
from device.cameras.open import CAMERAS, camera_kind, open_camera
from device.cameras.spec import addresses, files, options, redacted
from device.capture import capture
from device.dedupe import Dedupe, DedupeConfig

PAIR = "dir:LEFT,RIGHT"
TWO, ONE = CAMERAS["rtsp"].form, CAMERAS["rtsp-sbs"].form


@pytest.mark.parametrize(
    ("form", "text", "names"),
    [
        (PAIR, "dir:a,b", ["a", "b"]),
        (PAIR, r"dir:a\, b/left,a\, b/right", ["a, b/left", "a, b/right"]),
        (PAIR, r"dir:a\\,b", ["a\\", "b"]),
        (PAIR, r"dir:a\b,c", [r"a\b", "c"]),
        (PAIR, "dir:a:b,c?d", ["a:b", "c?d"]),
        (PAIR, "dir:~/left,x/~", [str(Path.home() / "left"), "x/~"]),
        ("sbs:FILE", "sbs:a, b.mp4", ["a, b.mp4"]),
        ("sbs:FILE", r"sbs:a\, b.mp4", ["a, b.mp4"]),
        ("sim", "sim", []),
    ],
)
def test_names_of_files_may_hold_anything(form: str, text: str, names: list[str]) -> None:
    assert files(form, text) == names


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=2, max_size=2))
def test_every_two_names_can_be_written(names: list[str]) -> None:
    written = ",".join(name.replace("\\", "\\\\").replace(",", "\\,") for name in names)
    if not any(name.startswith("~") or "://" in name for name in names):
        assert files(PAIR, f"dir:{written}") == names


def test_a_comma_too_much_says_how_a_comma_is_written() -> None:
    with pytest.raises(CameraError, match=r"expected dir:LEFT,RIGHT \(a comma in a name is written \\,\)"):
        files(PAIR, "dir:a, b/left,a, b/right")


@pytest.mark.parametrize(
    ("form", "text", "found"),
    [
        (TWO, "rtsp://a/1,rtsp://b/2", ["rtsp://a/1", "rtsp://b/2"]),
        (TWO, "http://a//x?p=1,2&q=\\,RTSPS://u:p,w@b:554/2,3", ["http://a//x?p=1,2&q=\\", "RTSPS://u:p,w@b:554/2,3"]),
        (ONE, "rtsp-sbs://u:p@a/1,2", ["rtsp://u:p@a/1,2"]),
        (ONE, "https-tb://a", ["https://a"]),
    ],
)
def test_addresses_are_passed_on_as_they_are(form: str, text: str, found: list[str]) -> None:
    assert addresses(form, text) == found
    assert camera_kind(text).names is addresses


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("rtsp://a/1", "has 1 of the addresses .*rtsp-sbs://"),
        ("rtsp-tb://a,rtsp://b", "has 2 of the addresses"),
        ("video:rtsp://a/left,rtsp://a/right", "named by its address alone: rtsp://LEFT,rtsp://RIGHT"),
        ("sbs:http://a/both", "rtsp-sbs://ADDRESS"),
        ("sbs:/dev/null", "/dev/null is a camera, not a file: .*v4l2-sbs:/dev/null"),
        ("sbs:/dev/video977", "is a camera, not a file"),
        ("sbs:/dev/v4l/by-id/none", "is a camera, not a file"),
        ("sbs:/dev/shm/none.mp4", "no video /dev/shm/none.mp4"),
        ("v4l2:0", "or v4l2-sbs:0 or v4l2-tb:0 for one camera with both eyes"),
        ("video:", "or sbs:FILE or tb:FILE"),
        ("webcam:0", "no camera 'webcam:0': expected one of"),
        ("v4l2-sbs:", "expected v4l2-sbs:0"),
        ("oak:?colour", "options are \\?key=value"),
    ],
)
def test_a_camera_that_is_named_in_another_way_is_told_the_right_one(spec: str, text: str) -> None:
    with pytest.raises(CameraError, match=text) as refusal:
        open_camera(spec)
    assert refusal.value.exit_code == 2
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://user:secret@host:554/1", "rtsp://***@host:554/1"),
        ("rtsp://user:secr@et/x@host/1,http://host2/x", "rtsp://***@host/1,http://host2/x"),
        ("rtsp://host/1,rtsp-sbs://u:secret@h", "rtsp://host/1,rtsp-sbs://***@h"),
        ("http://host/video.cgi?user=u&pwd=secret", "http://host/video.cgi?***"),
        ("rtsp://host:554/user=admin&password=secret&channel=1", "rtsp://host:554/user=admin&password=***&channel=1"),
        ("lab.cameras:Own?token=secret", "lab.cameras:Own?***"),
        ("dir:a?b/left,a@b/right", "dir:a?b/left,a@b/right"),
        ("v4l2:0,2", "v4l2:0,2"),
    ],
)
def test_what_is_secret_in_a_name_is_never_shown(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown


def test_options_are_texts() -> None:
    assert options("a:B?x=1&y=a%20b&z=") == ("a:B", {"x": "1", "y": "a b", "z": ""})
    assert options("a:B") == ("a:B", {})
    with pytest.raises(CameraError, match=r"^'a:B\?\*+': an option stands there twice$"):
        options("a:B?x=1&x=2")


LAB = """
import time
import numpy as np
from device.camera import BadShot, CameraMissing, EyeImage, Shot

class Noise:
    fps = 50.0
    closed = False

    def __init__(self, settings, *, level="64", kind="fine"):
        self.size, self.level, self.kind = settings.size or (24, 32), int(level), kind
        if kind == "missing":
            raise CameraMissing("no camera at lab:0: plug it in")

    def __iter__(self):
        for number in range(3):
            image = np.full(self.size, self.level + number, np.uint8)
            yield Shot(EyeImage(number, image), EyeImage(number, image))
        yield BadShot("torn")
        if self.kind == "breaks":
            raise RuntimeError("the lens\\nfell off")
        if self.kind == "odd":
            yield "a text"

    def close(self):
        Noise.closed = True

class Odd:
    fps = None

    def __init__(self, settings, *, made):
        self.made = made

    def __iter__(self):
        eye = eval(self.made, globals() | {"image": np.zeros((24, 32), np.uint8)})
        yield Shot(eye, eye)

    def close(self): ...

class Half:
    fps = None
    def __init__(self, settings): ...
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module of cameras that is not in this project."""
    (tmp_path / "lab_of_mine").mkdir()
    (tmp_path / "lab_of_mine" / "cameras.py").write_text(LAB)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("lab_of_mine", "lab_of_mine.cameras"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_a_class_of_ones_own_gets_the_settings_and_its_options(lab: Path) -> None:
    camera = open_camera("lab_of_mine.cameras:Noise?level=100", CameraSettings(size=(12, 16)))
    first, *others = islice(camera, 10)
    assert isinstance(first, Shot)
    assert first.left.pixels is not None
    assert (first.left.pixels.shape, int(first.left.pixels[0, 0])) == ((12, 16), 100)
    assert [type(shot).__name__ for shot in others] == ["Shot", "Shot", "BadShot"]
    assert camera.fps == 50.0
    camera.close()
    assert sys.modules["lab_of_mine.cameras"].Noise.closed


@pytest.mark.parametrize(
    ("spec", "code", "text"),
    [
        ("no_such_lab.cameras:Noise", 2, "there is no module no_such_lab: .*PYTHONPATH"),
        ("lab_of_mine.cameras:Nose", 2, "the module lab_of_mine.cameras has no class Nose"),
        ("lab_of_mine.cameras:LAB", 2, "has no class LAB"),
        ("lab_of_mine.cameras:Half", 2, "is no camera: it has no __iter__, close"),
        ("lab_of_mine.cameras:Noise?loud=1", 2, "cannot be opened: TypeError: .*loud"),
        ("lab_of_mine.cameras:Noise?level=x", 2, r"cannot be opened: ValueError: .*cameras\.py:\d+\)"),
        ("lab_of_mine.cameras:Noise?kind=missing", 1, "no camera at lab:0: plug it in"),
        (
            "lab_of_mine.cameras:Noise?kind=breaks",
            1,
            r"has failed: RuntimeError: the lens fell off \(.*cameras\.py:\d+\)",
        ),
        ("lab_of_mine.cameras:Noise?kind=odd", 2, "yields a str; a camera yields Shot or BadShot"),
    ],
)
def test_what_is_wrong_with_a_class_of_ones_own_is_one_line(lab: Path, spec: str, code: int, text: str) -> None:
    with pytest.raises(CameraError, match=text) as refusal:
        list(open_camera(spec))
    assert refusal.value.exit_code == code
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        ("EyeImage(1.5, image)", "captured_ns must be a whole number of nanoseconds since 1970, got 1.5"),
        ("EyeImage(np.full((3, 3), 7), image)", "captured_ns must be a whole number"),
        ("EyeImage(-1, image)", "captured_ns must be a whole number"),
        ("EyeImage(2**63, image)", "captured_ns must be a whole number"),
        ("EyeImage(1, image / 2)", r"expected a uint8 image \[H, W\] or \[H, W, 3\], got float64 \[24, 32\]"),
        ("EyeImage(1, image[..., None])", r"expected a uint8 image .*, got uint8 \[24, 32, 1\]"),
        ("EyeImage(1, image[:0])", "an image of 32x0 pixels cannot be sent: sides are 1 to 8192"),
        ("EyeImage(1, image, luma=image / 2)", "expected a uint8 image .*, got float64"),
        ("EyeImage(1, image, luma=np.zeros((24, 32, 3), np.uint8))", "luma must be grey"),
        ("EyeImage(1, jpeg='a text')", "jpeg must be bytes, got a str"),
        ("image", "an eye of its shots is a ndarray, not an EyeImage"),
    ],
)
def test_a_shot_that_is_not_as_described_is_one_line_that_names_its_class(lab: Path, made: str, text: str) -> None:
    with pytest.raises(CameraError, match=f"lab_of_mine.cameras:Odd: {text}.*device/camera.py") as refusal:
        list(CustomCamera("lab_of_mine.cameras:Odd", made=made))
    assert "\n" not in str(refusal.value)


def test_a_time_of_numpy_is_taken_as_a_number(lab: Path) -> None:
    camera = CustomCamera("lab_of_mine.cameras:Odd", made="EyeImage(np.int64(7), image)")
    pairs = capture(camera, Dedupe(DedupeConfig(off=True)), device="rig", epoch="0" * 32)
    assert [pair.header.left_ns for pair in pairs] == [7]


def test_a_rig_publishes_a_class_of_the_folder_that_it_is_started_in(lab: Path) -> None:
    camera = "lab_of_mine.cameras:Noise?level=90"
    command = [
        sys.executable,
        "-m",
        "device",
        "--camera",
        camera,
        "--bind",
        "tcp://127.0.0.1:0",
        "--spool",
        "none",
        "--json",
    ]
    done = subprocess.run(
        [*command, "--wait-for-learner", "no"],
        cwd=lab,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"captured": 4' in done.stdout
    assert "level=90" not in done.stderr


def test_the_camera_in_the_documents_can_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = re.findall(
        r"```\n(from [^`]+class Noise:[^`]+)```", (ROOT / "docs" / "rig.md").read_text(encoding="utf-8")
    )
    (tmp_path / "lab_in_the_documents.py").write_text(text)
    assert len(text.splitlines()) < 40
    monkeypatch.syspath_prepend(str(tmp_path))
    with closing(open_camera("lab_in_the_documents:Noise?level=2")) as camera:
        (shot,) = islice(camera, 1)
    assert isinstance(shot, Shot)
    assert shot.right.shape() == (240, 320, 1)


def test_a_camera_that_is_missing_is_a_camera_error_of_exit_code_1() -> None:
    assert issubclass(CameraMissing, CameraError)
    assert (CameraError.exit_code, CameraMissing.exit_code) == (2, 1)
