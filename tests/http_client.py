"""What tests ask a served app with: plain requests, and a port that is free."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path
from typing import NamedTuple

from waiting import WAIT_S


class Answer(NamedTuple):
    """Status, headers by their lower-case names, and text."""

    status: int
    headers: dict[str, str]
    text: str


def get(port: int, path: str, *, method: str = "GET", body: str | None = None, **headers: str) -> Answer:
    """One request on a connection of its own; no redirect is followed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        connection.request(method, path, None if body is None else body.encode("latin-1"), headers)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, found, answer.read().decode())
    finally:
        connection.close()


def is_taken(client: socket.socket, data: bytes) -> bool:
    """Whether the other end still takes data."""
    try:
        client.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
