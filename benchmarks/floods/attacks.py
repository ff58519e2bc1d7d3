"""The floods. Each is a function that runs in a process of its own until it is told to stop.

Those that need a handshake use ZeroMQ, so they also work with keys. A message "without end" has parts for two gigabytes; all of
them are the same bytes, so the sender needs no memory.
"""

from __future__ import annotations

import os
import random
import resource
import socket as tcp
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import zmq

from benchmarks.shared.machine import HOST
from stream.codec import to_parts
from stream.live.backfill_messages import MAX_CREDIT_BYTES, PairsRequest, SpansReply, SpansRequest, encode_message
from stream.pair import EncodedPair, Header
from stream.transport.security import Security

NAME = "peer"
"""The name under which everybody here trusts the one key that all of them use."""
PART_BYTES = 250_000
ENDLESS_BYTES = 2 << 30
EYE_BYTES = 60 << 20
STRANGERS = 1000
READERS = 40
PAUSE_S = 0.05
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"


@dataclass(frozen=True)
class Aim:
    """What a flood is aimed at. port: of the live stream of the rig that is flooded, or that floods."""

    port: int
    keys: Path | None = None

    @property
    def ports(self) -> tuple[int, int]:
        """Both ports of the rig."""
        return self.port, self.port + 1


@dataclass
class Attacker:
    """The sockets of a flood."""

    aim: Aim
    context: zmq.Context[zmq.Socket[bytes]]
    pipe: Connection

    def goes_on(self) -> bool:
        """Return whether the flood has not been told to stop."""
        return not self.pipe.poll(0)

    def caller(self, kind: int, port: int, **options: int) -> zmq.Socket[bytes]:
        """Return a socket that is connected to a rig."""
        socket = self._socket(kind, options)
        if self.aim.keys is not None:
            Security.load(self.aim.keys).call(socket, NAME)
        socket.connect(f"tcp://{HOST}:{port}")
        return socket

    def rig(self, kind: int, port: int) -> zmq.Socket[bytes]:
        """Return a socket that is bound, as a rig's."""
        socket = self._socket(kind, {"SNDHWM": 2})
        if self.aim.keys is not None:
            socket.set(zmq.CURVE_SERVER, 1)
            socket.set(zmq.CURVE_SECRETKEY, Security.load(self.aim.keys).secret.encode())
        socket.bind(f"tcp://{HOST}:{port}")
        return socket

    def _socket(self, kind: int, options: dict[str, int]) -> zmq.Socket[bytes]:
        socket = self.context.socket(kind)
        for name, value in {"LINGER": 0, "SNDTIMEO": 200, "RCVTIMEO": 200, "RECONNECT_IVL": 50, **options}.items():
            socket.set(getattr(zmq, name), value)
        return socket


def endless_backfill(to: Attacker) -> None:
    """Send requests without end to the second socket."""
    _endless(to, to.caller(zmq.DEALER, to.aim.port + 1, SNDHWM=2), [], PART_BYTES)


def endless_live(to: Attacker) -> None:
    """Send messages without end to the live socket."""
    _endless(to, to.caller(zmq.XSUB, to.aim.port, SNDHWM=2), [], 900)


def subscriptions(to: Attacker) -> None:
    """Subscribe to random topics, without end."""
    socket, random_bytes = to.caller(zmq.XSUB, to.aim.port, SNDHWM=1000), random.Random(0)
    while to.goes_on():
        with suppress(zmq.Again):
            for _ in range(1000):
                socket.send(b"\1" + random_bytes.randbytes(60))


def unread_replies(to: Attacker) -> None:
    """Request pairs over many connections and read no reply."""
    first = to.caller(zmq.DEALER, to.aim.port + 1, RCVTIMEO=30_000)
    first.send(encode_message(SpansRequest(2, "", 1)))
    spans = msgspec.msgpack.decode(first.recv(), type=SpansReply).spans
    request = encode_message(PairsRequest(2, "", spans[-1].epoch, 0, 1000, MAX_CREDIT_BYTES))
    sockets = [to.caller(zmq.DEALER, to.aim.port + 1, RCVHWM=1, RCVBUF=4096) for _ in range(READERS)]
    while to.goes_on():
        for socket in sockets:
            with suppress(zmq.Again):
                socket.send(request, zmq.NOBLOCK)
        time.sleep(PAUSE_S)


def unread_pairs(to: Attacker) -> None:
    """Subscribe to the live stream again and again, and read nothing."""
    sockets = []
    while to.goes_on():
        sockets.append(to.caller(zmq.SUB, to.aim.port, RCVHWM=1, RCVBUF=4096))
        sockets[-1].set(zmq.SUBSCRIBE, b"")
        time.sleep(10 * PAUSE_S)


def silent(to: Attacker) -> None:
    """Connect a thousand times to each socket and send nothing."""
    _connect(to, b"", STRANGERS)


def greeting(to: Attacker) -> None:
    """Connect a thousand times to each socket, greet, and stop there."""
    _connect(to, GREETING, STRANGERS)


def announced(to: Attacker) -> None:
    """Announce a large frame over many connections, and send none of it (plain: who has no key stops before)."""
    _connect(to, GREETING + READY + b"\x02" + PART_BYTES.to_bytes(8, "big") + bytes(100), STRANGERS)


def knocks(to: Attacker) -> None:
    """Connect, send noise and leave, as fast as it can be done."""
    while to.goes_on():
        for port in to.aim.ports:
            with suppress(OSError), tcp.create_connection((HOST, port), 1.0) as connection:
                connection.sendall(os.urandom(random.choice((1, 64, 300))))


def small_messages(to: Attacker) -> None:
    """Send tiny messages to both sockets, without end."""
    sockets = [to.caller(zmq.DEALER, to.aim.port + 1), to.caller(zmq.XSUB, to.aim.port)]
    while to.goes_on():
        for socket in sockets:
            with suppress(zmq.Again):
                for _ in range(1000):
                    socket.send(b"x", zmq.NOBLOCK)


def endless_pair(to: Attacker) -> None:
    """Be a rig that sends a pair without end."""
    socket = to.rig(zmq.XPUB, to.aim.port)
    _wait_for_request(to, socket)
    _endless(to, socket, [b"pair"], 8 << 20)


def endless_reply(to: Attacker) -> None:
    """Be a rig that sends a reply without end."""
    socket = to.rig(zmq.ROUTER, to.aim.port + 1)
    while to.goes_on():
        if sender := _wait_for_request(to, socket):
            _send(socket, [sender, *[bytes(8 << 20)] * (ENDLESS_BYTES >> 23)])


def large_pairs(to: Attacker) -> None:
    """Be a rig whose pairs are as large as they may be."""
    socket, eye = to.rig(zmq.XPUB, to.aim.port), os.urandom(EYE_BYTES)
    crc, seq = zlib.crc32(eye, zlib.crc32(eye)), 0
    header = Header(
        device="flood",
        epoch="f" * 32,
        seq=0,
        left_ns=0,
        right_ns=0,
        height=8192,
        width=8192,
        channels=1,
        codec="lz4",
        crc=crc,
    )
    while to.goes_on():
        seq += _send(socket, to_parts(EncodedPair(msgspec.structs.replace(header, seq=seq), eye, eye)))
        time.sleep(PAUSE_S / 10)


def small_pairs(to: Attacker) -> None:
    """Be a rig that sends tiny messages that are no pairs, as fast as it can be done."""
    socket = to.rig(zmq.XPUB, to.aim.port)
    socket.set(zmq.SNDHWM, 1000)
    while to.goes_on():
        for _ in range(1000):
            socket.send_multipart([b"pair", b"x", b"x", b"x"])


ON_RIGS: dict[str, Callable[[Attacker], None]] = {
    attack.__name__: attack
    for attack in (
        endless_backfill,
        endless_live,
        subscriptions,
        unread_replies,
        unread_pairs,
        silent,
        greeting,
        announced,
        knocks,
        small_messages,
    )
}
ON_LEARNERS: dict[str, Callable[[Attacker], None]] = {
    attack.__name__: attack for attack in (endless_pair, endless_reply, large_pairs, small_pairs)
}


def work(pipe: Connection, name: str, aim: Aim) -> None:
    """Run a flood until a message comes through the pipe."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    pipe.send("ready")
    with _context() as context:
        (ON_RIGS | ON_LEARNERS)[name](Attacker(aim, context, pipe))


@contextmanager
def _context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        yield context
    finally:
        context.destroy(linger=0)


def _endless(to: Attacker, socket: zmq.Socket[bytes], begin: list[bytes], part_bytes: int) -> None:
    parts = [*begin, *[b"x" * part_bytes] * min(ENDLESS_BYTES // part_bytes, 200_000)]
    while to.goes_on():
        _send(socket, parts)
        time.sleep(PAUSE_S / 10)


def _send(socket: zmq.Socket[bytes], parts: list[bytes]) -> bool:
    try:
        socket.send_multipart(parts, copy=False)
    except zmq.ZMQError:  # nobody is connected, or the queue is full
        return False
    return True


def _wait_for_request(to: Attacker, socket: zmq.Socket[bytes]) -> bytes:
    while to.goes_on():
        with suppress(zmq.Again):
            return socket.recv_multipart()[0]
    return b""


def _connect(to: Attacker, data: bytes, count: int) -> None:
    connections: list[tcp.socket] = []
    while to.goes_on():
        for port in to.aim.ports:
            with suppress(OSError):
                connections.append(tcp.create_connection((HOST, port), 0.3))
                connections[-1].sendall(data)
        while len(connections) > 2 * count:
            connections.pop(0).close()
        time.sleep(0.001)
