"""Bounds of settings, which are written at the field: `rounds: Annotated[int, Within(1)]`, or `rounds: Count`.

A bound is a rule for the value of one setting: `holds` tests a value, and the text of the bound follows "must be" in a message.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from learner.errors import SettingsError


@dataclass(frozen=True)
class Within:
    """Numbers from `low` (or above it, if `above` is set) to `high`. A tuple must have such numbers only.

    empty: whether a tuple may be empty.
    """

    low: float
    high: float = math.inf
    above: bool = False
    empty: bool = False

    def holds(self, value: Any) -> bool:
        """Return whether the value, or each one of a tuple, is within. NaN never is."""
        values = value if isinstance(value, tuple) else (value,)
        low = (one > self.low if self.above else one >= self.low for one in values)
        return bool(self.empty or values) and all(low) and all(one <= self.high for one in values)

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'at least'} {self.low:.12g}"
        return low if math.isinf(self.high) else f"{low} and at most {self.high:.12g}"


class Folder:
    """A folder that is there."""

    def holds(self, value: Any) -> bool:
        """Return whether it is there."""
        return Path(value).is_dir()

    def __str__(self) -> str:
        return "a folder that is there"


class Names:
    """At least one name, of any kind."""

    def holds(self, value: Any) -> bool:
        """Return whether there is a name."""
        return bool(value)

    def __str__(self) -> str:
        return "at least one name"


class SomeOf:
    """One of these names, or, in a tuple, at least one of them."""

    def __init__(self, choices: Iterable[str]) -> None:
        self.choices = tuple(choices)

    def holds(self, value: Any) -> bool:
        """Return whether there is a name, and all names are choices."""
        names = {value} if isinstance(value, str) else {*value}
        return bool(names) and names <= {*self.choices}

    def __str__(self) -> str:
        return f"some of: {'; '.join(self.choices)}"


Count = Annotated[int, Within(1)]
Positive = Annotated[float, Within(0, above=True)]


def check_bounds(settings: Any) -> None:
    """Raise SettingsError for the first field of a dataclass that is not within its bounds; None is within all bounds."""
    for name, hint in get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        for bound in getattr(hint, "__metadata__", ()):
            if value is not None and not bound.holds(value):
                given = "; ".join(map(str, value)) if isinstance(value, tuple) else value
                raise SettingsError(f"--{name.replace('_', '-')} must be {bound}, got {given or 'nothing'}")
