"""The fleet: its arithmetic in cases that can be counted, and once, small, for real."""

from __future__ import annotations

import json

import pytest

from benchmarks.__main__ import main
from benchmarks.fleet.bench import Arrivals, FleetSettings, fairness, paced_fleet
from benchmarks.fleet.rigs import HeaderShelf
from benchmarks.shared.pairs import noise_pair, renumbered
from stream.codec import from_parts


def test_fairness_is_one_where_all_got_alike_and_one_nth_where_one_got_everything() -> None:
    assert fairness([7, 7, 7, 7]) == fairness([0, 0]) == 1
    assert fairness([9, 0, 0, 0]) == 0.25


def test_a_pair_that_arrives_twice_is_not_counted_as_two() -> None:
    arrivals, pair = Arrivals(), noise_pair()
    for device, epoch, seq in (("a", "1", 0), ("a", "1", 2), ("a", "1", 2), ("a", "2", 0), ("b", "1", 1)):
        arrivals.add(renumbered(pair, seq, device=device, epoch=epoch))
    assert [arrivals.distinct(device) for device in "abc"] == [3, 1, 0]
    assert arrivals.repeated() == 1


def test_each_rig_has_a_moment_and_a_clock_of_its_own_and_some_have_an_incident() -> None:
    fleet = paced_fleet(FleetSettings(devices=10, mishaps=2, pairs_per_s=4.0))
    assert [plan.incident for plan in fleet] == ["stall"] * 2 + ["restart"] * 2 + ["none"] * 6
    assert len({(plan.phase_s, plan.clock_s) for plan in fleet}) == len({plan.device for plan in fleet}) == 10
    assert all(0 <= plan.phase_s < 0.25 for plan in fleet)


def test_a_shelf_gives_what_was_made_within_the_credit_and_loses_what_it_does_not_know() -> None:
    pair = noise_pair()
    shelf = HeaderShelf("rig", pair)
    first = shelf.begin()
    for seq in range(5):
        shelf.append(renumbered(pair, seq))
    second = shelf.begin()
    assert [(span.epoch, span.tail, span.head, span.open) for span in shelf.spans()] == [
        (first, 0, 5, False),
        (second, 0, 0, True),
    ]
    reading = shelf.read(first, 1, 5, 2 * len(pair.left) * 2 + 1)
    assert reading.next == 3
    assert [from_parts([b"pair", *row]).header.seq for row in reading.rows] == [1, 2]
    assert shelf.read("f" * 32, 3, 9, 1) == type(reading)(9, [(3, 9)], [])


def test_a_small_fleet_with_incidents_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--devices", "4", "--mishaps", "1", "--paced-s", "3", "--flood-s", "1", "--pairs-per-s", "5", "--json")
    assert main(["fleet", *flags]) == 0
    figures = json.loads(capsys.readouterr().out)
    for part in (figures["paced"], figures["flood"]):
        assert part["made"] > 4
        assert part["missing"] == part["twice"] == part["lost"] == 0


@pytest.mark.parametrize(
    "flags",
    [
        ("--devices", "0"),
        ("--processes", "65"),
        ("--mishaps", "32"),
        ("--mishaps", "-1"),
        ("--pairs-per-s", "nan"),
        ("--flood-s", "0.5"),
    ],
)
def test_settings_that_cannot_be_are_one_line_and_code_2(
    flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fleet", *flags]) == 2
    assert capsys.readouterr().err.count("\n") == 1
