"""A source whose pairs have equal rows: for recordings, which no rig has corrected."""

from __future__ import annotations

import logging

from stream.calibration.align import Align
from stream.calibration.stereo import CalibrationError
from stream.codec import decode, encode_pair
from stream.errors import MalformedMessage
from stream.failures import Failures
from stream.pair import EncodedPair, Header
from stream.source import Cursor, Source
from stream.stats import SourceStats

LOG_INTERVAL_S = 60.0
log = logging.getLogger(__name__)


class AlignedSource:
    """Gives the pairs of a source with corrected rows, encoded again; they keep their identities and times."""

    def __init__(self, source: Source, align: Align) -> None:
        self._source = source
        self._align = align
        self._fits = False
        self._failures = Failures(log, LOG_INTERVAL_S)

    def receive(self, limit: int, timeout_s: float) -> list[EncodedPair]:
        """See Source. Raises CalibrationError if the first pair does not fit; later ones are spoiled and left out."""
        pairs = []
        for pair in self._source.receive(limit, timeout_s):
            try:
                pairs.append(aligned_pair(pair, self._align))
                self._fits = True
            except (CalibrationError, ValueError) as error:
                if not self._fits:
                    raise CalibrationError(f"{pair.header.name}: {error}") from error
                self._source.spoil(pair.header)
                self._failures.add("rows", f"{pair.header.name} is left out: {error}")
        return pairs

    def backlog(self) -> int:
        """See Source."""
        return self._source.backlog()

    def cursor(self) -> Cursor:
        """See Source."""
        return self._source.cursor()

    def acknowledge(self, cursor: Cursor) -> None:
        """See Source."""
        self._source.acknowledge(cursor)

    def spoil(self, header: Header) -> None:
        """See Source."""
        self._source.spoil(header)

    def stats(self) -> SourceStats | None:
        """See Source."""
        return self._source.stats()

    def close(self) -> None:
        """See Source."""
        self._source.close()


def aligned_pair(pair: EncodedPair, align: Align) -> EncodedPair:
    """Return a pair with corrected rows, or one that does not decode as it is.

    Raises CalibrationError or ValueError for a pair that does not fit.
    """
    try:
        decoded = decode(pair)
    except MalformedMessage:
        return pair  # the learner counts it as damaged
    left, right = align.apply(decoded.left, decoded.right)
    if left is decoded.left and right is decoded.right:
        return pair
    header = pair.header
    return encode_pair(
        left,
        right,
        device=header.device,
        epoch=header.epoch,
        seq=header.seq,
        left_ns=header.left_ns,
        right_ns=header.right_ns,
        codec=header.codec,
        kept=header.kept,
        suppressed=header.suppressed,
        junk=header.junk,
        clock_offset_ns=header.clock_offset_ns,
        clock_error_ns=header.clock_error_ns,
        telemetry=pair.telemetry,
    )
