"""The transport benchmark counts what it says: its arithmetic, its relay, and its own contenders once, small, for real."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.shared.machine import HOST, free_port
from benchmarks.transport.figures import summarise, tables
from benchmarks.transport.peers import plain_tcp
from benchmarks.transport.peers.contender import Contender
from benchmarks.transport.peers.lineup import CONTENDERS
from benchmarks.transport.trip import Plan, Received, Sent, Trip, travel
from learner.errors import Failed

STARTED_NS = 5_000_000_000
TINY = ("--rounds", "1", "--full-speed-s", "0.2", "--paced-s", "0.3", "--wire-s", "0.2", "--stall-s", "0.5")


def trip(pairs_per_s: float, *, sent: int = 100, received: int = 100, latency_ms: float = 5.0) -> Trip:
    """A trip whose pairs all have one latency; it takes the time its pace says."""
    ended_ns = STARTED_NS + int(1e9 * received / pairs_per_s)
    return Trip(
        Sent(pairs=sent, skipped=0, started_ns=STARTED_NS, cpu_s=0.2),
        Received(
            pairs=received,
            repeated=0,
            size_bytes=received * 400_000,
            ended_ns=ended_ns,
            cpu_s=0.1,
            latencies_ms=[latency_ms] * received,
        ),
    )


def test_the_pace_of_a_trip_is_what_arrived_over_the_time_from_first_sending_to_last_arrival() -> None:
    one = trip(50.0, sent=120, received=100)
    assert one.pairs_per_s == pytest.approx(50.0)
    assert one.mb_per_s == pytest.approx(50.0 * 0.4)
    assert one.lost == 20


def test_a_ratio_is_the_median_of_the_ratios_within_each_round() -> None:
    full_speed = {"ours": [trip(10), trip(20), trip(90)], "tcp": [trip(5), trip(20), trip(30)]}
    figures = summarise(full_speed=full_speed, paced={}, wire={}, stall={})
    assert figures["ratio"] == {"tcp": 2.0}
    assert figures["ratio_spread"]["tcp"] == {"median": 2.0, "min": 1.0, "max": 3.0}
    assert figures["full_speed"]["ours"]["pairs_per_s"]["median"] == 20.0


def test_a_peer_that_failed_in_a_later_round_is_compared_in_the_rounds_it_ran() -> None:
    full_speed = {"ours": [trip(30), trip(99)], "imagezmq_req": [trip(10)]}
    assert summarise(full_speed=full_speed, paced={}, wire={}, stall={})["ratio"] == {"imagezmq_req": 3.0}


@pytest.mark.parametrize(
    ("full_speed", "paced", "missed"),
    [
        ({"ours": [trip(300)], "tcp": [trip(400)]}, {"ours": [trip(30)]}, set()),
        ({"ours": [trip(299)], "tcp": [trip(400)]}, {}, {"ratio tcp"}),
        ({"ours": [trip(22)], "imagezmq_req": [trip(10)]}, {}, set()),
        ({"ours": [trip(21)], "imagezmq_req": [trip(10)]}, {}, {"ratio imagezmq_req"}),
        ({"ours": [trip(180)], "lerobot": [trip(10)]}, {}, set()),
        ({"ours": [trip(179)], "lerobot": [trip(10)]}, {}, {"ratio lerobot"}),
        ({"ours_curve": [trip(625)]}, {}, set()),
        ({"ours_curve": [trip(624)]}, {}, {"curve_mb_s"}),
        ({"ours": [trip(30, sent=101)]}, {}, {"lost"}),
        ({}, {"ours": [trip(30, sent=101)]}, {"lost"}),
        ({}, {"ours": [trip(30, latency_ms=30.0)]}, set()),
        ({}, {"ours": [trip(30, latency_ms=30.1)]}, {"p99_ms"}),
    ],
)
def test_a_goal_is_met_at_its_bound_and_missed_beyond_it(
    full_speed: dict[str, list[Trip]], paced: dict[str, list[Trip]], missed: set[str]
) -> None:
    goals = summarise(full_speed=full_speed, paced=paced, wire={}, stall={})["goals"]
    assert {what for what, goal in goals.items() if not goal["met"]} == missed


def test_what_peers_lose_is_no_loss_of_ours_and_who_was_not_measured_has_no_goal() -> None:
    figures = summarise(full_speed={"base64": [trip(10, sent=500)]}, paced={}, wire={}, stall={})
    assert figures["full_speed"]["base64"]["lost"] == 400
    assert figures["goals"] == {}
    assert "lost" not in figures


def test_what_a_rig_loses_while_its_receiver_is_stopped_is_a_loss_of_ours() -> None:
    stall = {"ours_rig": {"rss_growth_mb": 9.0, "sent": 400, "skipped": 0, "lost": 3}}
    assert summarise(full_speed={}, paced={}, wire={}, stall=stall)["goals"]["lost"]["reached"] == 3


def test_latencies_of_all_rounds_are_one_distribution() -> None:
    paced = {"ours": [trip(30, received=109, latency_ms=1.0), trip(30, received=11, latency_ms=9.0)]}
    latency = summarise(full_speed={}, paced=paced, wire={}, stall={})["paced"]["ours"]
    assert latency["pairs"] == 100
    assert latency["p50_ms"] == 1.0
    assert 1.0 < latency["p99_ms"] <= 9.0


def test_the_first_pairs_of_a_trip_warm_up_unless_there_are_no_others() -> None:
    slow_start = trip(30, received=30, latency_ms=1.0)
    slow_start.received.latencies_ms[:10] = [50.0] * 10
    for one, p99_ms in ((slow_start, 1.0), (trip(30, received=3, latency_ms=50.0), 50.0)):
        figures = summarise(full_speed={}, paced={"ours": [one]}, wire={}, stall={})
        assert figures["p99_ms"] == p99_ms


def test_ours_with_keys_and_without_and_plain_tcp_bring_every_pair_once_through_two_processes() -> None:
    for name in ("ours", "ours_curve", "tcp"):
        came = travel(name, Plan(0.2), port=free_port())
        assert came.received.pairs == came.sent.pairs > 0, name
        assert came.received.repeated == 0, name
        assert 300_000 < came.received.size_bytes / came.received.pairs < 420_000, name  # 2 x 179 kB


def test_a_paced_trip_decodes_what_it_brings_and_knows_how_old_it_is() -> None:
    came = travel("ours", Plan(0.7, 30.0, decoded=True), port=free_port())
    assert came.lost == 0
    assert len(came.received.latencies_ms) == came.received.pairs
    assert all(latency_ms > 0 for latency_ms in came.received.latencies_ms)


def test_base64_brings_the_newest_pairs_and_hears_the_end_however_much_is_dropped() -> None:
    for name in ("base64", "lerobot"):
        came = travel(name, Plan(0.2), port=free_port())
        assert 0 < came.received.pairs <= came.sent.pairs, name


def test_an_end_that_fails_is_named_with_its_reason() -> None:
    with socket.create_server((HOST, 0)) as taken, pytest.raises(Failed, match=r"the sender failed: .*in use"):
        travel("tcp", Plan(0.1), port=taken.getsockname()[1])


def test_a_small_run_of_our_own_contenders_gives_figures_goals_and_tables(capfd: pytest.CaptureFixture[str]) -> None:
    code = main(["transport", *TINY, "--contenders", "ours", "ours_rig", "tcp", "--json"])
    out, err = capfd.readouterr()
    figures: dict[str, Any] = json.loads(out)
    assert figures["left_out"] == {}
    assert code == (0 if all(goal["met"] for goal in figures["goals"].values()) else 1)
    assert figures["lost"] == 0
    assert set(figures["ratio"]) == {"tcp"}
    assert set(figures["full_speed"]) == {"ours", "tcp"}
    assert set(figures["paced"]) == {"ours", "ours_rig"}
    assert figures["wire"]["ours"]["image_bytes_per_pair"] < figures["wire"]["ours"]["bytes_per_pair"] < 400_000
    assert set(figures["stall"]) == {"ours_rig", "tcp"}
    assert figures["stall"]["tcp"]["lost"] == 0
    assert "receiver stopped" in err
    assert len(list(tables(figures))) == 4


def test_a_peer_that_is_not_installed_is_named_and_left_out(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = Contender(plain_tcp.sender, plain_tcp.receiver, needs="no_such_thing")
    monkeypatch.setitem(CONTENDERS, "imagezmq_req", stranger)
    assert main(["transport", *TINY, "--contenders", "imagezmq_req", "--json"]) == 0
    out, err = capfd.readouterr()
    assert "pip install -e '.[peers]'" in json.loads(out)["left_out"]["imagezmq_req"]
    assert "no_such_thing is not installed" in err


@pytest.mark.parametrize(
    "flags", [("--contenders", "pigeon"), ("--rounds", "0"), ("--stall-s", "0"), ("--paced-s", "nan")]
)
def test_a_setting_that_cannot_work_is_one_line_and_code_2(
    flags: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transport", *flags]) == 2
    assert capsys.readouterr().err.count("\n") == 1
