"""Where `--spool auto|none|FOLDER` puts the spool, and whether it is deleted."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from spooled import make_pair

from device.cli.settings import StreamSettings
from device.cli.spool_location import open_spool
from device.spool.folder import SpoolError
from device.spool.spool import Spool


def opened(
    place: str, environ: Mapping[str, str], *, lasting: bool = True, max_gib: float | None = 0.1
) -> AbstractContextManager[Spool | None]:
    camera = "v4l2:0,2" if lasting else "sim"
    settings = StreamSettings(spool=place, name="rig", camera=camera, spool_gib=max_gib, disk_floor_gib=0.0)
    return open_spool(settings, on_sync=lambda seconds: None, environ=environ)


@pytest.mark.parametrize(
    ("place", "environ", "expected"),
    [
        ("auto", {"STATE_DIRECTORY": "{tmp}/service", "XDG_STATE_HOME": "{tmp}/xdg"}, "service"),
        ("auto", {"STATE_DIRECTORY": "{tmp}/service:{tmp}/second"}, "service"),
        ("auto", {"XDG_STATE_HOME": "{tmp}/xdg"}, "xdg/babyagent/rig"),
        ("auto", {"XDG_STATE_HOME": "not/absolute"}, ".local/state/babyagent/rig"),
        ("auto", {}, ".local/state/babyagent/rig"),
        ("{tmp}/named", {"STATE_DIRECTORY": "{tmp}/service"}, "named"),
    ],
)
def test_a_lasting_spool_lies_where_the_system_keeps_state_and_stays_there(
    place: str, environ: dict[str, str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    environ = {name: value.format(tmp=tmp_path) for name, value in environ.items()}
    with opened(place.format(tmp=tmp_path), environ) as spool:
        assert spool is not None
        assert spool.folder == tmp_path / expected
    assert (tmp_path / expected).is_dir()


def test_another_spool_lies_in_a_temporary_folder_that_is_deleted(tmp_path: Path) -> None:
    with opened("auto", {"TMPDIR": str(tmp_path), "STATE_DIRECTORY": "/nowhere"}, lasting=False) as spool:
        assert spool is not None
        assert spool.folder.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_undelivered_pairs_that_are_deleted_with_a_temporary_folder_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for pairs in (0, 3):
        with opened("auto", {"TMPDIR": str(tmp_path)}, lasting=False) as spool:
            assert spool is not None
            for seq in range(pairs):
                assert spool.append(make_pair(seq, spool.epoch, device=spool.device))
        assert ("3 pairs that no learner has made durable are deleted" in caplog.text) == (pairs == 3)


def test_a_named_folder_stays_even_for_a_simulated_camera(tmp_path: Path) -> None:
    with opened(str(tmp_path / "named"), {}, lasting=False) as spool:
        assert spool is not None
    assert (tmp_path / "named").is_dir()


def test_none_is_no_spool() -> None:
    with opened("none", {}) as spool:
        assert spool is None


def test_a_temporary_folder_that_cannot_be_made_is_refused_in_one_line() -> None:
    with pytest.raises(SpoolError, match=r"^no temporary spool in /nowhere: .*--spool, none: live only$"):
        opened("auto", {"TMPDIR": "/nowhere"}, lasting=False).__enter__()


def test_the_temporary_folder_of_a_running_process_is_left_alone(tmp_path: Path) -> None:
    environ = {"TMPDIR": str(tmp_path)}
    with opened("auto", environ, lasting=False) as first, opened("auto", environ, lasting=False) as second:
        assert first is not None
        assert second is not None
        assert first.folder.is_dir()
        assert first.folder != second.folder
