"""What a run has to find again beside its pairs: the labelled images that its objective learns from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from learner.errors import SettingsError
from learner.objectives.contract import Objective
from learner.objectives.labels import Labels


def labelled(objective: Objective[Any]) -> dict[str, Any]:
    """Return the classes and the hash of the labelled images of an objective; {} if it has none."""
    return {prefix: part.known for prefix, part in _parts(objective)}


def require_labelled(objective: Objective[Any], state: Mapping[str, Any]) -> None:
    """Raise SettingsError if the labelled images are others than those of a state, which has `labelled` by this name.

    The states of earlier versions have not: of them only the number of classes is known.
    """
    for prefix, part in _parts(objective):
        then, count = state.get("labelled", {}).get(prefix), len(state["objective"][f"{prefix}classifier.layer.weight"])
        if len(part.known["classes"]) != count or then not in (None, part.known):
            raise SettingsError(
                f"--objective.{prefix}images {part.config.images} is not what this run learns from "
                f"({_difference(part.known, then, count)}): make it as it was, or choose another --run-dir, "
                "where --fork takes over what was learned"
            )


def _parts(objective: Objective[Any]) -> Iterator[tuple[str, Labels]]:
    """Yield the parts of an objective that have labelled images, with what stands before the names of their settings."""
    parts = objective.named_modules()
    return ((f"{name}." if name else "", part) for name, part in parts if isinstance(part, Labels))


def _difference(now: Mapping[str, Any], then: Mapping[str, Any] | None, count: int) -> str:
    """Return in words how classes or images differ; count: how many classes there were."""
    words = [f"{len(now['classes'])} classes now, {count} then"]
    if then is not None:
        names, others = set(now["classes"]), set(then["classes"])
        if names == others:
            return f"the same {count} classes, with other images"
        changes = (("new", sorted(names - others)), ("gone", sorted(others - names)))
        words += [f"{what}: {', '.join(some[:4])}" for what, some in changes if some]
    return "; ".join(words)
