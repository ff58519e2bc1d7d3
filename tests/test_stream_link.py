"""Publisher and subscriber over real TCP: what arrives, what is counted, and what neither side can do to the other."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq
from link_steps import (
    EPOCH,
    LOOPBACK,
    NEXT_EPOCH,
    all_received,
    in_background,
    make_pair,
    make_pairs,
    publish_all,
    received,
    until_quiet,
)
from waiting import WAIT_S, until

from stream import codec
from stream.codec import encode_pair, to_parts
from stream.errors import EndOfStream, EndpointError, StreamError
from stream.live import rig_links
from stream.live.ledger import Ledger
from stream.live.publisher import Publisher
from stream.live.subscriber import Subscriber
from stream.pair import Codec
from stream.transport.sockets import LEARNER_TIMEOUT_MS, RIG_TIMEOUT_MS


@pytest.mark.parametrize("kind", ["jpeg", "lz4"])
def test_pairs_arrive_in_order_and_byte_for_byte(kind: Codec) -> None:
    images = np.random.default_rng(1).integers(0, 256, (20, 2, 24, 32, 3), dtype=np.uint8)
    pairs = [
        encode_pair(left, right, device="baby", epoch=EPOCH, seq=seq, left_ns=5, right_ns=6, codec=kind)
        for seq, (left, right) in enumerate(images)
    ]
    with Publisher(LOOPBACK, device="baby", epoch=EPOCH) as publisher, Subscriber([publisher.endpoint]) as source:
        assert publisher.wait_for_subscriber(60)
        assert all(publisher.send(pair) for pair in pairs)
        assert received(source, 20) == pairs
        assert (publisher.sent, publisher.next_seq) == (20, 20)
        stats = source.stats()
    assert (stats.received, stats.lost, stats.repeated, stats.malformed) == (20, 0, 0, {})
    assert stats.bytes == sum(len(pair.left) + len(pair.right) for pair in pairs)


def test_a_late_joiner_is_told_where_it_joined_and_counts_no_gap() -> None:
    with Publisher(LOOPBACK, device="baby", epoch=EPOCH) as publisher:
        with Subscriber([publisher.endpoint]) as first:
            assert publisher.wait_for_subscriber(60)
            for seq in range(5):
                publisher.send(make_pair(seq))
            with Subscriber([publisher.endpoint]) as late:
                until(lambda: publisher.subscribers() == 2)
                until(lambda: "baby" in late.stats().devices)
                for seq in range(5, 8):
                    publisher.send(make_pair(seq))
                assert [pair.header.seq for pair in received(late, 3)] == [5, 6, 7]
                assert late.stats().lost == 0
            assert [pair.header.seq for pair in received(first, 8)] == list(range(8))
            until(lambda: publisher.subscribers() == 1)
        until(lambda: publisher.subscribers() == 0)


def test_joining_a_stream_at_full_speed_counts_no_gap() -> None:
    """Pairs sent between the connection and the subscription are neither received nor lost: they came before."""
    joined = threading.Event()

    def publish() -> None:
        for first in itertools.count(step=100):
            for pair in make_pairs(100, first=first):
                publisher.send(pair)
            if joined.is_set():
                break
        publisher.bye()

    with (
        Publisher(LOOPBACK, device="baby", epoch=EPOCH, on_full="wait") as publisher,
        Subscriber([publisher.endpoint], capacity_pairs=1_000_000) as steady,
    ):
        assert publisher.wait_for_subscriber(60)
        with in_background(publish):
            try:
                for _ in range(5):
                    with Subscriber([publisher.endpoint], capacity_pairs=1_000_000) as late:
                        received(late, 20)
                        assert late.stats().lost == 0
            finally:
                joined.set()
        until(lambda: steady.stats().devices["baby"].ended)
        assert (steady.stats().received, steady.stats().lost) == (publisher.next_seq, 0)


def test_a_device_that_starts_after_the_subscriber_is_heard_from_its_first_pair() -> None:
    with Publisher(LOOPBACK, device="baby", epoch=EPOCH) as publisher:
        endpoint = publisher.endpoint
    with Subscriber([endpoint]) as source:
        assert source.receive(1, 0.3) == []
        with Publisher(endpoint, device="baby", epoch=EPOCH) as publisher:
            assert publisher.wait_for_subscriber(60)
            publisher.send(make_pair(0))
            assert received(source, 1) == [make_pair(0)]


def test_a_device_restarted_on_its_port_is_reconnected_to_and_counted_afresh() -> None:
    with Publisher(LOOPBACK, device="baby", epoch=EPOCH) as publisher:
        source = Subscriber([publisher.endpoint])
        assert publisher.wait_for_subscriber(60)
        publisher.send(make_pair(0))
        assert len(received(source, 1)) == 1
    with source, Publisher(publisher.endpoint, device="baby", epoch=NEXT_EPOCH) as publisher:
        assert publisher.wait_for_subscriber(60)
        for seq in range(3):
            publisher.send(make_pair(seq, epoch=NEXT_EPOCH))
        assert [pair.header.epoch for pair in received(source, 3)] == [NEXT_EPOCH] * 3
        device = source.stats().devices["baby"]
        assert (device.epoch, device.next_seq, device.received, device.lost) == (NEXT_EPOCH, 3, 4, 0)


def test_holes_and_repetitions_are_counted_and_repetitions_dropped() -> None:
    with Publisher(LOOPBACK, device="baby", epoch=EPOCH) as publisher, Subscriber([publisher.endpoint]) as source:
        assert publisher.wait_for_subscriber(60)
        for seq in (0, 1, 4, 4, 5):
            publisher.send(make_pair(seq))
        assert [pair.header.seq for pair in received(source, 4)] == [0, 1, 4, 5]
        assert (source.stats().lost, source.stats().repeated) == (2, 1)
        publisher.send(make_pair(2))  # it was given up, and comes all the same
        assert received(source, 1) == [make_pair(2)]
        assert (source.stats().lost, source.stats().repeated) == (1, 1)


def test_two_devices_come_through_one_subscriber() -> None:
    with (
        Publisher(LOOPBACK, device="baby", epoch=EPOCH) as baby,
        Publisher(LOOPBACK, device="toddler", epoch=EPOCH) as toddler,
        Subscriber([baby.endpoint, toddler.endpoint], end_on_bye=True) as source,
    ):
        for publisher in (baby, toddler):
            assert publisher.wait_for_subscriber(60)
            for seq in range(3):
                publisher.send(make_pair(seq, device=publisher.device))
            publisher.bye()
        pairs = all_received(source)
    assert sorted(pair.header.name for pair in pairs) == [
        f"{name}/aaaaaaaa/{seq}" for name in ("baby", "toddler") for seq in range(3)
    ]


def test_bye_ends_the_source_and_tells_what_was_missed_at_the_end() -> None:
    with (
        Publisher(LOOPBACK, device="baby", epoch=EPOCH, linger_s=60) as publisher,
        Subscriber([publisher.endpoint], end_on_bye=True) as source,
    ):
        assert publisher.wait_for_subscriber(60)
        publisher.send(make_pair(0))
        publisher.next_seq = 4  # as if three more had been dropped on their way
        assert publisher.bye()
        assert all_received(source) == [make_pair(0)]
        assert source.stats().devices["baby"].ended
        assert source.stats().lost == 3


def sealed(header: object) -> bytes:
    """A header part whose checksum is right."""
    data = msgspec.msgpack.encode(header)
    return data + zlib.crc32(data).to_bytes(4)


def test_malformed_messages_are_dropped_and_counted_by_reason_and_the_good_ones_after_them_arrive() -> None:
    topic, header, left, right = to_parts(make_pair(0))
    bad = {
        "parts": [
            [b""],
            [topic],
            [b"noise", header],
            [b"hello"],
            [topic, header, left, right, b"more"],
            [topic] * 1000,
        ],
        "size": [[topic, header, b"", right], [topic, bytes(1 << 18), left, right], [b"bye", bytes(4096)]],
        "header": [[topic, sealed({}), left, right], [b"hello", b"\x93\x01\x02\x03"], [b"bye", b""]],
        "version": [[topic, msgspec.msgpack.encode([9]), left, right], [topic, sealed([9]), left, right]],
        "crc": [[topic, header, left, right[:-1] + b"?"], [topic, header[:-1] + b"?", left, right]],
    }
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        with Subscriber([f"tcp://127.0.0.1:{port}"]) as source:
            assert socket.poll(60_000)
            for parts in itertools.chain(*bad.values()):
                socket.send_multipart(parts)
            socket.send_multipart(to_parts(make_pair(0)))
            assert received(source, 1) == [make_pair(0)]
            assert source.stats().malformed == {reason: len(messages) for reason, messages in bad.items()}
        socket.close(linger=0)


def test_a_message_beyond_all_bounds_costs_its_sender_the_connection_and_nobody_else() -> None:
    with (
        zmq.Context() as context,
        context.socket(zmq.XPUB) as hostile,
        Publisher(LOOPBACK, device="baby", epoch=EPOCH) as publisher,
    ):
        port = hostile.bind_to_random_port("tcp://127.0.0.1")
        with Subscriber([f"tcp://127.0.0.1:{port}", publisher.endpoint]) as source:
            assert hostile.recv() == b"\x01"
            hostile.send(bytes(rig_links.MAX_PART_BYTES + 1))
            assert hostile.recv() == b"\x00"  # it is cut off
            assert publisher.wait_for_subscriber(60)
            publisher.send(make_pair(0))
            assert received(source, 1) == [make_pair(0)]
            assert source.stats().malformed == {}
        hostile.close(linger=0)


@pytest.mark.parametrize(("capacity_pairs", "capacity_bytes"), [(8, 1 << 30), (1000, 8 * 64_000)])
def test_a_full_subscriber_pushes_back_and_nothing_is_lost_when_the_publisher_waits(
    capacity_pairs: int, capacity_bytes: int
) -> None:
    pairs = make_pairs(300, big=True)
    with (
        Publisher(LOOPBACK, device="baby", epoch=EPOCH, on_full="wait", high_water=4) as publisher,
        Subscriber(
            [publisher.endpoint],
            capacity_pairs=capacity_pairs,
            capacity_bytes=capacity_bytes,
            high_water=4,
            end_on_bye=True,
        ) as source,
        in_background(lambda: publish_all(publisher, pairs)),
    ):
        until(lambda: source.backlog() == 8)
        time.sleep(0.3)
        assert source.backlog() == 8
        assert all_received(source) == pairs
        assert (publisher.sent, source.stats().lost) == (300, 0)


def test_a_subscriber_that_rests_longer_than_a_dead_link_is_waited_for_loses_nothing() -> None:
    pairs = make_pairs(400, big=True)
    with (
        Publisher(LOOPBACK, device="baby", epoch=EPOCH, on_full="wait", high_water=4) as publisher,
        Subscriber([publisher.endpoint], capacity_pairs=2, high_water=2, end_on_bye=True) as source,
        in_background(lambda: publish_all(publisher, pairs)),
    ):
        time.sleep(RIG_TIMEOUT_MS / 1000 + 1.0)
        assert all_received(source) == pairs
        assert source.stats().lost == 0
    assert LEARNER_TIMEOUT_MS > 10 * RIG_TIMEOUT_MS


def test_a_live_publisher_never_waits_and_what_a_slow_subscriber_misses_is_counted_there() -> None:
    with (
        Publisher(LOOPBACK, device="baby", epoch=EPOCH, high_water=2) as publisher,
        Subscriber([publisher.endpoint], capacity_pairs=2, high_water=2, end_on_bye=True) as source,
    ):
        assert publisher.wait_for_subscriber(60)
        assert all(publisher.send(pair) for pair in make_pairs(600, big=True))
        pairs = until_quiet(source)
        publisher.bye()
        seqs = [pair.header.seq for pair in (*pairs, *all_received(source))]
        assert seqs == sorted(set(seqs))
        assert 0 < source.stats().lost == 600 - len(seqs)


def test_a_waiting_publisher_gives_up_after_its_time_and_says_so() -> None:
    with Publisher(LOOPBACK, device="baby", epoch=EPOCH, on_full="wait", wait_s=0.05, high_water=2) as publisher:
        assert not publisher.send(make_pair(0))
        with Subscriber([publisher.endpoint], capacity_pairs=1, high_water=1) as source:
            assert publisher.wait_for_subscriber(60)
            last = next(pair for pair in make_pairs(2000, big=True)[1:] if not publisher.send(pair)).header.seq
            assert publisher.sent == last - 1
            received(source, last - 1)
            until(lambda: publisher.send(make_pair(last + 1)))
            assert received(source, 1) == [make_pair(last + 1)]
            assert source.stats().lost == 2


def test_a_pair_given_again_after_its_time_was_over_reaches_who_joined_meanwhile() -> None:
    with Publisher(LOOPBACK, device="baby", epoch=EPOCH, on_full="wait", wait_s=0.05) as publisher:
        assert not publisher.send(make_pair(0))
        with Subscriber([publisher.endpoint], end_on_bye=True) as source:
            until(lambda: publisher.subscribers() == 1)  # it is greeted before the pair comes again
            assert publisher.send(make_pair(0))
            publisher.bye()
            assert all_received(source) == [make_pair(0)]
            assert (source.stats().lost, source.stats().repeated) == (0, 0)


def test_a_pair_of_another_stream_is_not_sent() -> None:
    with Publisher(LOOPBACK, device="baby", epoch=EPOCH) as publisher, pytest.raises(ValueError, match="toddler"):
        publisher.send(make_pair(0, device="toddler"))


def test_a_port_that_is_taken_an_address_elsewhere_and_an_open_one_are_refused_in_one_line() -> None:
    with Publisher(LOOPBACK, device="baby", epoch=EPOCH) as publisher:
        for endpoint, said in (
            (publisher.endpoint, "in use"),
            ("tcp://*:0", "--insecure"),
            ("tcp://127.0.0.1", "HOST:PORT"),
        ):
            with pytest.raises(EndpointError, match=said) as caught:
                Publisher(endpoint, device="baby", epoch=EPOCH)
            assert "\n" not in str(caught.value)
        with pytest.raises(EndpointError, match="not an address of this machine"):
            Publisher("tcp://192.0.2.1:0", device="baby", epoch=EPOCH, insecure=True)


def test_an_open_address_can_be_bound_with_consent() -> None:
    with (
        Publisher("tcp://*:*", device="baby", epoch=EPOCH, insecure=True) as publisher,
        Subscriber([publisher.endpoint.replace("0.0.0.0", "127.0.0.1")]) as source,
    ):
        assert publisher.wait_for_subscriber(60)
        publisher.send(make_pair(0))
        assert received(source, 1) == [make_pair(0)]


def test_a_malformed_endpoint_or_capacity_is_refused_before_anything_runs() -> None:
    with pytest.raises(EndpointError, match="tcp://HOST:PORT"):
        Subscriber(["127.0.0.1:5555"])
    with pytest.raises(ValueError, match="list of endpoints"):
        Subscriber([])
    with pytest.raises(ValueError, match="list of endpoints"):
        Subscriber("tcp://127.0.0.1:5555")
    with pytest.raises(ValueError, match="at least 1 pair"):
        Subscriber(["tcp://127.0.0.1:5555"], capacity_pairs=0)


def test_a_failure_while_receiving_is_raised_to_the_caller_after_the_pairs_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (
        Publisher(LOOPBACK, device="baby", epoch=EPOCH) as publisher,
        Subscriber([publisher.endpoint]) as source,
    ):
        assert publisher.wait_for_subscriber(60)
        publisher.send(make_pair(0))
        until(lambda: source.backlog() == 1)
        failed = threading.Event()

        def fail(*_: object) -> bool:
            failed.set()
            raise RuntimeError("as anything might fail")

        monkeypatch.setattr(Ledger, "receive", fail)
        publisher.send(make_pair(1))
        assert failed.wait(WAIT_S)
        assert received(source, 1) == [make_pair(0)]
        with pytest.raises(StreamError, match="receiving has stopped: as anything might fail"):
            source.receive(1, 60.0)


def test_a_closed_subscriber_has_ended_and_closing_again_is_harmless() -> None:
    source = Subscriber(["tcp://127.0.0.1:9"])
    source.close()
    source.close()
    with pytest.raises(EndOfStream, match="closed"):
        source.receive(1, 60.0)
    with pytest.raises(ValueError, match="at least 1"):
        source.receive(0, 0.0)


def run_beside(code: str) -> int:
    """The exit code of a process of its own, which may die of it."""
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(codec.__file__).parents[1]), str(Path(__file__).parent)]),
    }
    return subprocess.run([sys.executable, "-c", code], env=env, check=False, timeout=WAIT_S).returncode


def test_a_learner_that_rests_with_full_queues_survives_the_death_of_its_rig() -> None:
    """ZeroMQ's own heartbeats end the process here, on the second one after that."""
    assert not run_beside("""
import time
from link_steps import EPOCH, LOOPBACK, make_pairs
from waiting import until
from memory_shelf import MemoryShelf
from stream.live.publisher import Publisher
from stream.live.subscriber import Subscriber

shelf = MemoryShelf()
with Publisher(LOOPBACK, device="baby", epoch=EPOCH, shelf=shelf, high_water=4, linger_s=0.1) as publisher:
    source = Subscriber([publisher.endpoint], capacity_pairs=2, high_water=2)
    assert publisher.wait_for_subscriber(60)
    for pair in make_pairs(300, big=True):
        shelf.append([pair])
        publisher.send(pair)
    until(lambda: source.backlog() >= 2)
    time.sleep(0.5)
time.sleep(3)
source.close()
""")


def test_a_rig_survives_a_learner_that_sends_without_reading_and_hangs_up() -> None:
    assert not run_beside("""
import socket, struct, time
from link_steps import EPOCH, LOOPBACK
from memory_shelf import MemoryShelf
from stream.live.publisher import Publisher

def frame(flags, body):
    return bytes([flags | 2]) + struct.pack(">Q", len(body)) + body

def ready(kind):
    return b"\\x05READY" + b"\\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind

class Slow(MemoryShelf):
    def spans(self, *, freed=False):
        time.sleep(0.2)
        return super().spans()

with Publisher(LOOPBACK, device="baby", epoch=EPOCH, shelf=Slow()) as publisher:
    for endpoint, kind, message in (
        (publisher.endpoint, b"SUB", b"\\x01" + bytes(500)),
        (publisher.backfill.endpoint, b"DEALER", bytes.fromhex("94a577686572650200") + b"\\x05"),
    ):
        peer = socket.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2])))
        peer.sendall(b"\\xff" + bytes(8) + b"\\x7f\\x03\\x00" + b"NULL".ljust(20, b"\\0") + bytes(32) + frame(4, ready(kind)))
        time.sleep(0.3)
        peer.settimeout(1.0)
        try:
            for _ in range(20_000):
                peer.sendall(frame(0, message))
        except OSError:
            pass
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
    time.sleep(1.5)
""")


def start_device(endpoint: str, epoch: str) -> subprocess.Popen[str]:
    """A publisher in its own process that sends 64 kB pairs for good, as fast as its subscriber takes them."""
    code = f"""
import itertools, msgspec, numpy as np
from stream.codec import encode_pair
from stream.live.publisher import Publisher
noise = np.random.default_rng(0).integers(0, 256, (160, 200), dtype=np.uint8)
with Publisher({endpoint!r}, device="baby", epoch={epoch!r}, on_full="wait", high_water=4) as publisher:
    print(publisher.endpoint, flush=True)
    for seq in itertools.count():
        publisher.send(encode_pair(noise, noise, device="baby", epoch={epoch!r}, seq=seq, left_ns=0, right_ns=0, codec="lz4"))
"""
    env = {**os.environ, "PYTHONPATH": str(Path(codec.__file__).parents[1])}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env)


def test_a_device_killed_while_the_subscriber_rests_is_followed_again_when_it_is_back() -> None:
    with start_device(LOOPBACK, EPOCH) as device:
        assert device.stdout is not None
        endpoint = device.stdout.readline().strip()
        source = Subscriber([endpoint], capacity_pairs=2, high_water=2)
        until(lambda: source.backlog() == 2)
        time.sleep(0.3)  # every queue on the way is full
        device.send_signal(signal.SIGKILL)
    with source, start_device(endpoint, NEXT_EPOCH) as device:
        time.sleep(0.3)
        until(lambda: any(pair.header.epoch == NEXT_EPOCH for pair in source.receive(1, 1.0)))
        device.kill()
    stats = source.stats()
    assert (stats.lost, stats.repeated, stats.malformed) == (0, 0, {})
