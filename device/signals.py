"""What a rig measures beside its images, shot by shot, until the next kept pair takes it along.

A function reads the sensors: it is called after each shot with the capture time of the left eye, and returns
`Telemetry` with the rows since its last call. A camera may also put telemetry into its shots, as the simulator does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from device.camera import BadShot, Shot
from device.metrics import FAILED, DeviceMetrics
from stream.failures import Failures
from stream.signals.gather import Gathering
from stream.signals.signal import BadSignal, Telemetry, check_label

ReadSignals = Callable[[int], Telemetry]
"""Returns what was measured since the last call. It gets the capture time of a shot, nanoseconds since 1970."""
FUNCTION = "the function that reads signals"
LOG_INTERVAL_S = 60.0
log = logging.getLogger(__name__)


def labelled(read: ReadSignals, labels: Telemetry) -> ReadSignals:
    """Return a function whose telemetry has the episode and the subject of `labels`, where it names none itself."""

    def read_labelled(captured_ns: int) -> Telemetry:
        telemetry: Any = read(captured_ns)  # the function is the user's and may return anything
        if not isinstance(telemetry, Telemetry):
            return telemetry  # type: ignore[no-any-return]
        return Telemetry(telemetry.signals, telemetry.episode or labels.episode, telemetry.subject or labels.subject)

    return read_labelled


def told(what: str, read: Callable[[], Any]) -> Telemetry:
    """Return what somebody's code gives, which may be anything, and may fail. Raises BadSignal with the reason FAILED then.

    what: reads, in words.
    """
    try:
        telemetry = read()
        if not isinstance(telemetry, Telemetry):
            raise TypeError(f"it is a {type(telemetry).__name__}, not a stream.signals.signal.Telemetry")
        if not isinstance(telemetry.signals, Mapping):
            raise TypeError(f"its signals are a {type(telemetry.signals).__name__}, not a dict")
        # A thread that reads sensors may add to its own dictionary.
        return Telemetry(dict(telemetry.signals), telemetry.episode, telemetry.subject)
    except Exception as error:
        text = f"{what} failed: {type(error).__name__}: {' '.join(str(error).split())}"
        raise BadSignal(FAILED, text) from error


class RigTelemetry:
    """Gathers the telemetry of shots and of a function between two kept pairs.

    What is not valid is left out, counted in `metrics` and logged at a limited rate; so is an error of the function. Nothing
    else is lost with it. clock: seconds, for the log.
    """

    def __init__(
        self, metrics: DeviceMetrics, read: ReadSignals | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._metrics = metrics
        self._read = read
        self._rows = Gathering(self._refuse)
        self._failures = Failures(log, LOG_INTERVAL_S, clock=clock)
        self._episode = self._subject = ""

    def add(self, shot: Shot | BadShot) -> None:
        """Add what was measured up to a shot, kept or not."""
        if isinstance(shot, BadShot):
            return
        now_ns, read = shot.left.captured_ns, self._read
        self._gather("the telemetry of the camera", lambda: shot.telemetry, now_ns)
        if read is not None:
            self._gather(FUNCTION, lambda: read(now_ns), now_ns)

    def take(self, shot: Shot) -> Telemetry:
        """Return what belongs to a kept shot, and start to collect for the next one. Episode and subject stay as they are."""
        before = self._rows.thinned
        signals = self._rows.take(shot.left.captured_ns)
        self._metrics.thinned_rows.inc(self._rows.thinned - before)
        return Telemetry(signals, self._episode, self._subject)

    def _gather(self, what: str, read: Callable[[], Any], now_ns: int) -> None:
        try:
            telemetry = told(what, read)
        except BadSignal as error:
            self._refuse(error)
            return
        self._rows.add(telemetry.signals, now_ns)
        self._episode = self._label("episode", telemetry.episode) or self._episode
        self._subject = self._label("subject", telemetry.subject) or self._subject

    def _label(self, what: str, text: str) -> str:
        try:
            check_label(what, text)
        except BadSignal as error:
            self._refuse(error)
            return ""
        return text

    def _refuse(self, error: BadSignal) -> None:
        self._metrics.refused_signals.labels(error.reason).inc()
        self._failures.add(error.reason, f"signals: {error}", error.name)
