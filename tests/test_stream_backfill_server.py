"""The rig's side of the second socket: what it answers, and what it bears."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq
from backfill_steps import EPOCH, OTHER_EPOCH, TOP, WRONG_QUESTIONS, get, make_pairs, rows
from memory_shelf import MemoryShelf

from stream.errors import EndpointError
from stream.live.backfill_messages import (
    MAX_BODY_BYTES,
    MAX_CREDIT_BYTES,
    AckReply,
    AckRequest,
    PairParts,
    PairsReply,
    Reading,
    Reply,
    Request,
    Span,
    SpansReply,
    SpansRequest,
    Vitals,
    decode_reply,
    encode_message,
)
from stream.live.backfill_server import BOUNDS, BackfillServer
from stream.live.publisher import Publisher
from stream.transport.acceptor import Acceptor
from stream.transport.endpoint import backfill_endpoint

LOOPBACK = "tcp://127.0.0.1:0"


@contextmanager
def served(shelf: MemoryShelf, *, now_ns: int = 77, vitals: Vitals | None = None) -> Iterator[BackfillServer]:
    with zmq.Context() as context, Acceptor(context, None) as acceptor:
        read = Vitals if vitals is None else lambda: vitals
        router = context.socket(zmq.ROUTER)
        gate = acceptor.guard(router, BOUNDS)
        server = BackfillServer(router, LOOPBACK, shelf, gate, vitals=read, clock_ns=lambda: now_ns)
        try:
            yield server
        finally:
            server.close()


@contextmanager
def asking(endpoint: str, *, high_water: int = 1000) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RCVHWM, high_water)
        socket.connect(endpoint)
        yield socket


def ask(socket: zmq.Socket[bytes], question: Request) -> tuple[Reply, list[PairParts]]:
    socket.send(encode_message(question))
    return heard(socket)


def heard(socket: zmq.Socket[bytes]) -> tuple[Reply, list[PairParts]]:
    assert socket.poll(60_000), "no answer came within 60 s"
    return decode_reply(socket.recv_multipart())


def test_the_second_socket_is_at_the_next_port() -> None:
    assert backfill_endpoint("tcp://10.0.0.7:5555") == "tcp://10.0.0.7:5556"
    assert backfill_endpoint("tcp://[::1]:9") == "tcp://[::1]:10"
    with pytest.raises(EndpointError, match="choose a lower one"):
        backfill_endpoint("tcp://10.0.0.7:65535")


def test_a_publisher_with_a_shelf_answers_at_its_next_port() -> None:
    shelf = MemoryShelf()
    shelf.append(make_pairs(0, 2))
    with (
        Publisher(LOOPBACK, device="baby", epoch=EPOCH, shelf=shelf) as publisher,
        asking(backfill_endpoint(publisher.endpoint)) as socket,
    ):
        assert publisher.backfill is not None
        assert publisher.backfill.endpoint == backfill_endpoint(publisher.endpoint)
        assert ask(socket, get(0, 2)) == (PairsReply(2, "baby", EPOCH, 0, 2, []), rows(make_pairs(0, 2)))


def test_a_publisher_whose_next_port_is_taken_takes_two_others_or_says_so() -> None:
    with zmq.Context() as context, context.socket(zmq.PULL) as taken:
        port = taken.bind_to_random_port("tcp://127.0.0.1")
        with pytest.raises(EndpointError, match="is in use"):
            Publisher(f"tcp://127.0.0.1:{port - 1}", device="baby", epoch=EPOCH, shelf=MemoryShelf())
        with Publisher(LOOPBACK, device="baby", epoch=EPOCH, shelf=MemoryShelf()) as publisher:
            assert publisher.backfill is not None


def test_where_tells_the_spans_and_the_time_and_makes_the_asker_known() -> None:
    shelf = MemoryShelf()
    shelf.append(make_pairs(0, 5))
    shelf.evict(2)
    shelf.begin(OTHER_EPOCH)
    with served(shelf) as server, asking(server.endpoint) as socket:
        known = [Span(EPOCH, 2, 5, False), Span(OTHER_EPOCH, 0, 0, True)]
        assert ask(socket, SpansRequest(2, "", 4)) == (SpansReply(2, "baby", known, 4, 77), [])
        assert shelf.consumers == {}
        ask(socket, SpansRequest(2, "me", 5))
        assert shelf.consumers == {"me": {}}


def test_where_tells_how_the_rig_is() -> None:
    vitals = Vitals(battery=0.83, temperature_c=61.2)
    with served(MemoryShelf(), vitals=vitals) as server, asking(server.endpoint) as socket:
        here, _ = ask(socket, SpansRequest(2, "", 4))
        assert isinstance(here, SpansReply)
        assert here.vitals == vitals


def test_get_gives_what_there_is_as_far_as_the_credit_goes_and_at_least_one_pair() -> None:
    pairs = make_pairs(0, 10, big=True)
    shelf = MemoryShelf()
    shelf.append(pairs)
    shelf.evict(2)
    shelf.rot(4)
    with served(shelf) as server, asking(server.endpoint) as socket:
        assert ask(socket, get(0, 7)) == (
            PairsReply(2, "baby", EPOCH, 0, 7, [(0, 2), (4, 5)]),
            rows(pairs[2:4] + pairs[5:7]),
        )
        assert ask(socket, get(5, 9, credit_bytes=1)) == (PairsReply(2, "baby", EPOCH, 5, 6, []), rows(pairs[5:6]))
        assert ask(socket, get(5, 9, credit_bytes=130_000)) == (
            PairsReply(2, "baby", EPOCH, 5, 7, []),
            rows(pairs[5:7]),
        )
        assert ask(socket, get(9, 20)) == (PairsReply(2, "baby", EPOCH, 9, 10, []), rows(pairs[9:]))
        assert ask(socket, get(10, 20)) == (PairsReply(2, "baby", EPOCH, 10, 10, []), [])  # not there yet
        assert ask(socket, get(3, 9, epoch="c" * 32)) == (PairsReply(2, "baby", "c" * 32, 3, 9, [(3, 9)]), [])


def test_ack_frees_what_every_known_learner_has() -> None:
    shelf = MemoryShelf()
    shelf.append(make_pairs(0, 5))
    with served(shelf) as server, asking(server.endpoint) as socket:
        for name in ("me", "you"):
            ask(socket, SpansRequest(2, name, 0))
        assert ask(socket, AckRequest(2, "me", {EPOCH: 4}, 9)) == (AckReply(2, "baby", 9), [])
        assert shelf.held() == 5
        ask(socket, AckRequest(2, "you", {EPOCH: 3}, 10))
        assert shelf.held() == 2
        ask(socket, AckRequest(2, "", {EPOCH: 5}, 11))  # nobody that pairs are kept for
        assert (shelf.held(), set(shelf.consumers)) == (2, {"me", "you"})


def test_two_learners_are_answered_each_its_own() -> None:
    shelf = MemoryShelf()
    shelf.append(make_pairs(0, 9))
    with served(shelf) as server, asking(server.endpoint) as one, asking(server.endpoint) as other:
        for seq in range(8):
            one.send(encode_message(get(seq, seq + 1)))
            other.send(encode_message(get(seq + 1, seq + 2)))
        for seq in range(8):
            for socket, at in ((one, seq), (other, seq + 1)):
                assert heard(socket) == (PairsReply(2, "baby", EPOCH, at, at + 1, []), rows(make_pairs(at, at + 1)))


def test_a_question_that_is_none_is_counted_and_said_once_and_the_next_one_is_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with served(MemoryShelf()) as server, asking(server.endpoint) as socket:
        asked = [case for case in WRONG_QUESTIONS.values() if case and len(case[0]) <= MAX_BODY_BYTES]
        for case in asked:
            socket.send_multipart(case)
        socket.send_multipart([b""] * 1000)
        assert ask(socket, SpansRequest(2, "me", 1))[0] == SpansReply(2, "baby", [Span(EPOCH, 0, 0, True)], 1, 77)
        assert server.failures.counts["malformed"] == len(asked) + 1
    assert caplog.text.count("request dropped") == 1


def test_a_question_beyond_all_bounds_costs_its_sender_the_connection_and_nobody_else() -> None:
    with served(MemoryShelf()) as server, asking(server.endpoint) as hostile, asking(server.endpoint) as socket:
        monitor = hostile.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        hostile.send(bytes(MAX_BODY_BYTES + 1))
        assert monitor.poll(60_000)
        hostile.disable_monitor()
        monitor.close(linger=0)
        assert isinstance(ask(socket, SpansRequest(2, "me", 1))[0], SpansReply)
        assert server.failures.counts["malformed"] == 0


def test_a_shelf_in_trouble_answers_nothing_and_the_next_question_when_it_is_well_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shelf = MemoryShelf()
    shelf.append(make_pairs(0, 1))
    with served(shelf) as server, asking(server.endpoint) as socket:
        shelf.trouble = OSError("the card is gone")
        for question in (get(0, 1), SpansRequest(2, "me", 0), AckRequest(2, "me", {}, 0)):
            socket.send(encode_message(question))
        assert not socket.poll(300)
        shelf.trouble = None
        assert ask(socket, get(0, 1))[1] == rows(make_pairs(0, 1))
    assert caplog.text.count("the card is gone") == 1


class EndlessShelf(MemoryShelf):
    """Has a large pair for every number, each with memory of its own."""

    def read(self, epoch: str, first: int, last: int, credit_bytes: int) -> Reading:
        return Reading(first + 1, [], [(b"", b"x" * credit_bytes, b"x")])


def resident_bytes() -> int:
    """The memory that this process takes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_a_learner_that_asks_for_everything_at_once_and_never_reads_leaves_the_rig_its_memory_and_the_others() -> None:
    with (
        served(EndlessShelf()) as server,
        asking(server.endpoint, high_water=1) as hostile,
        asking(server.endpoint) as socket,
    ):
        before_bytes = resident_bytes()
        for number in range(200):
            hostile.send(encode_message(get(number, TOP, credit_bytes=MAX_CREDIT_BYTES)))
        for number in range(200):
            assert isinstance(ask(socket, SpansRequest(2, "me", number))[0], SpansReply)
        assert resident_bytes() - before_bytes < 100 << 20 < 200 * MAX_CREDIT_BYTES


def test_closing_twice_is_harmless() -> None:
    with served(MemoryShelf()) as server:
        server.close()
        assert "backfill" not in {thread.name for thread in threading.enumerate()}
