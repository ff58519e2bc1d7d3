"""Make the class of a weighted sum, with its settings, of two classes of objectives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, make_dataclass
from functools import cache
from typing import Any, Self

from learner.bounds import Choice, Positive
from learner.errors import SettingsError
from learner.objectives.contract import Objective, ObjectiveConfig
from learner.objectives.weighted_sum import Sum
from learner.parts.meaning import in_both
from learner.views.contract import ViewsConfig


@dataclass(frozen=True, kw_only=True)
class SumConfig(ObjectiveConfig):
    """The settings of both objectives are tables in it: `first`, `second` and, where they share no views, `second_views`."""

    weight: Positive = 1.0
    """Weight of the second objective; that of the first one is 1."""

    @classmethod
    def for_preset(cls, preset: str) -> Self:
        """Return the settings of both that belong to a preset."""
        tables = {name: kind for name, kind in cls.__annotations__.items() if issubclass(kind, Choice)}
        made: dict[str, Any] = {name: kind.for_preset(preset) for name, kind in tables.items()}
        if "second_views" in made and not isinstance(made["second"], ViewsConfig):
            made["second_views"] = made["second"].default_views(preset)
        return cls(**made)


@cache
def sum_of(first: type[Objective[Any]], second: type[Objective[Any]]) -> type[Objective[Any]]:
    """Return the sum; the same two give the same class. Raises SettingsError for an objective that is in both."""
    names, others = ([part.name for part in parts_of(kind.settings())] for kind in (first, second))
    if twice := next((name for name in names if name in others), None):
        raise SettingsError(f"--objective {twice} is not added to itself: name each one once")
    default = first.settings().views_name
    shared = [kind for kind in first.settings.takes if kind in second.settings.takes]
    takes = sorted(shared or first.settings.takes, key=lambda kind: kind.name != default)
    tables: dict[str, type[Choice]] = {"first": first.settings, "second": second.settings}
    if not shared:
        tables["second_views"] = second.settings.takes[0]
    view_presets = first.settings.view_presets if takes[0] is first.settings.takes[0] else {}
    name = f"{first.settings.name}+{second.settings.name}"
    needs = {
        "clip": max(first.settings.clip, second.settings.clip),
        "signals": tuple(dict.fromkeys((*first.settings.signals, *second.settings.signals))),
    }
    settings: Any = make_dataclass(
        "SumSettings",
        [
            ("decay_biases", bool, field(default=first.settings().decay_biases)),
            *((table, kind, field(default_factory=kind)) for table, kind in tables.items()),
        ],
        bases=(SumConfig,),
        namespace={
            "name": name,
            "takes": tuple(takes),
            "view_presets": view_presets,
            "__doc__": SumConfig.__doc__,
            **needs,
        },
        frozen=True,
        kw_only=True,
    )
    made = type(
        "SumOfTwo",
        (Sum,),
        {
            "settings": settings,
            "meanings": {**in_both(first.meanings, second.meanings), **Sum.meanings},
            "shared_statistics": first.shared_statistics or second.shared_statistics,
        },
    )
    settings.objective = made
    return made


def parts_of(settings: ObjectiveConfig) -> Iterator[ObjectiveConfig]:
    """Yield the settings of the objectives that a sum is made of, or those of the only one."""
    if isinstance(settings, SumConfig):
        for part in ("first", "second"):
            yield from parts_of(getattr(settings, part))
    else:
        yield settings
