"""What can go wrong on the way of a pair.

StreamError                 base of this tree; a person reads its message
 +- EndpointError           an address that cannot be used: taken, malformed, or open to the network without consent
     +- EndpointTaken       by another process; or it is not this machine's, perhaps not yet
 +- KeysError               (stream.transport.keys) keys that are missing, damaged, or open to others
 +- EndOfStream             a finite source has given its last pair
 +- MalformedMessage        a message that is not a pair; carries the `reason` it is counted under
"""

from __future__ import annotations


class StreamError(Exception):
    """Base of all errors of `stream`."""


class EndpointError(StreamError):
    """An address that cannot be bound or connected."""


class EndpointTaken(EndpointError):
    """An address that another process has, or that this machine does not have (yet): the same settings may work later."""


class EndOfStream(StreamError):
    """A finite source has given its last pair."""


class MalformedMessage(StreamError):
    """A message that is not a valid pair: drop it, count it under `reason`, go on.

    reason: one of `stream.pair.REASONS`, so that a metric's label stays bounded.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
