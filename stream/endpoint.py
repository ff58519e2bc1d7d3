"""Which addresses can be used, and how a socket is kept alive on them.

An address is `tcp://HOST:PORT`. Binding takes `*` or `0` as port (any free one) and `*` as host (every interface); an
address that others can reach is refused without consent, because the stream is neither encrypted nor signed yet.
"""

from __future__ import annotations

import errno
import ipaddress
import re

import zmq

from stream.errors import EndpointError

HEARTBEAT_IVL_MS = 2_000
HEARTBEAT_TIMEOUT_MS = 6_000
RECONNECT_IVL_MS = 100
RECONNECT_IVL_MAX_MS = 5_000

_ADDRESS = re.compile(r"tcp://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+|\*):(?P<port>[0-9]{1,5}|\*)")


def bind_address(endpoint: str, *, insecure: bool = False) -> str:
    """The address to bind; raises EndpointError where it is malformed, or open to the network without `insecure`."""
    host, port = _split(endpoint)
    if host == "localhost":  # ZeroMQ binds interfaces and numbers, not names
        host = "127.0.0.1"
    if not insecure and not _is_loopback(host):
        raise EndpointError(
            f"{endpoint} can be reached from the network and streams have no keys yet: bind 127.0.0.1, "
            "or say --insecure to let anybody on the network see the images"
        )
    return f"tcp://{host}:{port}"


def connect_address(endpoint: str, *, insecure: bool = False) -> str:
    """The address to connect to; raises EndpointError where it is malformed, or beyond this machine without `insecure`."""
    host, port = _split(endpoint)
    if host == "*" or port in ("*", "0"):
        raise EndpointError(f"{endpoint} names no host or port to connect to: expected tcp://HOST:PORT")
    if not insecure and host != "localhost" and not _is_loopback(host):
        raise EndpointError(
            f"{endpoint} is across the network and streams have no keys yet: say --insecure to trust whoever answers there"
        )
    return f"tcp://{host}:{port}"


def bind(socket: zmq.Socket[bytes], address: str) -> str:
    """Bind and return the real address, with the port that was taken; raises EndpointError in one line."""
    socket.set(zmq.IPV6, "[" in address)
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        raise EndpointError(_bind_failure(address, error)) from error
    return socket.get_string(zmq.LAST_ENDPOINT)


def connect(socket: zmq.Socket[bytes], address: str) -> None:
    """Connect; nobody has to be there yet. Raises EndpointError in one line."""
    socket.set(zmq.IPV6, "[" in address)
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        raise EndpointError(f"cannot connect to {address}: {error.strerror or error}") from error


def _split(endpoint: str) -> tuple[str, str]:
    match = _ADDRESS.fullmatch(endpoint)
    if match is None or (match["port"] != "*" and int(match["port"]) > 65535):
        raise EndpointError(
            f"{endpoint!r} is not an address: expected tcp://HOST:PORT, for example tcp://127.0.0.1:5555"
        )
    return match["host"], match["port"]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _bind_failure(address: str, error: zmq.ZMQError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{address} is in use: stop the process that has it, or choose another port (0 takes any free one)"
    if error.errno in (errno.ENODEV, errno.EADDRNOTAVAIL):
        return f"{address} is not an address of this machine: bind one of its own, or * for all of them"
    return f"cannot bind {address}: {error.strerror or error}"
