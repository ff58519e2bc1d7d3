"""The address of the page, and the rule who may see it: this machine alone, or everybody who knows a token.

The token is not encrypted on its way: on a network that others listen to, use a tunnel (`ssh -L`) instead.
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
_GROUP_AND_OTHERS = 0o077
_NOT_NOW = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
"""Another process listens there, or the network of the address is not up yet."""
_HOW_TO_MAKE_ONE = "(umask 077; python3 -c 'import secrets; print(secrets.token_urlsafe())' > FILE)"


@dataclass(frozen=True, slots=True)
class Access:
    """A checked address, and the token that requests need; an address that the network can reach always has a token."""

    host: str
    port: int
    """0 serves nothing."""
    token: str | None = field(default=None, repr=False)

    def admits(self, token: str | None) -> bool:
        """Return whether a request with this token is allowed. The comparison takes constant time."""
        if self.token is None:
            return True
        return token is not None and secrets.compare_digest(token.encode(errors="replace"), self.token.encode())

    def listen(self) -> socket.socket:
        """Return a socket that listens there. Raises PortInUse if that may work later, else SettingsError."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            return socket.create_server((self.host, self.port), family=family)
        except OSError as error:
            kind: type[LearnerError] = PortInUse if error.errno in _NOT_NOW else SettingsError
            raise kind(
                f"http port {self.port} on {self.host} cannot be used ({error}): stop the process that "
                "uses it, or choose another --http-port, 0 for none"
            ) from error


def access_for(host: str, port: int, token_file: Path | None) -> Access:
    """Return the access that the settings ask for.

    Raises SettingsError for settings that cannot work, and for an address that is open to the network without a token.
    """
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError as error:
        raise SettingsError(
            f"--http-host {host!r} is not an address of this machine: expected 127.0.0.1, 0.0.0.0 or another IP address"
        ) from error
    if not 0 <= port <= MAX_PORT:
        raise SettingsError(f"--http-port must be 0 (none) to {MAX_PORT}, got {port}")
    token = None if token_file is None else _read_token(token_file)
    if token is None and not address.is_loopback:
        raise SettingsError(
            f"--http-host {host} can be reached from the network: give --http-token FILE, which {_HOW_TO_MAKE_ONE} makes, "
            "or stay on 127.0.0.1"
        )
    return Access(str(address), port, token)


def page_address(host: str, port: int) -> str:
    """Return the address of the page for a browser, with this machine's name where every address is served; "" for port 0.

    host, port: as `access_for` took them.
    """
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/" if port else ""


def _read_token(path: Path) -> str:
    try:
        # Non-blocking: opening a pipe of this name would otherwise wait for its other end.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            text = file.read(MAX_TOKEN + 2).strip()
    except OSError as error:
        raise SettingsError(
            f"--http-token {path} cannot be read ({error.strerror}): {_HOW_TO_MAKE_ONE} makes such a file"
        ) from error
    if status.st_uid not in (0, os.geteuid()):
        raise SettingsError(f"--http-token {path} belongs to another user, who can change it: make a file of your own")
    if status.st_mode & _GROUP_AND_OTHERS:
        raise SettingsError(f"--http-token {path} is open to others: type `chmod 600 {path}`, or make a new one")
    if not _TOKEN.fullmatch(text):
        raise SettingsError(
            f"--http-token {path} does not hold one line of 16 to {MAX_TOKEN} letters and digits: {_HOW_TO_MAKE_ONE} makes one"
        )
    return text.decode()
