"""`python -m learner` as a person uses it, run here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from learner.__main__ import main

SMALL = (
    *("--objective", "babyagent"),
    *("--objective.attention-size", "24", "--objective.teacher-size", "16", "--objective.student-size", "16"),
    *("--objective.prototypes", "16", "--objective.hidden", "32", "--objective.crops", "2"),
    *("--pacing.batch-size", "8", "--pacing.replay-ratio", "2", "--control-limit", "40", "--threads", "1"),
    *("--memory.canvas", "24", "32", "--memory.capacity", "16", "--memory.fresh-capacity", "16"),
    *("--http-port", "0", "--json"),
)
"""Flags of a run on small images, whose encoder has the sizes of its weights."""


def learn(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Run `python -m learner`, and return its summary."""
    capsys.readouterr()
    assert main([*words]) == 0, capsys.readouterr()
    summary: dict[str, Any] = json.loads(capsys.readouterr().out)
    return summary


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run `python -m learner` with wrong settings, and return the line with which it ends."""
    capsys.readouterr()
    assert main([*words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said
