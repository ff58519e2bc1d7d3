"""The error of benches. The module is small, so that processes that do little import it quickly."""

from __future__ import annotations

from learner.errors import Failed


class BenchFailed(Failed):
    """A bench could not finish; the message says why, and where to look."""
