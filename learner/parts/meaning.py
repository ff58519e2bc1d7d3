"""What a gauge means."""

from __future__ import annotations

from typing import NamedTuple


class Meaning(NamedTuple):
    """The meaning of a gauge, for people who watch a run."""

    unit: str
    """The last part of its name as a metric, for example `nats` or `ratio`; empty for a plain number."""
    text: str
