"""The keys of this machine, and how they secure a socket (CURVE, with an allow-list by ZAP).

CURVE encrypts, and each side knows the other by its public key: a rig lets in only the keys it trusts, a consumer calls a rig by
the key that it trusts under that rig's name. Nothing falls back: a socket with keys never speaks plain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import zmq

from stream.host.typed import here, there
from stream.transport.keys import KeysError, own_keys, trusted_keys

CURVE_OVERHEAD_BYTES = 33
"""Bytes that CURVE adds to a message part; they count against ZeroMQ's MAXMSGSIZE."""
ZAP_DOMAIN = b"babyagent"
_MAX_NAMES_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Security:
    """The keys of this machine, all of them in Z85; `load` reads them."""

    folder: Path
    """The folder from which the keys were read; for messages."""
    public: str
    secret: str = field(repr=False)
    trusted: Mapping[str, str]
    """Public keys by name."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the keys in a folder. Raises KeysError in one line."""
        public, secret = own_keys(folder)
        return cls(folder=folder, public=public, secret=secret, trusted=trusted_keys(folder))

    def rig(self, name: str | None, endpoint: str) -> str:
        """Return the name under which the rig at an endpoint is trusted: the only trusted name, if the endpoint names none.

        Raises KeysError if no key is trusted under that name, or if several keys are trusted and none is named.
        """
        if not self.trusted:
            raise KeysError(
                f"no rig is trusted yet: type on the rig `{there('stream', 'keys')}`, and here {self._hint()}"
            )
        more = ", ..." if len(self.trusted) > _MAX_NAMES_SHOWN else ""
        names = ", ".join(list(self.trusted)[:_MAX_NAMES_SHOWN]) + more
        if name is None and len(self.trusted) > 1:
            raise KeysError(f"{endpoint} does not say which of the trusted keys is there: add #NAME, one of {names}")
        found = name if name is not None else next(iter(self.trusted))
        if found not in self.trusted:
            raise KeysError(f"{endpoint} names {found}, but no key is trusted under that name; trusted are {names}")
        return found

    def serve(self, socket: zmq.Socket[bytes]) -> None:
        """Prepare a socket before it is bound: it then accepts only the keys that the `Acceptor` trusts. Raises KeysError."""
        if not self.trusted:
            raise KeysError(
                f"no learner is trusted yet: type on it `{there('stream', 'keys')}`, and here {self._hint()}"
            )
        socket.set(zmq.CURVE_SERVER, 1)
        socket.set(zmq.CURVE_SECRETKEY, self.secret.encode())
        socket.set(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
        socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without it, every client is accepted if there is no acceptor

    def call(self, socket: zmq.Socket[bytes], rig: str) -> None:
        """Prepare a socket so that its next `connect` reaches only the named rig."""
        socket.set(zmq.CURVE_SERVERKEY, self.trusted[rig].encode())
        socket.set(zmq.CURVE_PUBLICKEY, self.public.encode())
        socket.set(zmq.CURVE_SECRETKEY, self.secret.encode())

    def _hint(self) -> str:
        return f"what it prints, or `{here('stream', 'keys', 'trust', 'NAME', 'KEY', keys=self.folder)}`"
