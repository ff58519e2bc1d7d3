"""What stays in memory can be chosen by a name; its numbers are still there, and old settings mean what they meant."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from tiny_learner import TINY

from benchmarks.retention.policies import POLICIES as BENCH
from benchmarks.retention.policies import Situation
from learner.config import LearnerConfig, to_plain
from learner.errors import SettingsError
from learner.memory.config import POLICIES, MemoryConfig, Policy, PolicyName
from learner.memory.ranking import reservoir_for
from learner.runs.folder import RunDirectory
from learner.runs.settings import from_plain, settings_of

ROOT = Path(__file__).parents[1]
CAPACITY = 50


def kept(config: MemoryConfig, count: int = 500) -> np.ndarray:
    """The keys that stay of `count` pairs, of which every fifth is hard."""
    reservoir = reservoir_for(config, seed=3)
    keys = np.arange(count)
    reservoir.offer(keys, np.where(keys % 5 == 0, 2.0, -2.0))
    return np.sort(reservoir.keys())


def test_the_names_are_those_of_the_table_in_the_documents_with_their_numbers() -> None:
    text = (ROOT / "docs" / "reservoir.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z-]+)`[^|]*((?:\| [\w.]+ )+)\|", text, re.MULTILINE)
    table = {name: [float(cell) for cell in cells.strip("| ").split(" | ")] for name, cells in rows}
    assert table == {name: list(asdict(policy).values()) for name, policy in POLICIES.items()}
    assert get_args(PolicyName) == tuple(POLICIES)


@pytest.mark.parametrize(
    ("name", "bench"),
    [
        ("loss", "ours 1, inf, drawn by loss"),
        ("kept-by-loss", "ours 1, inf"),
        ("recent-loss", "ours 1, 3n"),
        ("recent", "ours 0, 3n"),
        ("uniform", "uniform"),
        ("greedy", "greedy"),
    ],
)
def test_a_name_means_what_the_bench_measured(name: PolicyName, bench: str) -> None:
    def none(_keys: object) -> np.ndarray:
        return np.empty(0)

    measured = BENCH[bench](Situation(CAPACITY, 0, none, none))
    assert reservoir_for(MemoryConfig(policy=name, capacity=CAPACITY), seed=0).settings == measured.settings


def test_first_in_first_out_keeps_the_last_pairs_and_greedy_the_hard_ones() -> None:
    assert kept(MemoryConfig(policy="fifo", capacity=CAPACITY)).tolist() == list(range(450, 500))
    assert not np.any(kept(MemoryConfig(policy="greedy", capacity=CAPACITY)) % 5)
    hard = np.mean(kept(MemoryConfig(policy="uniform", capacity=CAPACITY)) % 5 == 0)
    assert 0.05 < hard < 0.4


def test_a_number_that_is_given_wins_over_the_name() -> None:
    config = MemoryConfig(policy="recent", capacity=CAPACITY, half_life=7.0)
    assert config.numbers == Policy(loss_weight=0.0, half_life=7.0)
    assert MemoryConfig(policy="recent", capacity=CAPACITY).numbers.half_life == 3 * CAPACITY


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(SettingsError, match="policy must be one of loss, kept-by-loss"):
        reservoir_for(MemoryConfig(policy="lifo"), seed=0)  # type: ignore[arg-type]


def test_a_run_names_its_policy_and_says_its_numbers(tmp_path: Path) -> None:
    config = replace(TINY, memory=replace(TINY.memory, policy="recent", noise=0.5))
    RunDirectory(tmp_path / "run", config)
    plain = json.loads((tmp_path / "run" / "config.json").read_text())["memory"]
    assert [plain[name] for name in ("policy", "loss_weight", "half_life", "noise")] == ["recent", 0.0, 72.0, 0.5]
    assert settings_of(tmp_path / "run") == config


def test_settings_of_a_version_without_names_are_the_same_policy_today() -> None:
    """Those of the defaults, of one changed number, and of all of them."""
    plain = to_plain(LearnerConfig())
    old = {name: value for name, value in plain["memory"].items() if name != "policy"}
    assert old["half_life"] == math.inf
    assert from_plain(plain | {"memory": old}) == LearnerConfig()
    changed = from_plain(plain | {"memory": old | {"loss_weight": 0.0}})
    assert changed.memory.numbers == Policy(loss_weight=0.0, uniform_floor=0.25)
