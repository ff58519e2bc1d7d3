"""/healthz: does the training loop still go round; /readyz: did it begin to. For systemd's likes, Kubernetes, a proxy."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

HUNG_S = 600.0
"""Without a sign of life for so long it hangs: the WatchdogSec of deploy/babyagent-learner.service."""


class Pulse:
    """Signs of life, given by the training thread. clock: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last_s = clock()
        self.is_ready = False
        """Whether pairs are taken: after the last commit was read back, before the last one is written."""

    def beat(self) -> None:
        """The loop went round."""
        self._last_s = self._clock()
        self.is_ready = True

    def stopping(self) -> None:
        """It takes no more pairs."""
        self.is_ready = False

    @property
    def silent_s(self) -> float:
        """Since the last sign, or since this process began."""
        return self._clock() - self._last_s


def routes(pulse: Pulse) -> list[Route]:
    """200 where it is so, else 503."""

    def healthz(_: Request) -> Response:
        if pulse.silent_s < HUNG_S:
            return PlainTextResponse("ok\n")
        return PlainTextResponse(f"the training loop has given no sign of life for {pulse.silent_s:.0f} s\n", 503)

    def readyz(_: Request) -> Response:
        return PlainTextResponse("ready\n") if pulse.is_ready else PlainTextResponse("starting or stopping\n", 503)

    return [Route("/healthz", healthz), Route("/readyz", readyz)]
