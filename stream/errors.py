"""The errors of `stream`.

ReportedError               base of the errors of all our packages; its message is one line for a person
StreamError                 a ReportedError, and the base of this tree
 +- EndpointError           an address that cannot be used: in use, malformed, or open to the network without consent
 |   +- EndpointTaken       another process has it; or it is not this machine's, perhaps not yet
 +- KeysError               (stream.transport.keys) keys that are missing, damaged, or open to others
 +- EndOfStream             a finite source has no more pairs
 +- MalformedMessage        a message that is not a pair; it carries the `reason` under which it is counted
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class ReportedError(Exception):
    """An error that a program reports in one line before it ends with the exit code of this class."""

    exit_code: int = 2
    """2: a setting cannot be used. 1: the program failed while it ran; the same settings may work later."""


MAY_PASS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors of the present state of the machine, which may pass: its disk is full or read-only, or no descriptor is left."""


@contextmanager
def reported_as(kind: type[ReportedError], what: str, hint: str = "") -> Iterator[None]:
    """Raise an error of this kind in place of an OSError: `what` failed, the reason, and a hint what to do.

    The exit code becomes 1 if the reason may pass.
    """
    try:
        yield
    except OSError as error:
        reported = kind(f"{what}: {error.strerror or error}{hint}")
        if error.errno in MAY_PASS:
            reported.exit_code = 1
        raise reported from error


class StreamError(ReportedError):
    """Base of all errors of `stream`."""


class EndpointError(StreamError):
    """An address that cannot be bound or connected."""


class EndpointTaken(EndpointError):
    """An address that another process has, or that this machine does not have (yet)."""

    exit_code = 1


class EndOfStream(StreamError):
    """A finite source has no more pairs."""


class MalformedMessage(StreamError):
    """A message that is not a valid pair. It is dropped and counted under `reason`.

    reason: one of `stream.pair.REASONS`, so that the number of a metric's labels stays bounded.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
