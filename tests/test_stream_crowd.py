"""Which connections have to go: too many, too many bytes, or nothing read. No socket here; TCP's counts are made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.transport.crowd import HEARTBEAT_BYTES_PER_S, PROGRESS_BYTES, Bounds, Crowd
from stream.transport.gate import MAX_CONNECTIONS, RESERVED_DESCRIPTORS, connections_allowed
from stream.transport.lens import Identity, Traffic

BOUNDS = Bounds(pending_bytes=100, all_pending_bytes=250, unconfirmed_bytes=1000, all_unconfirmed_bytes=3000)


def crowd_of(*hosts: str, proven: int = 0, bounds: Bounds = BOUNDS) -> Crowd:
    """Connections from these hosts, by descriptor from 0 on; the first ones are proven."""
    crowd = Crowd(bounds)
    for number, host in enumerate(hosts):
        crowd.add(Identity(number, 1000 + number, host, 5555, 40_000 + number, False), 0.0)
        crowd.connections[number].proven = number < proven
    return crowd


def cut(crowd: Crowd) -> list[tuple[int, str]]:
    gone = []
    for one, reason in crowd.offenders():
        one.is_cut = True
        gone.append((one.identity.descriptor, reason))
    return gone


def superfluous(crowd: Crowd) -> list[int]:
    gone = []
    while (one := crowd.superfluous()) is not None:
        one.is_cut = True
        gone.append(one.identity.descriptor)
    return gone


def counts(received: int = 0, *, waiting: int = 0, confirmed: int = 0, behind: bool = False) -> Traffic:
    return Traffic(received, waiting, confirmed, behind)


def limited(connections: int) -> Bounds:
    return Bounds(connections=connections, pending_bytes=1, all_pending_bytes=1)


def test_who_sends_more_than_messages_is_cut_off_and_what_the_kernel_holds_does_not_count() -> None:
    crowd = crowd_of("a", "b")
    crowd.connections[0].update(counts(101), 0.0)
    crowd.connections[1].update(counts(5000, waiting=4900), 0.0)
    assert cut(crowd) == [(0, "flood")]


def test_received_messages_do_not_count_and_heartbeats_are_forgiven() -> None:
    crowd = crowd_of("a")
    one = crowd.connections[0]
    one.delivered_bytes = 4000
    one.update(counts(4100), 0.0)
    one.update(counts(4100 + 10 * HEARTBEAT_BYTES_PER_S), 10.0)
    assert cut(crowd) == []
    one.update(counts(4101 + 10 * HEARTBEAT_BYTES_PER_S), 10.0)
    assert cut(crowd) == [(0, "flood")]


def test_nobody_saves_up_a_stock_for_a_flood() -> None:
    crowd = crowd_of("a")
    crowd.connections[0].update(counts(10), 1e6)
    crowd.connections[0].update(counts(111), 1e6)
    assert cut(crowd) == [(0, "flood")]


def test_all_together_are_bounded_and_the_largest_goes_first() -> None:
    crowd = crowd_of("a", "b", "c", "d")
    for number, received in enumerate((90, 60, 100, 50)):
        crowd.connections[number].update(counts(received), 0.0)
    assert cut(crowd) == [(2, "flood")]


def test_topics_that_mean_nothing_are_bounded_for_ever() -> None:
    crowd = crowd_of("a")
    crowd.connections[0].topic_bytes = BOUNDS.topic_bytes + 1
    crowd.connections[0].update(counts(), 1e9)
    assert cut(crowd) == [(0, "flood")]


def test_unread_replies_leave_no_room_until_they_are_confirmed() -> None:
    crowd = crowd_of("a")
    one = crowd.connections[0]
    one.update(counts(confirmed=300), 0.0)  # the handshake, which nobody counted
    crowd.add_sent(0, 400)
    crowd.add_sent(0, 450)
    assert crowd.room_bytes(one) == 150
    one.update(counts(confirmed=1150), 0.0)
    assert crowd.room_bytes(one) == 1000


def test_two_of_the_largest_replies_may_always_be_under_way() -> None:
    crowd = crowd_of("a")
    crowd.add_sent(0, 5000)
    assert crowd.room_bytes(crowd.connections[0]) == 5000
    assert cut(crowd) == []


def test_when_all_leave_too_much_unread_the_one_that_is_stuck_longest_goes() -> None:
    crowd = crowd_of("drip", "stuck", "slow", "quick")
    for number, confirmed in enumerate((10, 0, PROGRESS_BYTES, 0)):
        crowd.add_sent(number, 450)
        crowd.add_sent(number, 450)
        one = crowd.connections[number]
        one.update(counts(behind=number < 3 and number != 0), float(number == 0))
        one.update(counts(confirmed=confirmed, behind=number < 3), 5.0)
    assert crowd.connections[2].progress_s == 5.0
    crowd.connections[2].sent_bytes = crowd.connections[2].confirmed_bytes + 900
    assert cut(crowd) == [(1, "unread")]


@pytest.mark.parametrize(
    ("hosts", "proven", "limit", "gone"),
    [
        ("aaaa", 4, 4, []),
        ("aaaaa", 4, 4, [4]),  # the newest, where all have proven what they are
        ("aaaaaaaa", 2, 4, [2, 3, 4, 5]),  # strangers: the oldest first
        ("aaaab", 4, 4, [3]),  # a newcomer from elsewhere takes the place of the greediest
        ("baaaa", 0, 4, [1]),
    ],
)
def test_too_many_connections_make_room_for_honest_ones(hosts: str, proven: int, limit: int, gone: list[int]) -> None:
    assert superfluous(crowd_of(*hosts, proven=proven, bounds=limited(limit))) == gone


@given(st.lists(st.sampled_from("abc"), max_size=40), st.integers(0, 40), st.integers(1, 12))
def test_never_more_than_allowed_and_never_fewer(hosts: list[str], proven: int, limit: int) -> None:
    crowd = crowd_of(*hosts, proven=proven, bounds=limited(limit))
    superfluous(crowd)
    assert len(crowd.present()) == min(limit, len(hosts))


@pytest.mark.parametrize("soft_limit", [64, 256, 1024, 1 << 20, -1])
def test_connections_leave_descriptors_to_everything_else(soft_limit: int) -> None:
    allowed = connections_allowed(soft_limit)
    assert 8 <= allowed <= MAX_CONNECTIONS
    if soft_limit >= 1024:
        assert 2 * allowed <= soft_limit - RESERVED_DESCRIPTORS
