"""What a gauge means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Meaning(NamedTuple):
    """The meaning of a gauge, for people who watch a run."""

    unit: str
    """The last part of its name as a metric, for example `nats` or `ratio`; empty for a plain number."""
    text: str


def in_both(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return gauges, or their meanings, of both; a name that both have is one of the first, `second_NAME` of the second."""
    return {**{f"second_{name}" if name in first else name: value for name, value in second.items()}, **first}
