"""The whole state of a learner as bytes, and learners that are trained, saved and loaded."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from learner.loop import Learner, StepReport, learn
from learner.memory.holdout import stored_keys
from learner.runs.checkpoint import load_checkpoint, save_checkpoint
from stream.pair import EncodedPair
from stream.source import IteratorSource


def leaves(state: Any, path: str = "") -> Iterator[tuple[str, bytes]]:
    """Every value of a nested state with its place, as bytes: equal only where every bit is."""
    if isinstance(state, dict):
        for key, value in state.items():
            yield from leaves(value, f"{path}/{key}")
    elif isinstance(state, (list, tuple)):
        for index, value in enumerate(state):
            yield from leaves(value, f"{path}/{index}")
    elif isinstance(state, (Tensor, np.ndarray)):
        array = state.detach().numpy() if isinstance(state, Tensor) else state
        yield path, f"{array.dtype} {array.shape}".encode() + array.tobytes()
    else:
        yield path, repr(state).encode()


def digest(learner: Learner) -> str:
    """A hash of everything that the next step depends on: what a checkpoint holds, and the pairs in memory as they look."""
    state, memory = learner.state_dict(), learner.memory.slots
    slots = memory.of(state["memory"]["keys"])
    pairs = [(memory.names[slot], memory.left[slot], memory.right[slot], memory.aspect[slot]) for slot in slots]
    whole = hashlib.sha256()
    for path, value in leaves([state, pairs]):
        whole.update(path.encode() + value)
    return whole.hexdigest()


def trained(learner: Learner, pairs: list[EncodedPair]) -> list[StepReport]:
    """The steps over a source of these pairs, to its end."""
    events = learn(learner, IteratorSource(pairs), clock=time.perf_counter)
    return [event for event in events if isinstance(event, StepReport)]


def gone_on(make: Callable[[], Learner], pairs: list[EncodedPair], cut: int, path: Path) -> Learner:
    """A learner that was saved there behind `cut` pairs and loaded; it ends as one does that was never stopped."""
    whole, before, after = make(), make(), make()
    trained(before, pairs[:cut])
    save_checkpoint(path, before.state_dict())
    state = load_checkpoint(path)
    after.load_state_dict(state, [pairs[key] for key in stored_keys(state)])
    assert digest(after) == digest(before)
    for learner, rest in ((after, pairs[cut:]), (whole, pairs)):
        trained(learner, rest)
    assert digest(after) == digest(whole)
    return after


def weights(learner: Learner) -> dict[str, bytes]:
    """Networks, centre and optimiser, bit for bit."""
    state = learner.state_dict()
    return dict(leaves({name: state[name] for name in ("objective", "optimizer")}))


def without_rate(found: dict[str, bytes]) -> dict[str, bytes]:
    return {path: value for path, value in found.items() if not path.endswith("/lr")}
