"""Addresses of sockets: which ones can be used, and how they are bound and connected.

An address is `tcp://HOST:PORT`. To bind, the port may be `*` or `0` (any free one), and the host `*` (every interface). An
address to connect to can name the rig whose key is expected there: `tcp://HOST:PORT#NAME`.

A socket that can be reached from the network needs keys, or explicit consent (`insecure`). On the loopback a socket is plain,
unless a folder of keys or a rig is named. With keys, nothing ever falls back to plain.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import zmq

from stream.errors import EndpointError, EndpointTaken
from stream.host.typed import here
from stream.transport.keys import KeysError, keys_folder
from stream.transport.security import Security

PORT_TRIES = 16

Neighbour = TypeVar("Neighbour")

_ADDRESS = re.compile(
    r"tcp://(?P<host>\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]{1,15})?\]|[A-Za-z0-9._-]+|\*):(?P<port>[0-9]{1,5}|\*)"
    r"(#(?P<rig>[A-Za-z0-9][A-Za-z0-9._-]{0,63}))?"
)


def security_for(
    endpoints: Sequence[str],
    *,
    keys: Path | None = None,
    insecure: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> Security | None:
    """Return the keys that these endpoints need, or None if all of them are to be plain.

    keys: the folder that the user named, if any. Raises EndpointError or KeysError in one line.
    """
    if insecure and keys is not None:
        raise EndpointError("--insecure does without keys, --keys asks for them: leave one of the two out")
    if insecure:
        return None
    if keys is not None:
        return Security.load(keys)
    needy = next((endpoint for endpoint in endpoints if _needs_keys(endpoint)), None)
    if needy is None:
        return None
    try:
        return Security.load(keys_folder(environ))
    except KeysError as error:
        raise EndpointError(f"{needy} needs keys: {error}; or use --insecure to do without") from error


def bind_address(endpoint: str, *, security: Security | None = None, insecure: bool = False) -> str:
    """Return the address to bind. Raises EndpointError if it is malformed, or open to the network without keys or consent."""
    host, port, rig = _split(endpoint)
    if rig is not None:
        raise EndpointError(f"{endpoint} names a rig, which only a learner does: bind tcp://{host}:{port}")
    if host == "localhost":  # ZeroMQ binds names of interfaces and numeric addresses, not host names
        host = "127.0.0.1"
    if security is None and not insecure and not _is_loopback(host):
        raise EndpointError(
            f"{endpoint} can be reached from the network: make keys (`{here('stream', 'keys')}`), bind 127.0.0.1, "
            "or use --insecure to let anybody on the network see the images"
        )
    return f"tcp://{host}:{port}"


def connect_address(endpoint: str, *, security: Security | None = None, insecure: bool = False) -> str:
    """Return the address to connect to; with keys, it ends in `#` and the name of the rig.

    Raises EndpointError if the address is malformed, lies on the network without keys or consent, or names no trusted rig.
    """
    host, port, rig = _split(endpoint)
    if host == "*" or port in ("*", "0"):
        raise EndpointError(f"{endpoint} names no host or port to connect to: expected tcp://HOST:PORT")
    if security is not None:
        return f"tcp://{host}:{port}#{security.rig(rig, endpoint)}"
    if rig is not None:
        raise EndpointError(f"{endpoint} names a rig, which is known by its key: leave out --insecure, or #{rig}")
    if not insecure and not _is_loopback(host):
        raise EndpointError(
            f"{endpoint} is across the network: make keys (`{here('stream', 'keys')}`), "
            "or use --insecure to trust any machine that answers there"
        )
    return f"tcp://{host}:{port}"


def rig_at(address: str) -> tuple[str, str | None]:
    """Split an address into the part that ZeroMQ reads and the name of the rig, which is None for a plain address."""
    host, port, rig = _split(address)
    return f"tcp://{host}:{port}", rig


def unknown_host(address: str) -> str | None:
    """Return a sentence with a remedy if the host of an address has no IP address; None if it has one. It may take seconds."""
    host, port, _ = _split(address)
    try:
        socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no host name"
        return f"the host {host} of {address} is not known here ({why}): check its name, or use the rig's IP address"
    return None


def port_of(address: str) -> int:
    """Return the port of an address that ZeroMQ tells, which always has one."""
    return int(address.rpartition(":")[2])


def bind(socket: zmq.Socket[bytes], address: str) -> str:
    """Bind a socket and return the real address, with the actual port. Raises EndpointError in one line."""
    socket.set(zmq.IPV6, "[" in address)
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        raise _bind_failure(address, error) from error
    return socket.get_string(zmq.LAST_ENDPOINT)


def connect(socket: zmq.Socket[bytes], address: str) -> None:
    """Connect a socket; the other side may come later. Raises EndpointError in one line."""
    socket.set(zmq.IPV6, "[" in address)
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        raise EndpointError(f"cannot connect to {address}: {error.strerror or error}") from error


def backfill_endpoint(live: str) -> str:
    """Return the address of a rig's second socket: that of its live stream, with the next port.

    Raises EndpointError for port 65535.
    """
    address, hash_sign, rig = live.partition("#")
    host, _, port = address.rpartition(":")
    if int(port) >= 65535:
        raise EndpointError(f"{live} leaves no port after it for the spool: choose a lower one")
    return f"{host}:{int(port) + 1}{hash_sign}{rig}"


def bind_with_neighbour(
    socket: zmq.Socket[bytes], address: str, bind_neighbour: Callable[[str], Neighbour]
) -> tuple[str, Neighbour]:
    """Bind a socket, let `bind_neighbour` bind another one at the next port, and return the real address and the other socket.

    If any port is allowed, other ports are tried until two neighbours are free. Raises EndpointError in one line.
    """
    tries = PORT_TRIES if address.rpartition(":")[2] in ("0", "*") else 1
    while True:
        tries -= 1
        endpoint = bind(socket, address)
        try:
            return endpoint, bind_neighbour(backfill_endpoint(endpoint))
        except EndpointError:
            if not tries:
                raise
            socket.unbind(endpoint)


def _needs_keys(endpoint: str) -> bool:
    host, _, rig = _split(endpoint)
    return rig is not None or not _is_loopback(host)


def _split(endpoint: str) -> tuple[str, str, str | None]:
    match = _ADDRESS.fullmatch(endpoint)
    if match is None or (match["port"] != "*" and int(match["port"]) > 65535):
        raise EndpointError(f"{endpoint!r} is not an address: expected tcp://HOST:PORT, like tcp://127.0.0.1:5555")
    return match["host"], match["port"], match["rig"]


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _bind_failure(address: str, error: zmq.ZMQError) -> EndpointError:
    if error.errno == errno.EADDRINUSE:
        return EndpointTaken(f"{address} is in use: stop the process that has it, or use another port (0: any)")
    if error.errno in (errno.ENODEV, errno.EADDRNOTAVAIL):
        return EndpointTaken(f"{address} is not an address of this machine: bind one of its own, or * for all of them")
    return EndpointError(f"cannot bind {address}: {error.strerror or error}")
