"""Where the page is served and who may see it: the loopback, or with a token anybody who knows it.

The token travels as it is: across a network that others listen on, take a tunnel (`ssh -L`) instead.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path

from learner.errors import LearnerError, PortInUse, SettingsError

MAX_PORT = 65535
MAX_TOKEN = 256
_TOKEN = re.compile(rb"[A-Za-z0-9._~+/=-]{16,256}")
_OTHERS = 0o077
_NOT_NOW = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
"""Somebody else listens, or the network of the address is not up yet."""
_MAKE_ONE = "(umask 077; python3 -c 'import secrets; print(secrets.token_urlsafe())' > FILE)"


@dataclass(frozen=True, slots=True)
class Door:
    """An address that can be listened on, checked: beyond the loopback there is a token."""

    host: str
    port: int
    """0: nothing is served."""
    token: str | None = field(default=None, repr=False)

    def admits(self, token: str | None) -> bool:
        """Whether somebody with this token may come in; takes as long for one that is nearly right."""
        if self.token is None:
            return True
        return token is not None and secrets.compare_digest(token.encode(errors="replace"), self.token.encode())

    def listen(self) -> socket.socket:
        """A socket that listens there. Raises SettingsError in one line, PortInUse where it may work later."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            return socket.create_server((self.host, self.port), family=family)
        except OSError as error:
            kind: type[LearnerError] = PortInUse if error.errno in _NOT_NOW else SettingsError
            raise kind(
                f"http port {self.port} on {self.host} cannot be used ({error}): stop what has it, or choose another "
                "--http-port, 0 for none"
            ) from error


def door_for(host: str, port: int, token_file: Path | None) -> Door:
    """The door that the settings ask for. Raises SettingsError in one line, also where it would be open to the network."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError as error:
        raise SettingsError(
            f"--http-host {host!r} is not an address of this machine: expected 127.0.0.1, 0.0.0.0 or another number"
        ) from error
    if not 0 <= port <= MAX_PORT:
        raise SettingsError(f"--http-port must be 0 (none) to {MAX_PORT}, got {port}")
    token = None if token_file is None else _read_token(token_file)
    if token is None and not address.is_loopback:
        raise SettingsError(
            f"--http-host {host} can be reached from the network: give --http-token FILE, which {_MAKE_ONE} makes, "
            "or stay on 127.0.0.1"
        )
    return Door(str(address), port, token)


def _read_token(path: Path) -> str:
    try:
        # Non-blocking: a pipe under this name would otherwise be waited for.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(MAX_TOKEN + 2).strip()
    except OSError as error:
        raise SettingsError(
            f"--http-token {path} cannot be read ({error.strerror}): {_MAKE_ONE} makes such a file"
        ) from error
    if mode & _OTHERS:
        raise SettingsError(f"--http-token {path} is open to others: type `chmod 600 {path}`, or make a new one")
    if not _TOKEN.fullmatch(text):
        raise SettingsError(
            f"--http-token {path} does not hold one line of 16 to {MAX_TOKEN} letters and digits: {_MAKE_ONE} makes one"
        )
    return text.decode()
