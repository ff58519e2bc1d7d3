"""The backfill benchmark: its arithmetic against closed forms, and once, small, for real."""

from __future__ import annotations

import json

import pytest

from benchmarks.__main__ import main
from benchmarks.backfill import PAIR_BYTES, first_live_s, late_mb_per_s, latencies_beside_ms

S = 1_000_000_000
PAIRS = [
    *((at * S, 100 * S + at * S // 10) for at in range(11)),  # made before the link came back at 100 s, 10 a second
    *((100 * S + n * S // 4, 100 * S + n * S // 4 + S // 100) for n in range(8)),  # live, 10 ms under way
    (102 * S, 102 * S + S // 2),  # live, after the last late one
]


def test_throughput_is_of_the_pairs_made_before_the_link_came_back() -> None:
    assert late_mb_per_s(PAIRS, (100 * S, 200 * S)) == pytest.approx(10 * PAIR_BYTES / 1e6)


def test_latency_beside_the_backfill_is_of_live_pairs_made_while_late_ones_came() -> None:
    assert latencies_beside_ms(PAIRS, (100 * S, 200 * S)) == pytest.approx([10.0] * 4)


def test_the_first_live_pair_is_one_that_was_made_after_the_link_came_back() -> None:
    assert first_live_s(PAIRS, 100 * S) == pytest.approx(0.01)
    assert first_live_s(PAIRS, 100 * S + 1) == pytest.approx(0.26)


def test_the_benchmark_measures_everything_that_it_has_goals_for(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--rounds", "1", "--mb-per-s", "40", "--window-s", "0.5", "--outage-s", "0.5", "--json")
    code = main(["backfill", *flags])
    figures = json.loads(capsys.readouterr().out)
    assert code == (1 if figures["missed"] else 0)
    assert set(figures["goals"]) <= set(figures)
    assert all(figures[name] >= 0 for name in figures["goals"])
    assert figures["live_first_ms"]["count"] > 0


@pytest.mark.parametrize("flags", [("--rounds", "0"), ("--mb-per-s", "0"), ("--live-per-s", "100")])
def test_settings_that_cannot_be_are_one_line_and_code_2(
    flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["backfill", *flags]) == 2
    assert capsys.readouterr().err.count("\n") == 1
