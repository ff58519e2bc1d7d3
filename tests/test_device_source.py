"""A camera as a source in this process: the pairs of a rig, in its order, and they go on where they stopped."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from recorded import made, names, some
from waiting import WAIT_S

from device.camera import CameraError, CameraMissing
from device.cli.capture_settings import RigSettings
from device.cli.local import check_local, open_local
from device.source import AHEAD_PAIRS, CameraSource
from stream.codec import decode
from stream.errors import EndOfStream, StreamError
from stream.pair import EncodedPair
from stream.source import Cursor, Source

IsOver = Callable[[], bool]


def to_the_end(source: Source, limit: int = 5) -> list[EncodedPair]:
    pairs: list[EncodedPair] = []
    try:
        while True:
            pairs += source.receive(limit, WAIT_S)
    except EndOfStream:
        source.close()
        return pairs


def album(folder: Path, count: int = 6) -> Path:
    """Images that differ, and then those again."""
    folder.mkdir()
    for number in range(count):
        coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number:02}.png"), cv2.resize(coarse, (64, 48), interpolation=cv2.INTER_NEAREST))
    return folder


def black(folder: Path) -> Path:
    """A single image on which nothing is to be seen."""
    folder.mkdir()
    cv2.imwrite(str(folder / "0.png"), np.zeros((48, 64, 3), np.uint8))
    return folder


def opened(camera: str, cursor: Cursor | None = None, *, now_ns: int = 7, **settings: Any) -> CameraSource:
    return open_local(RigSettings(camera=camera, **settings), cursor, now_ns=lambda: now_ns)


def test_pairs_come_in_their_order_whatever_the_limits_and_then_the_source_ends() -> None:
    pairs = some(3 * AHEAD_PAIRS)
    source = CameraSource(lambda _over: pairs)
    assert source.backlog() == 0
    assert to_the_end(source, limit=7) == pairs


def test_a_cursor_goes_on_behind_the_pairs_that_were_given_not_behind_those_made_ahead() -> None:
    pairs = some(12)
    first = CameraSource(lambda _over: pairs)
    given: list[EncodedPair] = []
    while len(given) < 5:
        given += first.receive(5 - len(given), WAIT_S)
    cursor = first.cursor()
    first.close()
    assert given + to_the_end(CameraSource(lambda _over: pairs, cursor=cursor)) == pairs


def test_the_cursor_of_a_live_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="cursor"):
        CameraSource(lambda _over: [], cursor={"devices": {"rig": {"epochs": {}, "counts": {}, "met": True}}})


def test_an_endless_camera_ends_when_the_source_is_closed_and_waits_while_nobody_takes_its_pairs() -> None:
    asked, closed = [], []

    def pairs(is_over: IsOver) -> Iterator[EncodedPair]:
        for seq in itertools.takewhile(lambda _seq: not is_over(), itertools.count()):
            asked.append(seq)
            yield made(seq % 50)

    source = CameraSource(pairs, is_live=True, close=lambda: closed.append(True))
    assert len(source.receive(1, WAIT_S)) == 1
    source.close()
    source.close()
    assert closed == [True]
    assert len(asked) <= AHEAD_PAIRS + 2


def test_a_camera_that_fails_gives_its_pairs_first_and_its_error_says_how_the_program_ends() -> None:
    def pairs(_is_over: IsOver) -> Iterator[EncodedPair]:
        yield made(0)
        raise CameraMissing("the camera was pulled out")

    source = CameraSource(pairs)
    assert source.receive(4, WAIT_S) == [made(0)]
    with pytest.raises(StreamError, match="pulled out") as failed:
        source.receive(4, WAIT_S)
    assert failed.value.exit_code == 1


def test_one_folder_gives_each_image_to_both_eyes_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pairs = to_the_end(opened(f"dir:{album(tmp_path / 'album')}"))
    assert len(pairs) == 6
    assert all(np.array_equal(one.left, one.right) for one in map(decode, pairs))
    assert {pair.header.device for pair in pairs} == {"dir"}
    assert "each of them is both eyes of a pair" in caplog.text


def test_one_film_gives_each_frame_to_both_eyes(tmp_path: Path) -> None:
    film = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for path in sorted(album(tmp_path / "album").iterdir()):
        image = cv2.imread(str(path))
        assert image is not None
        film.write(image)
    film.release()
    pairs = to_the_end(opened(f"video:{tmp_path / 'film.avi'}"))
    assert len(pairs) == 6
    assert all(np.array_equal(one.left, one.right) for one in map(decode, pairs))


@pytest.mark.parametrize(("dedupe", "count"), [("auto", 18), ("off", 18), ("on", 6)])
def test_a_folder_that_is_repeated_is_not_taken_for_seen_before_unless_dedupe_is_on(
    tmp_path: Path, dedupe: str, count: int
) -> None:
    camera = f"dir:{album(tmp_path / 'album')}"
    assert len(to_the_end(opened(camera, repeat=3, dedupe=dedupe, audit_share=0.0))) == count


def test_without_dedupe_black_images_are_kept_too(tmp_path: Path) -> None:
    folder = black(tmp_path / "black")
    assert len(to_the_end(opened(f"dir:{folder}", dedupe="off"))) == 1
    assert not to_the_end(opened(f"dir:{folder}"))


@pytest.mark.parametrize("kind", ["dir", "sim"])
def test_a_recording_or_simulation_goes_on_with_the_same_pairs_and_times_at_another_time_of_day(
    tmp_path: Path, kind: str
) -> None:
    camera = f"dir:{album(tmp_path / 'album', 12)}" if kind == "dir" else "sim"
    settings: dict[str, Any] = {"count": 12, "size": "64x48", "places": 2, "dedupe_threshold": 5.0}
    whole = to_the_end(opened(camera, **settings))
    first = opened(camera, **settings)
    given = first.receive(2, WAIT_S)
    cursor = first.cursor()
    first.close()
    rest = to_the_end(opened(camera, cursor, now_ns=10**15, **settings))
    assert len(whole) > 3
    assert [*given, *rest] == whole


def test_another_folder_begins_at_its_first_pair_and_what_was_given_stays_in_the_cursor(tmp_path: Path) -> None:
    one, other = (f"dir:{album(tmp_path / name)}" for name in ("one", "other"))
    first = opened(one)
    pairs = to_the_end(first)
    second = opened(other, first.cursor(), now_ns=9)
    more = to_the_end(second)
    assert len(more) == len(pairs)
    assert not set(names(pairs)) & set(names(more))
    assert not to_the_end(opened(one, second.cursor()))


def test_what_can_never_be_played_is_refused_before_anything_is_made() -> None:
    for settings in (RigSettings(camera="dir:/nowhere"), RigSettings(camera="nothing:0"), RigSettings(repeat=0)):
        with pytest.raises((CameraError, ValueError)):
            check_local(settings)


def test_a_camera_class_of_ones_own_is_live_and_each_start_is_a_new_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_lens.py").write_text(
        "import numpy as np\n"
        "from device.camera import EyeImage, Shot\n"
        "class Lens:\n"
        "    fps = None\n"
        "    def __init__(self, settings): pass\n"
        "    def close(self): pass\n"
        "    def __iter__(self):\n"
        "        for at in range(3):\n"
        "            pixels = np.full((48, 64, 3), 60 + 50 * at, np.uint8)\n"
        "            yield Shot(EyeImage(at, pixels=pixels), EyeImage(at, pixels=pixels))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    first = opened("my_lens:Lens", dedupe="off")
    one = to_the_end(first)
    other = to_the_end(opened("my_lens:Lens", first.cursor(), dedupe="off"))
    assert [pair.header.seq for pair in one] == [pair.header.seq for pair in other] == [0, 1, 2]
    assert one[0].header.epoch != other[0].header.epoch
