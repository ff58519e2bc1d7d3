"""Looks at the TCP connections of ZeroMQ, to which ZeroMQ itself sets no bound.

ZeroMQ tells the descriptor of each connection. It may close it at any moment, and the kernel then gives the same number to
something else. Each look therefore goes through a second descriptor, which is pointed at the connection for that moment, and the
inode of the connection is compared with the one that was noted. No look needs a further descriptor, so it works if none is left.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from stream.closeable import Closeable

_TCP_INFO_BYTES = 148
"""Length of Linux's struct tcp_info up to the last field that is read here; older kernels give less."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A connection, as it is known from the moment at which ZeroMQ told of it."""

    descriptor: int
    inode: int
    host: str
    """Numeric address of the other side."""
    local_port: int
    port: int
    """Port of the other side."""
    looped: bool
    """Whether the connection is connected to itself, which TCP allows if both ports are the same."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What TCP says of a connection at one moment."""

    received_bytes: int
    """Bytes that the kernel has received since the connection was made."""
    waiting_bytes: int
    """How many of them ZeroMQ has not read yet; they are in the kernel's memory."""
    confirmed_bytes: int
    """Bytes that the other side's kernel has confirmed since the connection was made."""
    behind: bool
    """Whether sent bytes are not confirmed yet."""


class Lens(Closeable):
    """Sees one connection at a time; it has two descriptors of its own. It is not thread-safe."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def identify(self, descriptor: int) -> Identity | None:
        """Return the identity of the TCP connection behind a descriptor; None if there is none (any more)."""
        with self._at(descriptor) as inode:
            if inode is None:
                return None
            try:
                ours, theirs = self._socket.getsockname(), self._socket.getpeername()
                return Identity(descriptor, inode, str(theirs[0]), int(ours[1]), int(theirs[1]), ours == theirs)
            except (OSError, IndexError, TypeError, ValueError):  # no socket, another kind of socket, or not connected
                return None

    def traffic(self, identity: Identity) -> Traffic | None:
        """Return what TCP counts for a connection, None if it is gone.

        Raises NotImplementedError where the system counts no bytes.
        """
        with self._at(identity.descriptor) as inode:
            if inode != identity.inode:
                return None
            if sys.platform != "linux":
                raise NotImplementedError
            # The waiting bytes come first: what arrives between the two calls then counts as read, never as less than nothing.
            waiting: Any = fcntl.ioctl(self._socket, termios.FIONREAD, bytes(4))
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        if len(info) < _TCP_INFO_BYTES:
            raise NotImplementedError
        confirmed, received = struct.unpack_from("=QQ", info, 120)
        behind = any(struct.unpack_from("=I", info, at)[0] for at in (24, 144))  # unacked packets, bytes not sent
        return Traffic(received, struct.unpack("=i", waiting)[0], confirmed, behind)

    def cut(self, identity: Identity) -> None:
        """End a connection: ZeroMQ then drops it and frees its messages. Nothing happens if it is gone."""
        with self._at(identity.descriptor) as inode:
            if inode == identity.inode:
                try:
                    self._socket.shutdown(socket.SHUT_RDWR)
                except OSError:  # the other side has closed it
                    return

    def close(self) -> None:
        """Free both descriptors; idempotent."""
        if self._socket.fileno() >= 0:
            self._socket.close()
            os.close(self._nothing)

    @contextmanager
    def _at(self, descriptor: int) -> Iterator[int | None]:
        """Point the socket at a descriptor and give the inode behind it; None if the descriptor is closed."""
        own = self._socket.fileno()
        try:
            os.dup2(descriptor, own, inheritable=False)
        except OSError:
            yield None
            return
        try:
            yield os.fstat(own).st_ino
        finally:
            os.dup2(self._nothing, own, inheritable=False)
