"""docs/metrics.md says what the code counts, and every label is bounded."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client import Metric

from benchmarks.__main__ import main
from benchmarks.metrics import LABELS, document, exported, listed

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def metrics() -> list[Metric]:
    return exported()


def test_the_list_in_the_docs_is_that_of_the_code(metrics: list[Metric]) -> None:
    written = (ROOT / "docs" / "metrics.md").read_text()
    assert written == document(metrics), "write it again: python -m benchmarks metrics > docs/metrics.md"


def test_every_label_says_what_bounds_it_and_is_used(metrics: list[Metric]) -> None:
    assert {label for metric in listed(metrics) for label in metric.labels} == LABELS.keys()


def test_every_name_is_of_the_house_and_its_text_a_sentence(metrics: list[Metric]) -> None:
    for name, kind, _, text in listed(metrics):
        assert re.fullmatch(r"babyagent_(device|stream|buffer|learner)_[a-z]+(_[a-z0-9]+)*", name), name
        assert name.endswith("_total") == (kind == "counter"), name
        assert len(text) > 10, name
        assert text.endswith("."), name


def test_the_cost_of_metrics_is_a_share_of_a_core_for_each_side(capsys: pytest.CaptureFixture[str]) -> None:
    main(["metrics", "--cost", "--rounds", "1", "--json"])
    shares = json.loads(capsys.readouterr().out)
    assert list(shares) == ["rig", "learner of 1 rig", "learner of 64 rigs"]
    assert all(share > 0 for share in shares.values())
