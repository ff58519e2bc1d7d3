"""The error of benches; importing it is cheap, for processes that do little."""

from __future__ import annotations

from learner.errors import Failed


class BenchFailed(Failed):
    """A bench that could not come to its end; the message says why and where to look."""
