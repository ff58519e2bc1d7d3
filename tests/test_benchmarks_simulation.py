"""The simulation of faults: thousands of them cost nothing that is not counted, and what would cost something is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.simulation.consumer import SimulatedConsumer
from benchmarks.simulation.faults import FAULTS, HARMLESS, FaultyWorld, simulate
from benchmarks.simulation.rig import LIMITS, SimulatedRig
from benchmarks.simulation.world import FAILURES
from device.spool.consumers.consumers import Consumers
from stream.live.books.device_book import DeviceBook


def test_thousands_of_simulated_faults_lose_no_pair_silently_and_enter_none_twice() -> None:
    figures = simulate(2000, seed=7)
    assert figures["failures"] == []
    assert {name: figures[name] for name in FAILURES} == dict.fromkeys(FAILURES, 0)
    assert set(figures["faults"]) == set(FAULTS)
    assert figures["hits"] >= 2000
    assert figures["counted"] > 0


def test_kills_restarts_clocks_and_strangers_cost_no_pair_while_there_is_room() -> None:
    limits = replace(LIMITS, max_bytes=1 << 30)
    for seed in range(100):
        found = FaultyWorld(Random(seed), kinds=HARMLESS, keyed=True, limits=limits).run(30)
        wrong = {name: found[name] for name in (*FAILURES, "unseen", "counted") if found[name]}
        assert not wrong, f"seed {seed}"


def test_a_script_follows_from_its_seed() -> None:
    def counts(seed: int) -> object:
        return FaultyWorld(Random(seed), kinds=FAULTS).run(60)

    assert counts(3) == counts(3)
    assert counts(3) != counts(4)


def _acknowledged_by_any(self: Consumers, epoch: str) -> int:
    return max((upto.get(epoch, 0) for upto in self.heard_since(float("-inf")).values()), default=0)


def _everything(self: DeviceBook, _cursor: object, _endpoint: int) -> dict[str, int]:
    return {epoch: book.head for epoch, book in self.epochs.items()}


def _take_and_acknowledge(self: SimulatedConsumer, most: int) -> None:
    TAKE(self, most)
    self.plan.acknowledge(self.ledger, self.ledger.cursor())


TAKE = SimulatedConsumer.take


@pytest.mark.parametrize(
    ("owner", "name", "mistake", "found"),
    [
        (Consumers, "acknowledged", _acknowledged_by_any, "freed_unseen"),
        (DeviceBook, "acknowledgement", _everything, "freed_unseen"),
        (SimulatedConsumer, "take", _take_and_acknowledge, "freed_unseen"),
        (SimulatedRig, "kept_from", lambda *_words: None, "silent"),
        (SimulatedRig, "spans", lambda self, freed: self.inventory.spans(), "forgotten"),
    ],
)
def test_a_mistake_in_the_rules_is_found(
    monkeypatch: pytest.MonkeyPatch, owner: type[Any], name: str, mistake: Callable[..., Any], found: str
) -> None:
    monkeypatch.setattr(owner, name, mistake)
    assert simulate(800, seed=30)[found] > 0


def test_the_command_reports_a_line_for_each_kind_and_fails_on_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["faults", "--simulated", "200", "--seed", "3"]) == 0
    assert "lose_list" in capsys.readouterr().out
    monkeypatch.setattr(Consumers, "acknowledged", _acknowledged_by_any)
    assert main(["faults", "--simulated", "200", "--seed", "3"]) == 1
    assert "freed_unseen" in capsys.readouterr().out
