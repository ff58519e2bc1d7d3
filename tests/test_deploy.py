"""What is shipped to run a rig and a learner as services: the units as systemd reads them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[1] / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
ANALYZE = shutil.which("systemd-analyze")


def test_each_side_has_a_unit() -> None:
    assert [path.name for path in UNITS] == ["babyagent-device.service", "babyagent-learner.service"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_unit_starts_again_after_everything_but_a_wrong_setting(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    assert "Restart=on-failure" in lines
    assert "RestartPreventExitStatus=2" in lines


@pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze here: apt install systemd")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_systemd_finds_nothing_wrong_with_a_unit(unit: Path, tmp_path: Path) -> None:
    """It says what it does not understand on stderr, and ends with 0 all the same."""
    here = tmp_path / unit.name
    here.write_text(unit.read_text().replace("/opt/babyagent/.venv/bin/python", sys.executable))
    assert ANALYZE is not None
    done = subprocess.run([ANALYZE, "verify", "--man=no", here], capture_output=True, text=True, check=False)
    assert (done.returncode, _about(here, done.stderr)) == (0, [])


def _about(unit: Path, said: str) -> list[str]:
    """The lines that name the unit: those about other units of the machine, or its missing cgroups, are not ours."""
    return [line for line in said.splitlines() if unit.stem in line]
