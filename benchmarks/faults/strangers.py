"""Strangers and hostile peers, beside whom honest work has to go on: `python -m benchmarks.faults.strangers KIND SEED PORT...`.

They speak ZMTP 3.0 by hand, because a library would keep them from misbehaving. Each kind stays until its process is killed. What
it sends is bounded, so that a victim without bounds of its own does not take this machine with it. What is refused is sent again
only by the kinds that connect again: a victim that closes the connection has defended itself.

    strangers        connections that say nothing to both ports of a rig, and half requests to a learner's page (the third port)
    hostile-peer     to a rig: garbage behind a handshake, an endless message, floods of subscriptions, questions without reading
    invented-names   to a rig: questions under names that nobody has
    hostile-rig      as a rig, on two neighbouring ports, which it reports: an endless message, or garbage
"""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from random import Random

import msgspec

from benchmarks.shared.machine import HOST, free_port
from benchmarks.shared.processes import Orders, report

CONNECTIONS = 200
NAMES = 200
MOST_BYTES = 256 << 20
"""What one connection sends at most."""
TIMEOUT_S = 10.0
_GREETING = b"\xff" + bytes(8) + b"\x7f\3\0" + b"NULL".ljust(20, b"\0") + bytes(32)
_MORE, _LONG, _COMMAND = 1, 2, 4


def frame(body: bytes, *, more: bool = False, command: bool = False) -> bytes:
    """Return a frame of ZMTP 3."""
    flags = _MORE * more | _LONG * (len(body) > 255) | _COMMAND * command
    return struct.pack(">BQ" if flags & _LONG else ">BB", flags, len(body)) + body


def greeting(kind: bytes) -> bytes:
    """Return everything that a socket of a kind, such as DEALER, says before its first message."""
    ready = b"\5READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    return _GREETING + frame(ready, command=True)


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection((HOST, port), TIMEOUT_S)
    connection.settimeout(TIMEOUT_S)
    return connection


def _say(port: int, kind: bytes, messages: Iterable[bytes]) -> socket.socket | None:
    """Shake hands, say so many bytes at most, and read nothing; return the connection, None if the other end has closed it."""
    with suppress(OSError):
        connection, left_bytes = _connect(port), MOST_BYTES
        connection.sendall(greeting(kind))
        heard = b""
        while b"READY" not in heard:  # libzmq stops reading if a message comes before its own handshake is over
            heard += connection.recv(100) or b"READY"
        for message in messages:
            connection.sendall(message)
            left_bytes -= len(message)
            if left_bytes < 0:
                break
        return connection
    return None


def _ask(*question: object) -> bytes:
    return frame(msgspec.msgpack.encode(question))


def strangers(ports: list[int], random: Random, keep: list[object]) -> None:
    """Open connections that stay silent, or send a part of a greeting or a request, and then a byte now and then."""
    opened = []
    for number in range(CONNECTIONS):
        with suppress(OSError):
            opened.append(_connect(ports[number % len(ports)]))
            start = _GREETING if number % len(ports) < 2 else b"GET / HTTP/1.1\r\nX: "
            opened[-1].sendall(start[: random.choice((0, 1, 11, len(start)))])
    keep.append(opened)
    while True:
        time.sleep(1.0)
        for connection in opened:
            with suppress(OSError):
                connection.sendall(b"x")


def hostile_peer(ports: list[int], random: Random, keep: list[object]) -> None:
    """Misuse a rig in one way."""
    live, backfill = ports[:2]
    ways: dict[int, Callable[[], object]] = {
        0: lambda: _say(backfill, b"DEALER", (frame(bytes(1_000_000), more=True) for _ in range(10**6))),
        1: lambda: _say(live, b"SUB", (frame(b"\1" + random.randbytes(60)) for _ in range(100_000))),
        2: lambda: [_say(backfill, b"DEALER", [_ask("where", 2, "", 1)] * 1000) for _ in range(20)],
        3: lambda: [_say(random.choice((live, backfill)), b"DEALER", [random.randbytes(3000)]) for _ in range(100)],
        4: lambda: _say(backfill, b"DEALER", (frame(random.randbytes(random.randrange(2000))) for _ in range(20_000))),
        5: lambda: _say(live, b"SUB", (frame(b"\1", more=True) for _ in range(10**6))),
    }
    keep.append(ways[random.randrange(len(ways))]())


def invented_names(ports: list[int], _random: Random, keep: list[object]) -> None:
    """Ask under many names."""
    keep.append(_say(ports[1], b"DEALER", (_ask("where", 2, f"invented-{number}", 1) for number in range(NAMES))))


def hostile_rig(_ports: list[int], random: Random, keep: list[object]) -> None:
    """Pretend to be a rig: answer each connection with an endless message, or with garbage."""
    first, endless = free_port(), random.random() < 0.5
    for port, kind in ((first, b"XPUB"), (first + 1, b"ROUTER")):
        server = socket.create_server((HOST, port))
        threading.Thread(target=_answer, args=(server, kind, random, endless, keep), daemon=True).start()
    report("listening", first)


def _answer(server: socket.socket, kind: bytes, random: Random, endless: bool, keep: list[object]) -> None:
    while True:
        connection = server.accept()[0]
        keep.append(connection)
        with suppress(OSError):
            connection.sendall(greeting(kind) + frame(b"\1pair"))
            for _ in range(MOST_BYTES >> 20):
                connection.sendall(frame(bytes(1 << 20), more=True) if endless else frame(random.randbytes(1000)))


KINDS = {
    "strangers": strangers,
    "hostile-peer": hostile_peer,
    "invented-names": invented_names,
    "hostile-rig": hostile_rig,
}


if __name__ == "__main__":
    orders = Orders()
    kept: list[object] = []
    misbehave = KINDS[sys.argv[1]]
    threading.Thread(
        target=misbehave, args=([int(word) for word in sys.argv[3:]], Random(int(sys.argv[2])), kept), daemon=True
    ).start()
    orders.stop.wait()
