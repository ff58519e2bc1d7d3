"""The receiving end: a Source over the live stream of each rig, and over its spool for the pairs that the live stream dropped.

A thread reads the sockets, so that the learner never waits for the network while pairs are available. When the queue is full the
thread stops reading: ZeroMQ's queue fills, then TCP pushes back, then the rig drops pairs, and the hole in `seq` is pulled
from its spool when there is room again. Memory is bounded at each of these steps, and a rig that leaves more of it in ZeroMQ than
the largest pair is cut off (`stream.live.rig_links`). Live pairs go first: a reply from a spool is read
only when no live message waits. `stream.live.ledger` says which pairs are new and which are missing.

The kernel checks that connections are alive (`stream.transport.sockets`); that also works while a learner reads nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from stream.closeable import Closeable
from stream.errors import MalformedMessage
from stream.failures import Failures
from stream.live.announcements import Bye
from stream.live.backfill_plan import BackfillPlan
from stream.live.inbox import Inbox
from stream.live.ledger import Ledger
from stream.live.pair_queue import PairQueue
from stream.live.rig_links import RigLinks
from stream.pair import SIGNAL_REASONS, EncodedPair, Header
from stream.source import Cursor
from stream.stats import SourceStats
from stream.transport.endpoint import connect_address, unknown_host
from stream.transport.security import Security

log = logging.getLogger(__name__)

POLL_S = 0.05
"""Longest time until the thread notices that it is to stop, or that a request is to be sent."""
LIVE_AT_ONCE = 64
"""Number of live messages that are read before the spools get a turn."""
FAREWELL_S = 2.0
"""How long `close` waits for rigs to confirm the last acknowledgement."""
LEAVE_S = 1.0
"""How long it then waits for them to confirm that this consumer leaves; a rig of 0.1 never does."""
GLIBC_BLOCK_BYTES = 31 << 20
"""One allocation of nearly 32 MiB makes glibc keep freed images for the next ones instead of returning each to the
system: 32 page faults a pair less, a sixth of the receiver's time."""
LOG_INTERVAL_S = 10.0
"""Seconds between two log lines of the same reason."""


class Subscriber(Closeable):
    """Receives the pairs of one or several devices; satisfies `stream.source.Source`. Context manager.

    endpoints: tcp://HOST:PORT of each device; none has to be there yet, and each is reconnected to when it comes back. consumer:
    the name under which rigs keep pairs for this learner until it acknowledges them; None: they keep none. cursor: of the process
    before this one; its pairs are not received again. Raises ValueError for anything else. capacity_pairs, capacity_bytes: of the
    queue; the pair that reaches a bound still enters, and so does the reply of a spool (1 MiB and a pair, at most 256 pairs).
    high_water: messages that ZeroMQ holds for each endpoint before TCP pushes back. end_on_bye:
    `receive` raises EndOfStream once all devices (one an endpoint or more) have ended and no pair is missing. security: our keys
    and those of the rigs
    (`stream.transport.endpoint.security_for`); None: plain. farewell_s: how long `close` waits for rigs to confirm the last
    acknowledgement. clock: seconds, monotonic; of `last_received_s`. Raises EndpointError for a malformed endpoint.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        consumer: str | None = None,
        cursor: Cursor | None = None,
        capacity_pairs: int = 512,
        capacity_bytes: int = 32 << 20,
        high_water: int = 4,
        end_on_bye: bool = False,
        security: Security | None = None,
        insecure: bool = False,
        farewell_s: float = FAREWELL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if isinstance(endpoints, str) or not endpoints:
            raise ValueError(f"expected a list of endpoints, got {endpoints!r}")
        addresses = [connect_address(endpoint, security=security, insecure=insecure) for endpoint in endpoints]
        self.endpoints = tuple(addresses)
        self._farewell_s = farewell_s
        self._leaving = False
        ledger, queue = Ledger(cursor, endpoints=len(addresses)), PairQueue(capacity_pairs, capacity_bytes)
        self._before = ledger.stats().devices
        self._inbox = Inbox(ledger, queue, devices_to_end=len(addresses) if end_on_bye else None, clock=clock)
        self._malformed = Failures(log, LOG_INTERVAL_S, clock=clock)
        plan = partial(BackfillPlan, consumer=consumer or "", durable=cursor, clock=clock, clock_ns=time.time_ns)
        self._links = RigLinks(addresses, plan, high_water=high_water, security=security)
        self._thread = threading.Thread(target=self._run, name="subscriber", daemon=True)
        self._thread.start()
        threading.Thread(target=_warn_of_unknown_hosts, args=(addresses,), name="names", daemon=True).start()

    def receive(self, limit: int, timeout_s: float) -> list[EncodedPair]:
        """See Source. Raises StreamError if the thread has failed, once all earlier pairs were returned."""
        return self._inbox.receive(limit, timeout_s)

    def cursor(self) -> Cursor:
        """See Source."""
        return self._inbox.cursor()

    def acknowledge(self, cursor: Cursor) -> None:
        """See Source. The acknowledgement is sent soon, and repeated until the rigs have confirmed it."""
        self._inbox.acknowledge(cursor)

    def spoil(self, header: Header) -> None:
        """See Source."""
        self._inbox.spoil(header)

    def backlog(self) -> int:
        """Return the number of pairs in the queue."""
        return self._inbox.backlog()

    def stats(self) -> SourceStats:
        """See Source; received pairs include those that wait in the queue."""
        return replace(
            self._inbox.stats(),
            malformed=dict(self._malformed.counts),
            failed_handshakes=dict(self._links.failures.counts),
            before=self._before,
            endpoints=self.endpoints,
        )

    def close(self) -> None:
        """Stop receiving, send the last acknowledgement to the rigs, and free the sockets; idempotent."""
        self._inbox.close()
        self._thread.join()
        self._links.close()

    def leave(self) -> None:
        """Let `close` tell the rigs that this consumer does not come back, so that they keep no pairs for it."""
        self._leaving = True

    def _run(self) -> None:
        """Work in the thread until the end: read live messages first, then the spools; while there is no room, read neither."""
        bytearray(GLIBC_BLOCK_BYTES)
        try:
            while not self._inbox.is_closed:
                if self._inbox.wait_for_room(POLL_S):
                    self._links.poll(POLL_S)
                    self._receive_live()
                self._serve_spools()
                self._links.tend()
            self._acknowledge_last()
        except Exception as error:  # the thread ends here, and `receive` raises the error
            log.exception("receiving has stopped")
            self._inbox.fail(error)

    def _receive_live(self) -> None:
        for _ in range(LIVE_AT_ONCE):
            try:
                received = self._links.receive_live(
                    self._refuse
                )  # outside the lock of the inbox: the checksum takes time
                if received is None:
                    return
                message, endpoint = received
                self._inbox.enter_live(message, endpoint)
                if isinstance(message, Bye):
                    self._links.confirm(message, endpoint)
            except MalformedMessage as error:
                self._refuse(error)
            if not self._inbox.has_room():
                return

    def _serve_spools(self) -> None:
        """Read the replies of all spools, and send the next request to each."""
        self._inbox.tell_acknowledged([spool.plan for spool in self._links.spools])
        for spool in self._links.spools:
            if self._inbox.has_room():
                try:
                    if (received := spool.receive(self._refuse)) is not None:
                        self._inbox.enter_reply(spool.plan, *received)
                except MalformedMessage as error:
                    self._refuse(error)
            with self._inbox.reading() as (ledger, has_room):
                spool.send_requests(ledger, has_room=has_room)

    def _acknowledge_last(self) -> None:
        deadline_s = time.monotonic() + self._farewell_s
        self._inbox.clear()
        while time.monotonic() < deadline_s:
            self._serve_spools()
            if not any(spool.plan.owes_acknowledgement for spool in self._links.spools):
                break
            time.sleep(POLL_S / 10)
        if self._leaving:
            self._leave_rigs()

    def _leave_rigs(self) -> None:
        for spool in self._links.spools:
            spool.plan.leave()
        deadline_s = time.monotonic() + min(LEAVE_S, self._farewell_s)
        while time.monotonic() < deadline_s and any(spool.plan.is_leaving for spool in self._links.spools):
            self._serve_spools()
            time.sleep(POLL_S / 10)

    def _refuse(self, error: MalformedMessage) -> None:
        """Count and log a malformed message, or a signal of one, which is dropped."""
        what = "signal" if error.reason in SIGNAL_REASONS else "message"
        self._malformed.add(error.reason, f"{what} dropped: {error}")


def _warn_of_unknown_hosts(addresses: Sequence[str]) -> None:
    """ZeroMQ tries a name again and again, and never says that nobody knows it."""
    for address in addresses:
        if (why := unknown_host(address)) is not None:
            log.warning("%s; it is tried again", why)
