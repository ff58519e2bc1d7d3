"""Rig and learner over real TCP: right keys pass, everything else gets nothing through and is said on both sides."""

from __future__ import annotations

import logging
import os
import random
import re
import socket as tcp
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest
import zmq
from link_steps import WIDE, open_dialer
from waiting import WAIT_S, until

from stream.errors import EndpointError
from stream.transport import acceptor, dialer
from stream.transport.acceptor import Acceptor
from stream.transport.dialer import Dialer
from stream.transport.endpoint import bind, connect_address
from stream.transport.keys import KeysError
from stream.transport.security import CURVE_OVERHEAD_BYTES, Security

LOOPBACK = "tcp://127.0.0.1:0"
NULL_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
"""How a plain peer of ZMTP 3.0 begins (RFC 23)."""
READY = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB"


def machine(seed: int) -> Security:
    """The keys of a machine that trusts nobody yet."""
    secret = zmq.curve_keypair()[1] if seed < 0 else f"{seed:040d}".encode()
    return Security(Path("keys"), zmq.curve_public(secret).decode(), secret.decode(), {})


def trusting(machine: Security, /, **others: Security) -> Security:
    return replace(machine, trusted={name: other.public for name, other in others.items()})


STRANGER = machine(3)
RIG = trusting(machine(1), learner=machine(2))
LEARNER = trusting(machine(2), rig=machine(1))


@dataclass
class Rig:
    """Bound sockets behind one acceptor."""

    acceptor: Acceptor
    live: zmq.Socket[bytes]
    backfill: zmq.Socket[bytes]
    endpoint: str

    def is_joined(self) -> bool:
        """Whether somebody subscribed since the last time."""
        while self.live.poll(0):
            if self.live.recv() == b"\x01":
                return True
        return False


@contextmanager
def open_rig(security: Security | None, endpoint: str = LOOPBACK, max_bytes: int = -1) -> Iterator[Rig]:
    with zmq.Context() as context, Acceptor(context, security) as doorkeeper:
        live, backfill = context.socket(zmq.XPUB), context.socket(zmq.ROUTER)
        for socket in (live, backfill):
            socket.set(zmq.MAXMSGSIZE, max_bytes)
            socket.set(zmq.HEARTBEAT_IVL, 50)
            socket.set(zmq.HEARTBEAT_TIMEOUT, 3000)
            doorkeeper.guard(socket, WIDE)
        live.set(zmq.XPUB_VERBOSE, 1)  # every subscription, not only the first
        try:
            yield Rig(doorkeeper, live, backfill, bind(live, endpoint))
        finally:
            live.close(linger=0)
            backfill.close(linger=0)


@dataclass
class Learner:
    """A connected socket and what keeps it connected."""

    socket: zmq.Socket[bytes]
    dialer: Dialer

    def until(self, condition: Callable[[], bool]) -> None:
        """Tend the socket until it comes to pass."""
        deadline_s = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline_s, f"it did not come to pass: {self.dialer.failures.counts}"
            self.dialer.tend()
            self.socket.poll(5)  # as a learner does: it is what makes ZeroMQ subscribe again

    def rest(self, seconds: float) -> None:
        deadline_s = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > deadline_s)

    def hears(self, rig: Rig) -> None:
        """It joins, and a message comes through."""
        self.until(rig.is_joined)
        rig.live.send(b"news")
        self.until(lambda: self.socket.poll(0) != 0 and self.socket.recv() == b"news")


@contextmanager
def open_learner(security: Security | None, *endpoints: str, kind: int = zmq.SUB) -> Iterator[Learner]:
    with zmq.Context() as context, context.socket(kind) as socket:
        socket.set(zmq.RECONNECT_IVL, 20)
        socket.set(zmq.RCVHWM, 2)
        socket.set(zmq.LINGER, 0)
        if kind == zmq.SUB:
            socket.set(zmq.SUBSCRIBE, b"")
        with open_dialer(socket, security) as calls:
            for endpoint in endpoints:
                calls.dial(connect_address(endpoint, security=security))
            yield Learner(socket, calls)


def resources() -> tuple[int, int]:
    """Threads and open files of this process."""
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def port_of(endpoint: str) -> tuple[str, int]:
    return "127.0.0.1", int(endpoint.rpartition(":")[2])


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was given up is called again at once."""
    monkeypatch.setattr(dialer, "REDIAL_S", 0.1)


def test_those_who_trust_each_other_talk_on_every_socket_of_a_rig() -> None:
    with open_rig(RIG) as rig, open_learner(LEARNER, rig.endpoint) as learner:
        learner.hears(rig)
        with open_learner(LEARNER, bind(rig.backfill, LOOPBACK), kind=zmq.DEALER) as asking:
            asking.socket.send(b"question")
            assert rig.backfill.poll(60_000)
            asker, question = rig.backfill.recv_multipart(copy=False)
            assert (question.bytes, question.get("User-Id")) == (b"question", "learner")
            rig.backfill.send_multipart([asker.bytes, b"answer"])
            assert asking.socket.poll(60_000)
            assert asking.socket.recv() == b"answer"
        assert set(rig.acceptor.failures.counts.values()) == set(learner.dialer.failures.counts.values()) == {0}


def test_without_keys_they_talk_plain_where_both_are_told_to() -> None:
    with open_rig(None) as rig, open_learner(None, rig.endpoint) as learner:
        learner.hears(rig)


def test_one_socket_calls_several_rigs_each_by_its_own_key() -> None:
    other = trusting(machine(4), learner=machine(2))
    both = trusting(machine(2), one=machine(1), two=machine(4))
    with (
        open_rig(RIG) as one,
        open_rig(other) as two,
        open_learner(both, f"{one.endpoint}#one", f"{two.endpoint}#two") as learner,
    ):
        learner.hears(one)
        learner.hears(two)
        with open_learner(both, f"{one.endpoint}#two") as mistaken:  # it is there, but with another key
            mistaken.until(lambda: mistaken.dialer.failures.counts["broken_off"] > 0)
            assert not one.live.poll(0)


MISMATCH = {"protocol", "broken_off"}
"""Which of the two is a race between the sides."""
WRONG = {
    "a stranger": (
        RIG,
        trusting(STRANGER, rig=machine(1)),
        {"refused"},
        {"refused"},
        rf"{re.escape(STRANGER.public)}.*stream keys trust",
        rf"does not trust our key.*{re.escape(STRANGER.public)}",
    ),
    "another rig": (
        RIG,
        trusting(machine(2), rig=STRANGER),
        {"wrong_key"},
        {"broken_off"},
        rf"another key than.*{re.escape(RIG.public)}",
        "its key is not the one trusted here as rig",
    ),
    "a learner without keys": (RIG, None, MISMATCH, MISMATCH, "which needs keys", "the rig there needs keys"),
    "a rig without keys": (None, LEARNER, MISMATCH, MISMATCH, "uses no keys", "started without keys"),
}
"""Keys of both sides, what each counts, and what each says."""


def reasons(side: Acceptor | Dialer) -> set[str]:
    """Why handshakes have failed there."""
    return {reason for reason, count in side.failures.counts.items() if count}


@pytest.mark.parametrize("case", WRONG)
def test_nothing_passes_between_those_who_do_not_trust_each_other_and_both_say_so(
    case: str, caplog: pytest.LogCaptureFixture, soon: None
) -> None:
    rig_keys, learner_keys, rig_counts, learner_counts, rig_says, learner_says = WRONG[case]
    with open_rig(rig_keys) as rig, open_learner(learner_keys, rig.endpoint) as learner:
        for _ in range(30):  # as often as a patient stranger would
            rig.live.send(b"secret")
            learner.rest(0.02)
        learner.until(lambda: bool(reasons(rig.acceptor) and reasons(learner.dialer)))
        learner.until(lambda: all(re.search(says, caplog.text) for says in (rig_says, learner_says)))  # then it is said
        assert not rig.live.poll(0)
        assert not learner.socket.poll(0)
        assert reasons(rig.acceptor) <= rig_counts
        assert reasons(learner.dialer) <= learner_counts
        said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert 2 <= len(said) <= len(rig_counts) + len(learner_counts)  # many failures, a line of each kind
    assert all("\n" not in line for line in said)
    assert any(re.search(rig_says, line) for line in said)
    assert any(rig.endpoint in line and re.search(learner_says, line) for line in said)


@pytest.fixture
def endpoint() -> str:
    """A port that is free."""
    with tcp.create_server(("127.0.0.1", 0)) as server:
        return f"tcp://127.0.0.1:{server.getsockname()[1]}"


def test_a_learner_gets_in_as_soon_as_the_rig_trusts_it(endpoint: str, soon: None) -> None:
    with open_learner(LEARNER, endpoint) as learner:
        with open_rig(trusting(machine(1), other=STRANGER), endpoint):
            learner.until(lambda: learner.dialer.failures.counts["refused"] >= 3)  # it is called again and again
        with open_rig(RIG, endpoint) as rig:
            learner.hears(rig)


def test_a_learner_without_keys_gets_in_as_soon_as_the_rig_asks_for_none(endpoint: str, soon: None) -> None:
    with open_learner(None, endpoint) as learner:
        with open_rig(RIG, endpoint):
            learner.until(lambda: learner.dialer.failures.counts["protocol"] > 0)
        with open_rig(None, endpoint) as rig:
            learner.hears(rig)


@pytest.mark.parametrize("keys", [(None, None), (RIG, LEARNER)], ids=["plain", "keys"])
def test_a_port_where_something_else_answers_is_said_and_called_until_the_rig_is_there(
    keys: tuple[Security | None, Security | None], endpoint: str, soon: None, caplog: pytest.LogCaptureFixture
) -> None:
    with open_learner(keys[1], endpoint) as learner:
        with tcp.create_server(port_of(endpoint)) as server:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        learner.until(lambda: bool(reasons(learner.dialer)))
        assert re.search(f"{endpoint} .*is no rig", caplog.text)
        with open_rig(keys[0], endpoint) as rig:
            learner.hears(rig)


def test_a_rig_that_comes_back_is_connected_to_by_zeromq_and_not_once_more_by_us(endpoint: str, soon: None) -> None:
    with open_learner(LEARNER, endpoint) as learner:
        for _ in range(2):
            with open_rig(RIG, endpoint) as rig:
                learner.hears(rig)
                learner.rest(0.3)
                assert not rig.live.poll(0)


class Relay:
    """A wire between learners and a rig: `endpoint` leads to it; it keeps what passes, and can damage a byte."""

    def __init__(self, target: str) -> None:
        self.seen = bytearray()
        self.damages: Literal["", "to the learner", "to the rig"] = ""
        self._target = port_of(target)
        self._server = tcp.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._server.shutdown(tcp.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = tcp.create_connection(self._target)
            for way in ((near, far, "to the rig"), (far, near, "to the learner")):
                self._threads.append(threading.Thread(target=self._pass, args=way))
                self._threads[-1].start()

    def _pass(self, source: tcp.socket, target: tcp.socket, way: str) -> None:
        with suppress(OSError):
            while data := bytearray(source.recv(1 << 16)):
                self.seen += data
                if self.damages == way:
                    self.damages = ""
                    data[-1] ^= 1
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(tcp.SHUT_RDWR)
        target.close()


def test_what_passes_is_not_to_be_read_on_the_way() -> None:
    with open_rig(RIG) as rig, closing(Relay(rig.endpoint)) as relay:
        with open_learner(LEARNER, relay.endpoint) as learner:
            learner.hears(rig)
        assert b"CURVE" in relay.seen
        assert b"news" not in relay.seen
    with open_rig(None) as rig, closing(Relay(rig.endpoint)) as relay:
        with open_learner(None, relay.endpoint) as learner:
            learner.hears(rig)
        assert b"news" in relay.seen


@pytest.mark.parametrize("way", ["to the learner", "to the rig"])
def test_a_byte_damaged_on_the_way_costs_the_connection_and_it_is_made_again(
    way: Literal["to the learner", "to the rig"], soon: None
) -> None:
    """ZeroMQ drops a connection whose box does not open, and by itself would never come back."""
    with (
        open_rig(RIG) as rig,
        closing(Relay(rig.endpoint)) as relay,
        open_learner(LEARNER, relay.endpoint) as learner,
    ):
        learner.hears(rig)
        relay.damages = way
        rig.live.send(b"old news")
        learner.socket.set(zmq.SUBSCRIBE, b"more")
        learner.until(lambda: not relay.damages)
        learner.hears(rig)


def test_without_a_door_nobody_is_let_in() -> None:
    """ZeroMQ alone would let in everybody who knows the rig's key."""
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        RIG.serve(socket)
        with open_learner(LEARNER, bind(socket, LOOPBACK)) as learner:
            learner.until(lambda: learner.dialer.failures.counts["broken_off"] > 0)
            assert not socket.poll(0)


def test_a_rig_with_keys_does_not_start_where_it_trusts_nobody() -> None:
    with (
        zmq.Context() as context,
        Acceptor(context, machine(1)) as doorkeeper,
        context.socket(zmq.XPUB) as socket,
        pytest.raises(KeysError, match="no learner is trusted"),
    ):
        doorkeeper.guard(socket, WIDE)


def test_a_socket_that_is_bound_already_is_not_taken_for_guarded() -> None:
    with zmq.Context() as context, Acceptor(context, RIG) as doorkeeper, context.socket(zmq.XPUB) as socket:
        bind(socket, LOOPBACK)
        with pytest.raises(ValueError, match="before it binds"):
            doorkeeper.guard(socket, WIDE)


def test_a_context_has_one_door_with_keys() -> None:
    with zmq.Context() as context, Acceptor(context, RIG):
        with pytest.raises(ValueError, match="its own context"):
            Acceptor(context, RIG)
        with Acceptor(context, None):
            pass


@pytest.mark.parametrize("security", [None, LEARNER], ids=["plain", "keys"])
def test_an_address_is_dialled_with_the_keys_it_was_read_with_and_once(security: Security | None) -> None:
    other = LEARNER if security is None else None
    with open_learner(security, "tcp://127.0.0.1:9") as learner:
        with pytest.raises(EndpointError, match="same keys"):
            learner.dialer.dial(connect_address("tcp://127.0.0.1:10", security=other))
        with pytest.raises(EndpointError, match="named twice"):
            learner.dialer.dial(connect_address("tcp://127.0.0.1:9", security=security))


def answers(endpoint: str, greeting: bytes) -> bytes:
    """What a rig says to a raw peer until it hangs up or falls silent."""
    said = b""
    with tcp.create_connection(port_of(endpoint)) as peer:
        peer.settimeout(0.5)
        try:
            peer.sendall(greeting)
            while data := peer.recv(4096):
                said += data
        except OSError:
            pass
    return said


@pytest.mark.parametrize(
    "greeting",
    {
        "ZMTP 1.0": b"\x01\x00" + b"\x02\x00\x01",
        "ZMTP 2.0": b"\xff" + bytes(7) + b"\x01\x7f\x01\x02\x00\x00" + b"\x00\x01\x01",
        "ZMTP 3.0 without keys": NULL_GREETING + READY + b"\x00\x01\x01",
        "ZMTP 3.0 that says CURVE and goes on plain": NULL_GREETING.replace(b"NULL\0", b"CURVE")
        + READY
        + b"\x00\x01\x01",
        "HTTP": b"GET / HTTP/1.1\r\nHost: rig\r\n\r\n",
    }.items(),
    ids=lambda item: item[0],
)
def test_no_older_or_plainer_protocol_gets_a_word_out_of_a_rig(greeting: tuple[str, bytes]) -> None:
    with open_rig(RIG) as rig, open_learner(LEARNER, rig.endpoint) as learner:
        learner.hears(rig)
        sending = threading.Event()

        def publish() -> None:
            while not sending.wait(0.01):
                rig.live.send(b"secret")

        thread = threading.Thread(target=publish)
        thread.start()
        said = answers(rig.endpoint, greeting[1])
        sending.set()
        thread.join()
        assert b"secret" not in said
        assert not rig.live.poll(0)  # nobody subscribed


def test_ten_thousand_strangers_with_garbage_leave_a_rig_serving() -> None:
    """Also past the 2000 events after which a monitor that is not read would block the I/O thread for good."""
    beginnings = [
        b"",
        b"\xff",
        bytes(64),
        NULL_GREETING,
        NULL_GREETING + READY,
        NULL_GREETING.replace(b"NULL\0", b"CURVE"),
    ]
    garbage = [random.Random(seed).randbytes(200) for seed in range(7)]
    with open_rig(RIG) as rig, open_learner(LEARNER, rig.endpoint) as learner:
        learner.hears(rig)
        for number in range(10_000):
            with tcp.create_connection(port_of(rig.endpoint)) as peer:
                if number % 50 == 0:  # its greeting: the ones before have been accepted, so that no SYN is dropped
                    assert peer.recv(1) == b"\xff"
                peer.sendall(beginnings[number % len(beginnings)] + garbage[number % len(garbage)])
        learner.until(lambda: sum(rig.acceptor.failures.counts.values()) > 2000)
        rig.live.send(b"still here")
        assert learner.socket.poll(60_000)
        assert learner.socket.recv() == b"still here"
        with open_learner(LEARNER, rig.endpoint) as newcomer:
            newcomer.hears(rig)


def test_a_stranger_that_says_nothing_is_shown_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "HANDSHAKE_TIMEOUT_MS", 100)
    with open_rig(RIG) as rig, tcp.create_connection(port_of(rig.endpoint)) as peer:
        peer.settimeout(WAIT_S)
        while peer.recv(4096):  # its greeting, then the end
            pass


def test_a_part_of_the_largest_size_passes_under_keys() -> None:
    with open_rig(RIG, max_bytes=1000 + CURVE_OVERHEAD_BYTES) as rig, open_learner(LEARNER, rig.endpoint) as learner:
        learner.hears(rig)
        with open_learner(LEARNER, bind(rig.backfill, LOOPBACK), kind=zmq.DEALER) as asking:
            asking.socket.send(bytes(1000))
            assert rig.backfill.poll(60_000)
            assert rig.backfill.recv_multipart()[1] == bytes(1000)
            asking.socket.send(bytes(1001))
            assert not rig.backfill.poll(300)


def test_a_quiet_connection_with_keys_outlives_many_heartbeats() -> None:
    with open_rig(RIG) as rig, open_learner(LEARNER, rig.endpoint) as learner:
        learner.hears(rig)
        learner.rest(4.0)  # 80 pings of the rig
        assert not rig.live.poll(0)  # nobody left, nobody came again
        rig.live.send(b"news")
        assert learner.socket.poll(60_000)


def test_rigs_and_learners_leave_no_thread_and_no_file_behind() -> None:
    def one_life() -> None:
        with open_rig(RIG) as rig, open_learner(LEARNER, rig.endpoint) as learner:
            learner.hears(rig)
            with open_learner(trusting(STRANGER, rig=machine(1)), rig.endpoint) as stranger:
                stranger.until(lambda: stranger.dialer.failures.counts["refused"] > 0)

    one_life()
    threads, files = resources()
    for _ in range(10):
        one_life()
    # The kernel still lists a thread that was just joined for a moment.
    until(lambda: resources()[0] <= threads and resources()[1] <= files)


@pytest.mark.parametrize("first", ["acceptor", "socket", "context"])
def test_a_door_closes_before_its_sockets_after_them_or_with_their_context(first: str) -> None:
    before = threading.active_count()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    doorkeeper, socket = Acceptor(context, RIG), context.socket(zmq.XPUB)
    doorkeeper.guard(socket, WIDE)
    bind(socket, LOOPBACK)
    if first == "acceptor":
        doorkeeper.close()
    socket.close(linger=0)
    if first == "context":
        context.term()
    doorkeeper.close()
    doorkeeper.close()
    context.term()
    assert threading.active_count() <= before


def keep_calling(endpoint: str) -> None:
    """Until nobody answers any more, or a long time is over."""
    deadline_s = time.monotonic() + WAIT_S
    while time.monotonic() < deadline_s:
        tcp.create_connection(port_of(endpoint)).close()


def test_a_door_that_is_closed_while_a_socket_lingers_does_not_hang_its_context() -> None:
    """A monitor that loses its reader before it stops keeps ZeroMQ from ever closing another socket."""
    with zmq.Context() as context:
        doorkeeper, live = Acceptor(context, RIG), context.socket(zmq.XPUB)
        doorkeeper.guard(live, WIDE)
        with open_learner(LEARNER, bind(live, LOOPBACK)) as slow:
            slow.until(lambda: live.poll(0) != 0)
            for _ in range(20):
                live.send(bytes(1 << 20))
            live.close(linger=300)
            doorkeeper.close()
        with context.socket(zmq.REP) as other:
            endpoint = bind(other, LOOPBACK)
        with pytest.raises((ConnectionRefusedError, ConnectionResetError)):  # a call while it closes is reset
            keep_calling(endpoint)
