"""Floods over real TCP, small: who sends or leaves too much is cut off, and honest peers beside are served."""

from __future__ import annotations

import itertools
import logging
import os
import resource
import socket as tcp
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from zlib import crc32

import msgspec
import pytest
import zmq
from link_steps import EPOCH, LOOPBACK, WIDE, make_pair, received
from memory_shelf import MemoryShelf
from waiting import WAIT_S, until

from stream.errors import EndpointError
from stream.failures import Failures
from stream.live import publisher as publishing
from stream.live import rig_links
from stream.live.backfill_messages import (
    MAX_CREDIT_BYTES,
    MAX_EPOCHS,
    AckRequest,
    PairsRequest,
    Reading,
    SpansRequest,
    encode_message,
)
from stream.live.backfill_server import MAX_REQUEST_BYTES
from stream.live.publisher import Publisher
from stream.live.subscriber import Subscriber
from stream.pair import EncodedPair
from stream.transport.crowd import Bounds
from stream.transport.endpoint import backfill_endpoint, port_of
from stream.transport.gate import MAX_CONNECTIONS, Gate
from stream.transport.handshake import LOG_INTERVAL_S
from stream.transport.lens import Lens
from stream.transport.security import Security
from stream.transport.sockets import Received

SECRET = b"0" * 40
PUBLIC = zmq.curve_public(SECRET).decode()
KEYS = Security(Path("keys"), PUBLIC, SECRET.decode(), {"peer": PUBLIC})
"""One key, which everybody here trusts: floods come from those who are let in."""
both = pytest.mark.parametrize("security", [None, KEYS], ids=["plain", "curve"])


@contextmanager
def open_rig(security: Security | None, *, high_water: int = 32) -> Iterator[Publisher]:
    with Publisher(
        LOOPBACK,
        device="baby",
        epoch=EPOCH,
        shelf=MemoryShelf(),
        security=security,
        high_water=high_water,
        linger_s=0.2,
    ) as rig:
        yield rig


@contextmanager
def calling(kind: int, endpoint: str, security: Security | None, **options: int) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(kind) as socket:
        for name, value in {"LINGER": 0, "SNDHWM": 2, "SNDTIMEO": 60_000, **options}.items():
            socket.set(getattr(zmq, name), value)
        if security is not None:
            security.call(socket, "peer")
        socket.connect(endpoint)
        yield socket


def learner_of(rig: Publisher, security: Security | None) -> Subscriber:
    mark = "" if security is None else "#peer"
    return Subscriber([rig.endpoint + mark], security=security)


def serves(rig: Publisher, source: Subscriber) -> bool:
    """Whether a pair still arrives."""
    seq = rig.next_seq
    until(lambda: rig.subscribers() > 0)
    rig.send(make_pair(seq))
    return received(source, 1)[0].header.seq >= seq


def sending_without_end(
    hostile: zmq.Socket[bytes], parts: list[bytes], failed: Callable[[], Mapping[str, int]]
) -> Callable[[], bool]:
    """Return a condition that sends a long message at each look: whether its sender was cut off.

    One is not enough: on a busy machine it may arrive whole between two sweeps, and is then only a bad message.
    """

    def is_cut() -> bool:
        with suppress(zmq.Again):
            hostile.send_multipart(parts, zmq.NOBLOCK, copy=False)
        return failed()["flood"] > 0

    return is_cut


@both
def test_a_message_without_end_to_the_spool_is_cut_off(security: Security | None) -> None:
    with (
        open_rig(security) as rig,
        learner_of(rig, security) as honest,
        calling(zmq.DEALER, backfill_endpoint(rig.endpoint), security) as hostile,
    ):
        until(sending_without_end(hostile, [b"x" * 200_000] * 500, rig.failed_handshakes))
        assert serves(rig, honest)


@both
def test_a_message_without_end_to_the_live_socket_is_cut_off(security: Security | None) -> None:
    with (
        open_rig(security) as rig,
        learner_of(rig, security) as honest,
        calling(zmq.XSUB, rig.endpoint, security) as hostile,
    ):
        until(lambda: rig.subscribers() > 0)
        until(sending_without_end(hostile, [b"x" * 900] * 1000, rig.failed_handshakes))
        assert serves(rig, honest)


@both
@pytest.mark.parametrize("at_once", [10, 1000], ids=["slowly", "at once"])
def test_subscriptions_without_end_are_cut_off(security: Security | None, at_once: int) -> None:
    with (
        open_rig(security) as rig,
        learner_of(rig, security) as honest,
        calling(zmq.XSUB, rig.endpoint, security, SNDHWM=100_000) as hostile,
    ):

        def is_cut() -> bool:
            for _ in range(at_once):
                hostile.send(b"\1" + os.urandom(60))
            return rig.subscribers() >= 0 and rig.failed_handshakes()["flood"] > 0

        until(is_cut)
        assert serves(rig, honest)


def test_the_largest_honest_request_is_answered() -> None:
    upto = {f"{number:032x}": (1 << 63) - 1 for number in range(MAX_EPOCHS)}
    request = encode_message(AckRequest(2, "x" * 64, upto, (1 << 63) - 1))
    assert len(request) < MAX_REQUEST_BYTES
    with open_rig(None) as rig, calling(zmq.DEALER, backfill_endpoint(rig.endpoint), None) as learner:
        for _ in range(20):
            learner.send(request)
            assert learner.poll(60_000)
            learner.recv_multipart()
        assert not rig.failed_handshakes()["flood"]


class EndlessShelf(MemoryShelf):
    """Has a large pair for every number, each with memory of its own."""

    def read(self, epoch: str, first: int, last: int, credit_bytes: int) -> Reading:
        return Reading(first + 1, [], [(b"", b"x" * credit_bytes, b"x")])


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@both
def test_many_that_ask_and_do_not_read_leave_the_rig_its_memory_and_the_others(security: Security | None) -> None:
    with (
        Publisher(LOOPBACK, device="baby", epoch=EPOCH, shelf=EndlessShelf(), security=security, linger_s=0.2) as rig,
        ExitStack() as stack,
        calling(zmq.DEALER, backfill_endpoint(rig.endpoint), security) as honest,
    ):
        before_bytes = resident_bytes()
        options = {"RCVHWM": 1, "RCVBUF": 4096, "SNDHWM": 100}
        readers = [
            stack.enter_context(calling(zmq.DEALER, backfill_endpoint(rig.endpoint), security, **options))
            for _ in range(20)
        ]
        request = encode_message(PairsRequest(2, "", EPOCH, 0, 1000, MAX_CREDIT_BYTES))
        for number in range(5):
            for reader in readers:
                reader.send(request)
            honest.send(encode_message(SpansRequest(2, "", number)))
            assert honest.poll(60_000)
            honest.recv_multipart()
        assert resident_bytes() - before_bytes < 200 << 20 < 20 * 5 * MAX_CREDIT_BYTES


def test_subscribers_that_read_nothing_do_not_fill_memory_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "QUEUED_BYTES", 4 << 20)
    monkeypatch.setattr(publishing, "EXCESS_BYTES", 1 << 20)
    eye = os.urandom(1 << 20)
    header = msgspec.structs.replace(make_pair(0).header, crc=crc32(eye, crc32(eye)))
    with open_rig(None, high_water=2) as rig, learner_of(rig, None) as honest, ExitStack() as stack:
        seen: list[int] = []

        def send() -> None:
            rig.send(EncodedPair(msgspec.structs.replace(header, seq=rig.next_seq), eye, eye))
            seen.extend(pair.header.seq for pair in honest.receive(8, 0.1))

        def is_cut() -> bool:
            joined = rig.subscribers()
            reader = stack.enter_context(calling(zmq.SUB, rig.endpoint, None, RCVHWM=1, RCVBUF=4096))
            reader.set(zmq.SUBSCRIBE, b"")
            until(lambda: rig.subscribers() > joined or rig.failed_handshakes()["unread"] > 0)
            for _ in range(5):
                send()
            return rig.failed_handshakes()["unread"] > 0

        until(is_cut)
        last = rig.next_seq

        def is_heard() -> bool:
            send()
            return max(seen) >= last

        until(is_heard)


@both
def test_silent_connections_are_bounded_and_an_honest_learner_gets_in(security: Security | None) -> None:
    with open_rig(security) as rig, ExitStack() as stack:
        port = port_of(rig.endpoint)
        for _ in range(MAX_CONNECTIONS + 50):
            stack.enter_context(closing(tcp.create_connection(("127.0.0.1", port), 60)))
        until(lambda: rig.failed_handshakes()["crowd"] >= 50)
        with learner_of(rig, security) as honest:
            assert serves(rig, honest)


@both
def test_a_rig_that_sends_a_pair_without_end_is_cut_off_and_the_other_rig_is_heard(
    security: Security | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rig_links, "BOUNDS", Bounds(pending_bytes=20 << 20, all_pending_bytes=20 << 20))
    mark = "" if security is None else "#peer"
    with zmq.Context() as context, context.socket(zmq.XPUB) as hostile, open_rig(security) as rig:
        hostile.set(zmq.LINGER, 0)
        if security is not None:
            hostile.set(zmq.CURVE_SERVER, 1)
            hostile.set(zmq.CURVE_SECRETKEY, SECRET)
        port = bound_port(hostile)
        with Subscriber([f"tcp://127.0.0.1:{port}{mark}", rig.endpoint + mark], security=security) as source:
            assert hostile.poll(60_000)
            hostile.recv()
            endless = [b"pair", *[b"x" * (1 << 20)] * 100]
            until(sending_without_end(hostile, endless, lambda: source.stats().failed_handshakes))
            assert serves(rig, source)


def bound_port(socket: zmq.Socket[bytes]) -> int:
    """Bind to a port whose neighbour is free, so that nobody answers for the spool."""
    while True:
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        with suppress(OSError, EndpointError), closing(tcp.create_server(("127.0.0.1", port + 1))):
            return port
        socket.unbind(f"tcp://127.0.0.1:{port}")


def test_pairs_as_large_as_allowed_wait_in_tcp_while_the_learner_is_busy() -> None:
    eye = os.urandom(8 << 20)
    header = msgspec.structs.replace(make_pair(0).header, crc=crc32(eye, crc32(eye)))
    with (
        Publisher(LOOPBACK, device="baby", epoch=EPOCH, on_full="wait", wait_s=60) as rig,
        Subscriber([rig.endpoint], capacity_pairs=1) as source,
    ):

        def publish() -> None:
            for seq in range(12):
                rig.send(EncodedPair(msgspec.structs.replace(header, seq=seq), eye, eye))

        thread = threading.Thread(target=publish)
        thread.start()
        until(lambda: source.backlog() == 1)
        assert [pair.header.seq for pair in received(source, 12)] == list(range(12))
        thread.join(WAIT_S)
        assert source.stats().failed_handshakes["flood"] == source.stats().lost == 0


@contextmanager
def open_gate() -> Iterator[tuple[Gate, Failures]]:
    failures = Failures(logging.getLogger(__name__), LOG_INTERVAL_S)
    with Gate(WIDE, failures) as gate:
        yield gate, failures


@pytest.mark.parametrize("sweeps", [0, 1])
def test_messages_that_came_before_their_connection_was_known_count_as_received(sweeps: int) -> None:
    """The thread that reads the events of connections may be late."""
    clock = itertools.count()
    for were_messages in (True, False):
        failures = Failures(logging.getLogger(__name__), LOG_INTERVAL_S)
        with (
            Gate(Bounds(pending_bytes=1000, all_pending_bytes=1 << 20), failures, clock=lambda: next(clock)) as gate,
            tcp.create_server(("127.0.0.1", 0)) as server,
            tcp.create_connection(server.getsockname()) as peer,
            server.accept()[0] as ours,
        ):
            peer.sendall(bytes(50_000))
            ours.recv(50_000, tcp.MSG_WAITALL)
            if were_messages:
                gate.delivered(Received([b""], 50_000, ours.fileno(), zmq.Frame(b"")))
            for _ in range(sweeps):
                gate.sweep()
            gate.enter(ours.fileno(), local_port=server.getsockname()[1])
            gate.sweep()
            assert failures.counts["flood"] == (not were_messages)


def test_a_connection_that_has_reached_itself_is_cut_off() -> None:
    with open_gate() as (gate, failures), tcp.socket() as looped:
        looped.bind(("127.0.0.1", 0))
        looped.connect(looped.getsockname())
        gate.enter(looped.fileno(), port=looped.getsockname()[1])
        assert failures.counts["self"] == 1
        assert looped.recv(1) == b""


def test_a_descriptor_that_means_something_else_by_now_is_left_alone(tmp_path: Path) -> None:
    with (
        closing(Lens()) as lens,
        tcp.create_server(("127.0.0.1", 0)) as server,
        tcp.create_connection(server.getsockname()) as first,
        tcp.create_connection(server.getsockname()) as second,
        (tmp_path / "segment").open("wb") as file,
    ):
        identity = lens.identify(first.fileno())
        assert identity is not None
        os.dup2(second.fileno(), first.fileno())
        assert lens.traffic(identity) is None
        lens.cut(identity)
        first.sendall(b"still here")
        assert lens.identify(file.fileno()) is None
        assert lens.identify(server.fileno()) is None
        assert lens.identify(10_000) is None


def test_looking_needs_no_further_descriptor() -> None:
    with (
        closing(Lens()) as lens,
        tcp.create_server(("127.0.0.1", 0)) as server,
        tcp.create_connection(server.getsockname()) as connection,
    ):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken = max(int(path.name) for path in Path("/proc/self/fd").iterdir()) + 1
        fillers = [os.open(os.devnull, os.O_RDONLY)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 8, hard))
        try:
            with suppress(OSError):
                while True:
                    fillers.append(os.open(os.devnull, os.O_RDONLY))
            identity = lens.identify(connection.fileno())
            assert identity is not None
            assert lens.traffic(identity) is not None
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for filler in fillers:
                os.close(filler)
