"""Signals beside the images of a pair: on the wire bit for bit, within bounds; a bad one costs neither pair nor other signals."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signalled import EPOCH, IMAGE, PAIR_NS, forged, paired, parts, telemetry, unexpected

from stream.codec import MAX_HEADER_BYTES, encode_pair, from_parts, to_parts
from stream.errors import MalformedMessage
from stream.pair import SIGNAL_REASONS, EncodedPair, checksum
from stream.signals.gather import Gathering
from stream.signals.signal import (
    MAX_BYTES,
    MAX_ROWS,
    MAX_SIGNALS,
    MAX_WIDTH,
    REASONS,
    WINDOW_NS,
    BadSignal,
    Signal,
    Telemetry,
    size_bytes,
)

PAIR = paired()
GOOD = parts("acceleration", {PAIR_NS: (0.0, 0.0, 9.81)}, width=3, unit="m/s^2")
IMU = Signal([[0.0, 0.0, 9.81], [0.1, 0.0, 9.8]], [PAIR_NS - 5_000_000, PAIR_NS], "m/s^2")


# The wire


@given(telemetry)
def test_telemetry_comes_back_bit_for_bit(beside: Telemetry) -> None:
    sent = paired(beside)
    received = from_parts(to_parts(sent), unexpected)
    assert received == sent
    assert received.telemetry == beside
    assert hash(received) == hash(sent)
    assert to_parts(received) == to_parts(sent)
    again = EncodedPair(received.header, received.left, received.right, telemetry=received.telemetry)
    assert to_parts(again) == to_parts(sent)


def test_a_pair_without_telemetry_is_sent_in_wire_version_2_and_any_in_version_3() -> None:
    assert PAIR.header_part == to_parts(encode_pair(IMAGE, IMAGE, **_plain()))[1]
    assert _version(PAIR) == 2
    for beside in (Telemetry({"action": IMU}), Telemetry(episode="7"), Telemetry(subject="child-3")):
        assert _version(paired(beside)) == 3


def test_the_wire_form_of_telemetry_is_these_bytes() -> None:
    """A change here breaks every device in the field: it needs a new one of WIRE_VERSIONS."""
    part = paired(Telemetry({"x": Signal([1.5], PAIR_NS, "m")}, "e", "s")).header_part
    data = msgspec.msgpack.decode(part[:-4])
    assert data[0] == 3
    assert data[1][0] == 2
    assert msgspec.msgpack.encode(data[1]) == PAIR.header_part[:-4]
    assert data[2:4] == ["e", "s"]
    assert data[4] == [["x", "m", 1, PAIR_NS.to_bytes(8, "little"), bytes.fromhex("000000000000f83f")]]


def test_as_many_and_as_large_signals_as_are_allowed_fit_into_a_message() -> None:
    rows = (MAX_BYTES // MAX_SIGNALS - 256) // (8 * 65)
    wide = Signal(np.ones((rows, MAX_WIDTH)), np.full(rows, PAIR_NS), "u" * 32)
    signals = {f"{number:02}".ljust(64, "n"): wide for number in range(MAX_SIGNALS)}
    sent = paired(Telemetry(signals, "e" * 64, "s" * 64), device="d" * 64)
    assert len(sent.header_part) <= MAX_HEADER_BYTES
    assert from_parts(to_parts(sent), unexpected) == sent


BAD: dict[str, tuple[object, str]] = {
    "not finite": (parts("a", {PAIR_NS: (float("nan"),)}), "finite"),
    "infinite": (parts("a", {PAIR_NS: (float("-inf"),)}), "finite"),
    "times that run back": (parts("a", {PAIR_NS: (1.0,), PAIR_NS - 1: (1.0,)}), "times"),
    "another clock": (parts("a", {123: (1.0,)}), "times"),
    "a time before 1970": (parts("a", {-1: (1.0,)}), "times"),
    "the future": (parts("a", {PAIR_NS + WINDOW_NS + 1: (1.0,)}), "times"),
    "no rows": (parts("a", {}), "form"),
    "too many rows": (parts("a", {PAIR_NS + n: (1.0,) for n in range(MAX_ROWS + 1)}), "form"),
    "too wide": (parts("a", {PAIR_NS: (1.0,) * (MAX_WIDTH + 1)}, width=MAX_WIDTH + 1), "form"),
    "not as wide as it says": (parts("a", {PAIR_NS: (1.0, 2.0)}, width=3), "form"),
    "endlessly wide": (parts("a", {}, width=(1 << 63) - 1), "form"),
    "no width": (parts("a", {PAIR_NS: ()}, width=0), "form"),
    "a path as name": (parts("../etc", {PAIR_NS: (1.0,)}), "form"),
    "no name": (parts("", {PAIR_NS: (1.0,)}), "form"),
    "a unit that moves the cursor": (parts("a", {PAIR_NS: (1.0,)}, unit="\x1b[2J"), "form"),
    "an endless unit": (parts("a", {PAIR_NS: (1.0,)}, unit="m" * 33), "form"),
    "the same name": (GOOD, "names"),
    "no signal at all": ({"what": 1}, "form"),
    "a nest": ([[[[[]]]]], "form"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_signal_is_left_out_for_one_reason_and_everything_else_is_received(name: str) -> None:
    bad, reason = BAD[name]
    refused: list[MalformedMessage] = []
    other = parts("reward", {PAIR_NS: (1.0,)})
    received = from_parts(forged(PAIR, [GOOD, bad, other], episode="9"), refused.append)
    assert [error.reason for error in refused] == [f"signal_{reason}"]
    assert "\n" not in str(refused[0])
    assert "\x1b" not in str(refused[0])
    assert received.header == PAIR.header
    assert received.telemetry.episode == "9"
    assert {name: signal.values.tolist() for name, signal in received.telemetry.signals.items()} == {
        "acceleration": [[0.0, 0.0, 9.81]],
        "reward": [[1.0]],
    }


def test_of_ten_thousand_names_the_first_ones_are_received_and_the_rest_is_one_line() -> None:
    refused: list[MalformedMessage] = []
    many = [GOOD, *(parts("", {}) for _ in range(10_000))]
    received = from_parts(forged(PAIR, many), refused.append)
    assert list(received.telemetry.signals) == ["acceleration"]
    assert [error.reason for error in refused].count("signal_names") == 1
    assert len(refused) == MAX_SIGNALS
    names = [parts(f"n{number}", {PAIR_NS: (1.0,)}) for number in range(1000)]
    refused.clear()
    received = from_parts(forged(PAIR, names), refused.append)
    assert list(received.telemetry.signals) == [f"n{number}" for number in range(MAX_SIGNALS)]
    assert [str(error) for error in refused] == [
        "signal_names: rig/55555555/0: 968 signals are beyond the 32 that a pair can have"
    ]


@given(
    st.lists(st.one_of(st.binary(max_size=40), st.recursive(st.integers(-9, 9), st.lists, max_leaves=9)), max_size=5)
)
@settings(max_examples=200)
def test_whatever_stands_in_place_of_signals_the_pair_is_received(odd: list[object]) -> None:
    refused: list[MalformedMessage] = []
    received = from_parts(forged(PAIR, [*odd, GOOD]), refused.append)
    assert list(received.telemetry.signals) == ["acceleration"]
    assert len(refused) == len(odd)
    assert {error.reason for error in refused} <= set(SIGNAL_REASONS)


@pytest.mark.parametrize("episode", ["a b", "../x", "e" * 65])
def test_an_episode_that_is_no_plain_label_is_refused_with_its_message(episode: str) -> None:
    with pytest.raises(MalformedMessage, match="header"):
        from_parts(forged(PAIR, [], episode=episode))
    with pytest.raises(ValueError, match="cannot be sent"):
        paired(Telemetry(episode=episode))


def test_telemetry_that_every_receiver_would_refuse_is_not_sent() -> None:
    row = Signal([1.0], PAIR_NS)
    for signals in (
        {"a b": row},
        {"a": Signal([np.nan], PAIR_NS)},
        {"a": Signal(np.ones((65, 1)), np.full(65, PAIR_NS))},
        {f"n{number}": row for number in range(MAX_SIGNALS + 1)},
        {f"n{number}": Signal(np.ones((64, 64)), np.full(64, PAIR_NS)) for number in range(5)},
    ):
        with pytest.raises(ValueError, match="cannot be sent"):
            paired(Telemetry(signals))


def test_a_version_that_nobody_reads_says_what_to_update() -> None:
    data = msgspec.msgpack.encode([4, "of", "the future"])
    with pytest.raises(MalformedMessage, match="wire version 4, this side reads 2 and 3: update one of the two"):
        from_parts([b"pair", data + checksum(data), PAIR.left, PAIR.right])


# One signal


def test_a_signal_is_made_of_what_numpy_takes_and_does_not_change_with_it() -> None:
    buffer = np.array([[1, 2], [3, 4]], np.float32)
    one = Signal(buffer, [5, 6], "m")
    buffer[:] = 0
    assert one.values.dtype == np.float64
    assert one.values.tolist() == [[1, 2], [3, 4]]
    assert Signal(1.0, 7) == Signal([[1.0]], [7])
    assert Signal([1.0, 2.0], 7) == Signal([[1.0, 2.0]], [7])
    assert Signal([0.0], 7) != Signal([-0.0], 7)
    assert hash(Signal(1.0, 7)) == hash(Signal(1.0, 7))
    assert not len(Signal([], []))
    with pytest.raises(ValueError, match="read-only"):
        one.values[0, 0] = 1.0


@pytest.mark.parametrize(
    ("values", "times_ns"),
    [([[1.0], [2.0, 3.0]], [1, 2]), (["x"], [1]), ([[1.0]], [1.5]), ([[1.0]], [1, 2]), ([[[1.0]]], [1]), (None, None)],
)
def test_what_is_no_table_with_whole_times_is_refused(values: Any, times_ns: Any) -> None:
    with pytest.raises(BadSignal) as caught:
        Signal(values, times_ns)
    assert caught.value.reason == "form"


# Between two pairs


def gathering(**settings: int) -> tuple[Gathering, list[BadSignal]]:
    refused: list[BadSignal] = []
    return Gathering(refused.append, **settings), refused


def counted(count: int, *, first: int = 0, width: int = 1) -> Signal:
    """Rows 5 ms apart, each of which holds its number."""
    numbers = np.arange(first, first + count)
    return Signal(np.repeat(numbers[:, None], width, axis=1), PAIR_NS + numbers * 5_000_000, "m")


def test_rows_of_several_calls_come_to_the_next_pair_and_to_no_other() -> None:
    rows, refused = gathering()
    rows.add({"imu": counted(3), "reward": Signal(1.0, PAIR_NS)}, PAIR_NS)
    rows.add({"imu": counted(2, first=3)}, PAIR_NS)
    assert rows.take(PAIR_NS) == {"imu": counted(5), "reward": Signal(1.0, PAIR_NS)}
    assert rows.take(PAIR_NS) == {}
    rows.add({"imu": counted(1, first=9)}, PAIR_NS)
    assert rows.take(PAIR_NS) == {"imu": counted(1, first=9)}
    assert (refused, rows.thinned) == ([], 0)


@given(st.lists(st.integers(0, 90), max_size=60), st.sampled_from([64, 100, 512]))
def test_too_many_rows_are_thinned_evenly_and_every_one_is_counted(counts: list[int], max_rows: int) -> None:
    rows, refused = gathering(max_rows=max_rows)
    for first, count in zip(np.cumsum([0, *counts]), counts, strict=False):
        rows.add({"imu": counted(count, first=int(first))}, PAIR_NS)
    total, taken = sum(counts), rows.take(PAIR_NS)
    numbers = taken["imu"].values[:, 0] if total else np.zeros(0)
    assert len(numbers) <= MAX_ROWS
    assert len(numbers) + rows.thinned == total
    if total <= MAX_ROWS:
        assert len(numbers) == total
    else:
        assert numbers[0] == 0
        steps = np.diff(numbers)
        assert steps.max() <= 2 * steps.min() + 1
        assert len(numbers) > MAX_ROWS / 4
    assert not refused


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(0, 400))
def test_rows_of_a_later_time_wait_for_the_pair_they_belong_to(counts: list[int], upto: int) -> None:
    rows, refused = gathering()
    for first, count in zip(np.cumsum([0, *counts]), counts, strict=False):
        rows.add({"imu": counted(count, first=int(first))}, PAIR_NS)
    at_ns = PAIR_NS + upto * 5_000_000
    now, later = rows.take(PAIR_NS, upto_ns=at_ns).get("imu"), rows.take(PAIR_NS).get("imu")
    assert now is None or now.times_ns.max() <= at_ns
    assert later is None or later.times_ns.min() > at_ns
    assert sum(len(one) for one in (now, later) if one is not None) + rows.thinned == sum(counts)
    assert not refused


def test_what_is_not_valid_is_left_out_with_one_line_and_all_else_is_kept() -> None:
    rows, refused = gathering()
    good = Signal(1.0, PAIR_NS)
    rows.add({"imu": counted(2), "good": good}, PAIR_NS)
    rows.add({"imu": counted(2, first=2, width=3)}, PAIR_NS)
    rows.add({"imu": Signal([[7.0]], [PAIR_NS + 10**9], "g")}, PAIR_NS)
    rows.add({"imu": Signal([[2.0], [np.inf], [3.0]], PAIR_NS + 10**7 * np.array([1, 2, 3]), "m")}, PAIR_NS)
    rows.add({"imu": Signal([[4.0], [5.0]], PAIR_NS + 10**7 * np.array([1, 4]), "m")}, PAIR_NS)
    rows.add({"a b": good, "wide": Signal(np.ones((1, 65)), [PAIR_NS])}, PAIR_NS)
    taken = rows.take(PAIR_NS)
    assert taken["imu"].values[:, 0].tolist() == [0, 1, 2, 3, 5]
    assert taken["good"] == good
    assert [error.reason for error in refused] == ["changed", "changed", "finite", "times", "form", "form"]
    assert set(REASONS) >= {error.reason for error in refused}
    assert all("\n" not in str(error) for error in refused)


def test_ten_thousand_names_give_one_line_and_the_first_signals() -> None:
    rows, refused = gathering()
    rows.add({f"n{number}": Signal(1.0, PAIR_NS) for number in range(10_000)}, PAIR_NS)
    assert list(rows.take(PAIR_NS)) == [f"n{number}" for number in range(MAX_SIGNALS)]
    assert [str(error) for error in refused] == [
        "9968 signals are beyond the 32 that a rig can have: they are left out"
    ]


def test_a_clock_that_was_set_back_costs_the_rows_up_to_the_next_pair_only() -> None:
    rows, refused = gathering()
    rows.add({"imu": Signal(1.0, PAIR_NS)}, PAIR_NS)
    rows.add({"imu": Signal(2.0, PAIR_NS - 10**9)}, PAIR_NS)
    assert rows.take(PAIR_NS)["imu"].values.tolist() == [[1.0]]
    rows.add({"imu": Signal(3.0, PAIR_NS - 10**9)}, PAIR_NS)
    assert rows.take(PAIR_NS)["imu"].values.tolist() == [[3.0]]
    assert [error.reason for error in refused] == ["times"]


def test_rows_of_another_clock_are_left_out() -> None:
    rows, refused = gathering()
    rows.add({"uptime": Signal([[1.0]] * 3, [5, 6, 7]), "good": Signal(1.0, PAIR_NS)}, PAIR_NS)
    assert list(rows.take(PAIR_NS)) == ["good"]
    assert [error.reason for error in refused] == ["times"]


def test_one_time_far_ahead_costs_no_row_after_it() -> None:
    """Neither in its own call, nor in later ones, nor where rows of a later time wait for their pair, as in a bag."""
    rows, refused = gathering()
    end_ns = np.iinfo(np.int64).max
    rows.add({"imu": Signal([[1.0], [2.0], [3.0]], [PAIR_NS, end_ns, PAIR_NS + 1])}, PAIR_NS)
    rows.add({"imu": Signal(4.0, PAIR_NS + 2)}, PAIR_NS)
    assert rows.take(PAIR_NS, upto_ns=PAIR_NS + 1)["imu"].values[:, 0].tolist() == [1, 3]
    rows.add({"imu": Signal(5.0, PAIR_NS + 3)}, PAIR_NS)
    assert rows.take(PAIR_NS, upto_ns=PAIR_NS + 9)["imu"].values[:, 0].tolist() == [4, 5]
    assert [error.reason for error in refused] == ["times"]


def test_what_is_said_of_a_signal_is_short_whatever_it_has_become() -> None:
    rows, refused = gathering()
    rows.add({"imu": counted(1)}, PAIR_NS)
    rows.add({"imu": Signal(1.0, PAIR_NS, "m" * 10**6)}, PAIR_NS)
    rows.add({"imu": Signal(1.0, PAIR_NS, "m\n")}, PAIR_NS)
    assert [error.reason for error in refused] == ["form", "form"]
    assert all(len(str(error)) < 200 and "\n" not in str(error) for error in refused)


@pytest.mark.parametrize("label", ["a b", "x" * 65, 5, "a\n"])
def test_a_label_that_no_receiver_takes_is_refused_by_whoever_makes_the_pair(label: Any) -> None:
    pair = paired()
    for said in (Telemetry(episode=label), Telemetry(subject=label)):
        with pytest.raises(BadSignal, match="is no name for"):
            EncodedPair(pair.header, pair.left, pair.right, telemetry=said)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 64), st.integers(1, 200)), max_size=40))
def test_what_is_gathered_can_always_be_sent(shapes: list[tuple[int, int]]) -> None:
    rows, _ = gathering()
    rows.add(
        {f"n{n}": Signal(np.ones((count, width)), np.full(count, PAIR_NS)) for n, (width, count) in enumerate(shapes)},
        PAIR_NS,
    )
    taken = rows.take(PAIR_NS)
    assert sum(size_bytes(len(one), one.width) for one in taken.values()) <= MAX_BYTES
    assert len(taken) == min(len(shapes), MAX_SIGNALS)
    assert from_parts(to_parts(paired(Telemetry(taken))), unexpected).telemetry.signals == taken


def _version(pair: EncodedPair) -> int:
    return int(msgspec.msgpack.decode(pair.header_part[:-4])[0])


def _plain() -> dict[str, Any]:
    return {"device": "rig", "epoch": EPOCH, "seq": 0, "left_ns": PAIR_NS, "right_ns": PAIR_NS, "codec": "lz4"}
