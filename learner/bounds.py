"""Settings of what a run chooses by name, with their bounds beside their types: `temperature: Positive = 0.2`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, cast, get_args, get_origin, get_type_hints

from learner.errors import SettingsError


class Bound(NamedTuple):
    """What a number may be; not msgspec's, because the bench on a GPU runs without the packages of the stream."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None


Positive = Annotated[float, Bound(gt=0)]
NotNegative = Annotated[float, Bound(ge=0)]
Share = Annotated[float, Bound(ge=0, le=1)]
PositiveShare = Annotated[float, Bound(gt=0, le=1)]
Momentum = Annotated[float, Bound(ge=0, lt=1)]
"""The rate at which a copy keeps its old values."""
Count = Annotated[int, Bound(ge=1)]
_WORDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The settings of an objective, or of a kind of views."""

    name: ClassVar[str]
    """What a run calls it."""
    label: ClassVar[str]
    """The table of settings that they stand in; it begins each message."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """For a preset, the values that differ from the defaults."""

    @classmethod
    def for_preset(cls, preset: str) -> Self:
        """Return the settings that belong to a preset."""
        return cls(**cls.presets.get(preset, {}))

    def __post_init__(self) -> None:
        check_bounds(self, self.label)


def check_bounds(settings: Any, label: str) -> None:
    """Raise SettingsError with the first field of a dataclass that is outside of its bound; label: what begins the message."""
    for name, hint in _hints(cast(Any, type(settings))).items():
        value: Any = getattr(settings, name, None)
        if get_origin(hint) is Literal and value not in get_args(hint):
            allowed = [*map(str, get_args(hint))]
            words = f"one of {', '.join(allowed)}" if len(allowed) > 2 else " or ".join(allowed)
            raise SettingsError(f"{label}: {name} must be {words}, got {value!r}")
        for meta in get_args(hint)[1:]:
            if not isinstance(meta, Bound):
                continue
            is_finite = isinstance(value, int) or math.isfinite(value)
            if not (is_finite and all(_holds(value, *rule) for rule in _rules(meta))):
                words = " and ".join(
                    [*([] if is_finite else ["finite"]), *(f"{_WORDS[how]} {limit:g}" for how, limit in _rules(meta))]
                )
                raise SettingsError(f"{label}: {name} must be {words}, got {value!r}")


def _holds(value: float, how: str, limit: float) -> bool:
    return {"gt": value > limit, "ge": value >= limit, "lt": value < limit, "le": value <= limit}[how]


def _rules(meta: Bound) -> list[tuple[str, float]]:
    """Return the bounds that are set, by their names in `Bound`."""
    return [(how, limit) for how in _WORDS if (limit := getattr(meta, how)) is not None]


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)
