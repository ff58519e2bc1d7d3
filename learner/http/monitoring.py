"""/healthz tells whether the training loop is alive, /readyz whether it takes pairs, and /metrics gives the metrics.

The first two are for service managers and proxies, the last one is for Prometheus.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

HUNG_S = 600.0
"""A loop without a sign of life for this time hangs; WatchdogSec of deploy/babyagent-learner.service has the same value."""


class Pulse:
    """Signs of life of the training thread. clock: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last_s = clock()
        self.is_ready = False
        """Whether the learner takes pairs: from the end of the restore to the beginning of the last commit."""
        self.is_stopping = False
        """Whether it takes no more pairs, and ends."""

    def beat(self) -> None:
        """Record a sign of life."""
        self._last_s = self._clock()
        self.is_ready = not self.is_stopping

    def stopping(self) -> None:
        """Record that the learner takes no more pairs."""
        self.is_ready, self.is_stopping = False, True

    @property
    def silent_s(self) -> float:
        """Seconds since the last sign of life, or since this process began."""
        return self._clock() - self._last_s


def routes(pulse: Pulse, registry: CollectorRegistry) -> list[Route]:
    """Return the routes. Health is answered with 200 for yes and 503 for no; `registry` is read at each request."""

    def healthz(_: Request) -> Response:
        if pulse.silent_s < HUNG_S:
            return PlainTextResponse("ok\n")
        return PlainTextResponse(f"the training loop has given no sign of life for {pulse.silent_s:.0f} s\n", 503)

    def readyz(_: Request) -> Response:
        return PlainTextResponse("ready\n") if pulse.is_ready else PlainTextResponse("starting or stopping\n", 503)

    def metrics(request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": kind})

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]
