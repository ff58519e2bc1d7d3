"""Find an objective by its name: one of the table, of an installed package, `package.module:Class`, or a sum of two."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
from importlib.metadata import entry_points
from typing import Any, get_type_hints

from learner.errors import SettingsError
from learner.objectives.contract import Objective, ObjectiveConfig
from learner.objectives.sums import sum_of
from learner.objectives.table import BESIDE, OBJECTIVES, VIEWS
from learner.views.contract import ViewsConfig

GROUP = "babyagent.objectives"
"""The group of entry points by which an installed package makes its objectives known."""


def views_named(name: str) -> type[ViewsConfig]:
    """Return the settings of the views of this name. Raises SettingsError."""
    if name not in VIEWS:
        raise SettingsError(f"--views must be one of {', '.join(VIEWS)}, got {name!r}")
    return VIEWS[name]


def objective_named(name: str) -> type[Objective[Any]]:
    """Return the objective of this name. Raises SettingsError in one line for one that is not there or cannot be used."""
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    first, plus, second = name.rpartition("+")
    if plus:
        return sum_of(objective_named(first), BESIDE[second] if second in BESIDE else objective_named(second))
    if name in BESIDE:
        raise SettingsError(
            f"--objective {name} says nothing of pairs: write it behind another one, as in ntxent+{name}"
        )
    installed = {point.name: point.value for point in entry_points(group=GROUP)}
    module, colon, attribute = installed.get(name, name).partition(":")
    if not colon:
        known = [*OBJECTIVES, *installed]
        near = "".join(f": did you mean {one}?" for one in difflib.get_close_matches(name, known, 1))
        raise SettingsError(
            f"--objective must be one of {', '.join(known)}, package.module:Class of yours, or two with a + between, "
            f"got {name!r}{near}"
        )
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # of any kind: it is the code of somebody else
        reason = " ".join(str(error).split()) or repr(error)
        raise SettingsError(f"objective {name} cannot be imported ({reason}): check its name and PYTHONPATH") from error
    if problem := _problem(kind):
        raise SettingsError(f"objective {name}: {problem}; docs/objectives.md has an example")
    found: type[Objective[Any]] = kind
    return found


def _problem(kind: object) -> str:
    """Return what keeps a class from being an objective; empty if nothing does."""
    if not (isinstance(kind, type) and issubclass(kind, Objective)):
        return "it is no class that inherits from Objective[...]"
    if inspect.isabstract(kind):
        return f"it has no {', '.join(sorted(kind.__abstractmethods__))}"
    settings = getattr(kind, "settings", None)
    if settings is None or "__dataclass_params__" not in vars(settings):
        return "its settings must be a dataclass: class NAME(Objective[NAMEConfig]), with @dataclass(frozen=True, kw_only=True)"
    if (owner := settings.objective) is not kind:
        return f"{settings.__name__} belongs to {owner.__name__}: write a class of settings that inherits from it"
    if not getattr(settings, "takes", ()):
        return f"{settings.__name__} must name the views that it takes: takes = (TwoConfig,)"
    return _problem_of_settings(settings)


def _problem_of_settings(settings: type[ObjectiveConfig]) -> str:
    typed = {name for base in settings.__mro__ for name in vars(base).get("__annotations__", {})}
    for name, value in vars(settings).items():
        is_setting = not name.startswith("_") and not callable(value) and not hasattr(value, "__get__")
        if is_setting and name not in typed:
            return f"its setting {name} has no type: write {name}: {type(value).__name__} = {value!r}"
    for one in dataclasses.fields(settings):
        if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
            return f"its setting {one.name} has no default"
    try:
        get_type_hints(settings)
        settings()
    except Exception as error:  # of any kind: it is the code of somebody else
        return f"its settings cannot be made ({' '.join(str(error).split())})"
    return ""
