"""Labelled control sets from the simulated world."""

from __future__ import annotations

import signal
from pathlib import Path

import cv2
import pytest

from device.__main__ import main
from device.camera import CameraError
from device.sim.camera import SimConfig
from device.sim.control_set import ControlSetSummary, write_control_set

SMALL = SimConfig(size=(48, 64), places=4, seed=5)


def images(folder: Path) -> dict[str, list[Path]]:
    """The files as a loader of class folders sees them."""
    return {each.name: sorted(each.iterdir()) for each in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> ControlSetSummary:
    return write_control_set(tmp_path_factory.mktemp("walk"), config=SMALL, count=2500, per_place=6)


def test_every_place_has_the_same_number_of_images_in_both_splits(written: ControlSetSummary) -> None:
    assert written.places == 4
    assert written.per_place == 6
    assert written.images == 48
    for split in ("train", "test"):
        by_class = images(written.folder / split)
        assert list(by_class) == ["place_00", "place_01", "place_02", "place_03"]
        for paths in by_class.values():
            assert len(paths) == 6
            for path in paths:
                image = cv2.imread(str(path))
                assert image is not None
                assert image.shape == (48, 64, 3)


def test_train_and_test_come_from_two_walks(written: ControlSetSummary) -> None:
    train, test = (images(written.folder / split)["place_01"] for split in ("train", "test"))
    assert not {path.read_bytes() for path in train} & {path.read_bytes() for path in test}


def test_the_same_settings_write_the_same_files(written: ControlSetSummary, tmp_path: Path) -> None:
    write_control_set(tmp_path / "again", config=SMALL, count=2500, per_place=6)
    for path in written.folder.rglob("*.png"):
        assert (tmp_path / "again" / path.relative_to(written.folder)).read_bytes() == path.read_bytes()


def test_a_rare_place_sets_the_number_for_all(tmp_path: Path) -> None:
    summary = write_control_set(tmp_path, config=SMALL, count=1500, every=20, per_place=1000)
    assert 1 <= summary.per_place < 1500 // 20 // 4
    assert len(list(tmp_path.rglob("*.png"))) == summary.images


def test_a_folder_that_is_not_empty_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(CameraError, match="not an empty folder"):
        write_control_set(tmp_path, config=SMALL)
    with pytest.raises(CameraError, match="not an empty folder"):
        write_control_set(tmp_path / "mine.txt", config=SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_walk_too_short_to_see_every_place_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="raise count"):
        write_control_set(tmp_path / "new", config=SMALL, count=10)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("wrong", [{"count": 0}, {"every": 0}, {"per_place": 0}])
def test_numbers_below_one_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        write_control_set(tmp_path / "new", config=SMALL, **wrong)


def test_an_interrupted_walk_says_that_nothing_was_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_arguments: object, **_settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("device.cli.walk.write_control_set", interrupted)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert main(["walk", "--out", str(tmp_path / "set")]) == 1
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert "error: interrupted, nothing was written\n" in capsys.readouterr().err
