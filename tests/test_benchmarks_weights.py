"""The benchmark of handing out weights, once for real with a robot that asks often."""

from __future__ import annotations

import json

import pytest

from benchmarks.__main__ import main
from benchmarks.shared.machine import free_port


def test_a_robot_has_the_weights_of_every_commit(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["weights", "--rounds", "2", "--poll-s", "0.05", "--port", str(free_port()), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["commit_to_robot_s"]["median"] <= found["commit_to_robot_s"]["most"]
    assert code == int(found["commit_to_robot_s"]["most"] > found["reach_s"])
    assert found["bytes"] > 1_000_000
    assert found["export_cpu_s"] > 0


@pytest.mark.parametrize("flags", [["--rounds", "0"], ["--poll-s", "0"], ["--poll-s", "nan"], ["--preset", "huge"]])
def test_a_setting_that_cannot_work_is_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", *flags]) == 2
    assert capsys.readouterr().err.count("\n") == 1
