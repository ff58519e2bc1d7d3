"""The account of what arrived: every number is received, lost or came twice, whatever the network does."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.arrivals import MAX_DEVICES, Arrivals
from stream.control import Bye, Hello
from stream.errors import MalformedMessage
from stream.pair import EncodedPair, Header

EPOCHS = ("a" * 32, "b" * 32)
HEADER = Header(
    device="baby", epoch=EPOCHS[0], seq=0, left_ns=0, right_ns=0, height=1, width=1, channels=1, codec="lz4", crc=0
)


def pair(seq: int, **changes: object) -> EncodedPair:
    return EncodedPair(msgspec.structs.replace(HEADER, seq=seq, **changes), b"left", b"right")


def hello(next_seq: int, device: str = "baby") -> Hello:
    return Hello(device=device, epoch=EPOCHS[0], next_seq=next_seq)


def bye(next_seq: int, device: str = "baby") -> Bye:
    return Bye(device=device, epoch=EPOCHS[0], next_seq=next_seq)


def test_pairs_before_the_first_one_seen_are_not_lost() -> None:
    arrivals = Arrivals()
    arrivals.hello(hello(100))
    assert arrivals.pair(pair(100), 5.0)
    device = arrivals.stats().devices["baby"]
    assert (device.joined_seq, device.next_seq, device.lost, device.last_received_s) == (100, 101, 0, 5.0)


def test_a_hole_is_lost_whether_the_next_pair_a_hello_or_the_bye_tells_it() -> None:
    arrivals = Arrivals()
    arrivals.pair(pair(0), 0.0)
    arrivals.pair(pair(3), 0.0)
    assert arrivals.stats().lost == 2
    arrivals.hello(hello(10))
    assert arrivals.stats().lost == 2 + 6
    arrivals.bye(bye(15))
    assert arrivals.stats().lost == 2 + 6 + 5


def test_a_new_epoch_is_counted_afresh_and_the_totals_go_on() -> None:
    arrivals = Arrivals()
    for seq in (0, 5):
        arrivals.pair(pair(seq, suppressed=2, junk=1), 0.0)
    arrivals.bye(bye(6))
    assert arrivals.pair(pair(0, epoch=EPOCHS[1], suppressed=2, junk=1), 0.0)
    stats = arrivals.stats()
    device = stats.devices["baby"]
    assert (device.epoch, device.next_seq, device.ended) == (EPOCHS[1], 1, False)
    assert (device.lost, device.suppressed, device.junk, stats.received) == (4, 6, 3, 3)


def test_two_devices_are_counted_apart() -> None:
    arrivals = Arrivals()
    arrivals.pair(pair(0), 0.0)
    arrivals.pair(pair(7, device="toddler"), 0.0)
    arrivals.pair(pair(1), 0.0)
    arrivals.pair(pair(9, device="toddler"), 0.0)
    assert {name: device.lost for name, device in arrivals.stats().devices.items()} == {"baby": 0, "toddler": 1}


def test_the_end_is_when_all_expected_devices_said_bye() -> None:
    arrivals = Arrivals()
    assert not arrivals.all_ended(1)
    arrivals.bye(bye(0))
    assert arrivals.all_ended(1)
    assert not arrivals.all_ended(2)
    arrivals.hello(hello(0, "toddler"))
    assert not arrivals.all_ended(1)
    arrivals.bye(bye(0, "toddler"))
    assert arrivals.all_ended(2)


def test_names_without_end_do_not_take_memory_without_end() -> None:
    arrivals = Arrivals()
    for number in range(MAX_DEVICES):
        arrivals.hello(hello(0, f"d{number}"))
    with pytest.raises(MalformedMessage, match=str(MAX_DEVICES)):
        arrivals.pair(pair(0, device="one-more"), 0.0)
    assert arrivals.pair(pair(0, device="d0"), 0.0)


def test_two_devices_of_one_name_hide_no_loss_and_are_told_to_take_names(caplog: pytest.LogCaptureFixture) -> None:
    arrivals = Arrivals()
    for seq in range(0, 100, 10):
        for epoch in EPOCHS[:2]:
            assert arrivals.pair(pair(seq, epoch=epoch), 0.0)
    assert not arrivals.pair(pair(0, epoch=EPOCHS[0]), 0.0)
    stats = arrivals.stats()
    assert (stats.received, stats.lost, stats.repeated) == (20, 2 * 81, 1)
    assert caplog.text.count("two devices are named") == 1


messages = st.tuples(st.sampled_from(["pair", "hello", "bye"]), st.integers(0, 30), st.sampled_from(EPOCHS))


@given(st.lists(messages, max_size=40))
def test_every_number_since_joining_is_received_lost_or_repeated(script: list[tuple[str, int, str]]) -> None:
    """The same against a model that keeps whole sets, for any order of messages and epochs."""
    arrivals, entered = Arrivals(), 0
    counts: dict[str, tuple[int, set[int]]] = {}  # an epoch that comes back stands where it was left
    lost = repeated = 0
    for kind, seq, of in script:
        reached, seen = counts.get(of, (seq, set()))
        missed = set(range(reached, seq)) - seen
        lost, reached = lost + len(missed), max(reached, seq)
        if kind == "pair":
            new = arrivals.pair(pair(seq, epoch=of), 0.0)
            assert new == (seq == reached and seq not in seen)
            entered, repeated = entered + new, repeated + (not new)
            seen |= {seq}
            reached = max(reached, seq + 1)
        elif kind == "hello":
            arrivals.hello(replace_position(hello(seq), of))
        else:
            arrivals.bye(replace_position(bye(seq), of))
        counts[of] = (reached, seen)
    stats = arrivals.stats()
    assert (stats.received, stats.lost, stats.repeated) == (entered, lost, repeated)
    assert stats.bytes == entered * len(b"leftright")


def replace_position(message: Hello | Bye, epoch: str) -> Hello | Bye:
    return msgspec.structs.replace(message, epoch=epoch)
