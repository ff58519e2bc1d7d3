"""By what a bench finds a run that it did before: all that changes its figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.feed import bench as feed
from benchmarks.league import bench as league
from benchmarks.regimes import bench as regimes
from benchmarks.retention import bench as retention
from benchmarks.streams import bench as streams
from learner.errors import SettingsError


@pytest.mark.parametrize(
    ("bench", "settings", "changes"),
    [
        (league, league.LeagueSettings(objectives=("mae",)), {"per_place": 7, "control": ("mnist",), "cpu_min": 7.0}),
        (streams, streams.StreamsSettings(objectives=("mae",)), {"per_place": 7, "pairs": 700, "control_limit": 7}),
        (feed, feed.FeedSettings(networks=("plain",)), {"pairs": 700, "steps": 7, "capacity": 700}),
        (
            retention,
            retention.RetentionSettings(control="a/digits"),
            {"drives": (Path("a"),), "control": "b/digits", "preset": "babyagent"},
        ),
        (regimes, regimes.RegimesSettings(control=("x=a",)), {"control": ("x=b",)}),
    ],
)
def test_no_setting_that_changes_a_figure_finds_the_lines_of_another_one(
    bench: Any, settings: Any, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_done(keys: list[Any], _path: Path, _run: object, **_others: object) -> list[Any]:
        return keys

    monkeypatch.setattr(bench, "completed", none_done)
    monkeypatch.setattr(regimes.RegimesSettings, "days", lambda *_: None)
    keys = set(bench.measure(settings))
    for name, value in (changes | {"textures": tmp_path}).items():
        assert not keys.intersection(bench.measure(replace(settings, **{name: value}))), name
    assert keys == set(bench.measure(replace(settings, json=True)))


@pytest.mark.parametrize("settings", [league.LeagueSettings, streams.StreamsSettings, feed.FeedSettings])
def test_textures_that_are_not_there_are_told_before_a_walk_is_made(settings: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--textures must be a folder that is there, got .*none"):
        settings(textures=tmp_path / "none")


@pytest.mark.parametrize("bench", ["adapt", "league", "streams"])
def test_a_bench_without_an_objective_is_refused(bench: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([bench, "--objectives"]) == 2
    assert "--objectives must be at least one name, got nothing" in capsys.readouterr().err
