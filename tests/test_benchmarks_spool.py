"""The comparison of stores for the spool: it runs, small, and our own store keeps its word."""

from __future__ import annotations

import json
import tempfile

import pytest

from benchmarks.__main__ import main

ON_DISK = "/var/tmp"
"""Where files outlive a restart, so that what is written there is counted as written to a disk."""


def test_every_store_is_measured_and_damage_to_ours_is_never_silent(capfd: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory(dir=ON_DISK) as folder:
        assert main(["spool", "--rounds", "1", "--pairs", "32", "--damages", "3", "--json", "--folder", folder]) == 0
    found = json.loads(capfd.readouterr().out)
    ours = found["figures"]["device.spool"]
    assert ours["append MB/s"] > 0
    assert ours["written per byte"] >= 1
    for outcomes in found["damage"]["device.spool"].values():
        assert set(outcomes) <= {"no harm", "error, the rest given", "error, nothing given"}
        assert sum(outcomes.values()) == 3


def test_settings_that_cannot_work_are_one_line_and_code_2(capfd: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--rounds", "0"], ["--folder", "/nowhere"]):
        assert main(["spool", *wrong]) == 2
        assert capfd.readouterr().err.count("\n") == 1
