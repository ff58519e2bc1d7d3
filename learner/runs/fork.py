"""A new run from an old one: its newest whole commit gives weights and memory, and the settings may be others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from buffer.store_reader import StoreReader
from learner.adapt.adaptation import LORA
from learner.errors import SettingsError
from learner.loop import Learner
from learner.memory.assembler import ALL_CLOSED
from learner.memory.holdout import Rule, stored_keys
from learner.memory.ranking import reservoir_for
from learner.memory.reshard import merged, pieces, split
from learner.objectives.contract import Objective
from learner.pretrained.fit import fitted
from learner.pretrained.names import Named
from learner.pretrained.start import Start
from learner.runs.checkpoint import CheckpointFolder
from learner.runs.restore import load_newest
from stream.pair import EncodedPair

Keep = Callable[[int, EncodedPair], object]
State = dict[str, Any]
Pairs = Iterable[EncodedPair | None]


class _Old:
    """Stands in for the learner of the old run while its newest whole commit is found: it takes the state as it is."""

    state: State
    pairs: Pairs

    @property
    def steps(self) -> int:
        """The step of the commit."""
        return int(self.state["counts"]["steps"])

    def load_state_dict(self, state: State, pairs: Pairs) -> None:
        """Take a state; its pairs are read later."""
        self.state, self.pairs = state, pairs


class Fork:
    """The newest whole commit of the run in a folder, which is only read. Raises LearnerError if there is none.

    The run may be at work: what its commit remembers is there until the fork is closed.
    """

    def __init__(self, run: Path) -> None:
        store, checkpoints, old = run / "pairs.sqlite", CheckpointFolder(run / "checkpoints"), _Old()
        with ExitStack() as stack:
            held = stack.enter_context(StoreReader(store).held()) if store.is_file() else None
            found = None if held is None else load_newest(cast(Learner, old), held, checkpoints)
            self._stack = stack.pop_all()
        if found is None:
            self.close()
            raise SettingsError(f"--fork {run}: it has no commit to start from; give another run")
        sums = run / "checkpoints" / found.note.folder / "SHA256SUMS"
        digest = hashlib.sha256(sums.read_bytes()).hexdigest()
        fine = old.state.get("fine")  # the networks of the commit may be worse than the start
        self._networks: Mapping[str, Tensor] = (fine or old.state)["objective"]
        self._about = {
            "from": "run",
            "name": str(run),
            "commit": found.note.folder,
            "sha256": digest,
            "step": old.steps if fine is None else fine["step"],
        }
        self._old = old

    def close(self) -> None:
        """Let go of the old run; idempotent."""
        self._stack.close()

    def networks(self, learner: Learner) -> None:
        """Give a new learner the networks; of another objective only the encoders. Raises SettingsError if they do not fit."""
        learner.trainer.begin(partial(_take_networks, self._networks))

    def memory(self, learner: Learner, keep: Keep) -> Start:
        """Give a learner that has the networks the memory too, in all its processes, and return what was taken over.

        keep: called with each pair and its key, as by `learner.loop.learn`. Steps and optimiser start over. It closes the
        fork, so call it once.
        """
        whole = _ranked(_with_open(merged(self._old.state["memory"]["shards"]), self._old.state), learner)
        keys, kept, taken = stored_keys(self._old.state).tolist(), set(whole["keys"].tolist()), 0
        memory = {"keys": whole["keys"], "shards": split(whole, learner.team.size)}

        def counted(pairs: Iterator[EncodedPair | None]) -> Iterator[EncodedPair | None]:
            nonlocal taken
            for pair in pairs:
                taken += pair is not None
                yield pair

        with self._stack:
            pairs = _trainable(_kept(keys, self._old.pairs, kept, keep), learner.held_out.rule)
            learner.load_state_dict({**learner.state_dict(), "memory": memory}, counted(pairs))
        return self._about | {"pairs": taken}


def _take_networks(state: Mapping[str, Tensor], objective: Objective[Any]) -> None:
    """Load the networks of the old run: all of them where they fit, else the encoders, by their names."""
    state = {
        name: value for name, value in state.items() if not name.startswith(f"{LORA}.")
    }  # the encoder has their sum
    own = {name: value for name, value in objective.state_dict().items() if not name.startswith(f"{LORA}.")}
    if {name: value.shape for name, value in own.items()} == {name: value.shape for name, value in state.items()}:
        objective.load_state_dict(state, strict=False)
        return
    for name, encoder in objective.encoders().items():
        prefixes = (f"{one}.encoder.backbone." for one in (name, "student"))
        prefix = next((one for one in prefixes if any(key.startswith(one) for key in state)), "")
        tensors = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        try:
            encoder.backbone.load_state_dict(fitted(encoder.backbone, Named(tensors, [])).state)
        except SettingsError as error:
            raise SettingsError(
                f"the {name} of the old run does not fit backbone {encoder.config.backbone}: {error}"
            ) from error


def _with_open(whole: State, state: State) -> State:
    """Return the whole memory of the old run with its open clips, closed as they are, in its fresh queue."""
    found = [keys for *_, keys in state.get("clips", ALL_CLOSED)["open"]]
    keys = np.array([key for clip in found for key in clip], np.int64)
    more = {
        "keys": keys,
        "priority": np.full(len(keys), np.nan),
        "clips": np.array([clip[0] for clip in found for _ in clip], np.int64),
    }
    rows = {name: np.concatenate([whole[name], values]) for name, values in more.items()}
    order = np.argsort(rows["keys"])
    fresh = np.sort(np.concatenate([whole["fresh"], np.array([clip[0] for clip in found], np.int64)]))
    return whole | {name: values[order] for name, values in rows.items()} | {"fresh": fresh}


def _ranked(whole: State, learner: Learner) -> State:
    """Return the whole memory of the old run under the settings of the new one.

    Of a reservoir with other numbers the clips are offered again, the oldest first, by their last phi. Longer clips are cut.
    """
    memory = learner.config.memory
    old, new = whole["reservoir"], reservoir_for(memory, seed=learner.config.seed)
    settings = asdict(new.settings)
    clips, before = pieces(whole, memory.clip), whole["clips"]
    if {**old["settings"], "seed": settings["seed"]} == settings and np.array_equal(clips, before):
        state = {**old, "settings": settings}
    else:
        phi = dict(zip(old["keys"].tolist(), old["phi"].tolist(), strict=True))
        kept, first = np.unique(clips[np.isin(before, old["keys"])], return_index=True)
        new.offer(kept, [phi[clip] for clip in before[np.isin(before, old["keys"])][first].tolist()])
        state = new.state_dict()
    fresh, lengths = np.unique(clips[np.isin(before, whole["fresh"])], return_counts=True)
    fresh = fresh[np.cumsum(lengths[::-1])[::-1] <= memory.fresh_capacity]
    stays = np.isin(clips, np.concatenate([state["keys"], fresh]))
    rows = whole | {"clips": clips}
    quarantine = np.unique(clips[np.isin(before, whole["quarantine"])])
    ranked = {name: rows[name][stays] for name in ("keys", "priority", "clips")}
    return whole | ranked | {"fresh": fresh, "quarantine": quarantine, "reservoir": state}


def _kept(keys: list[int], pairs: Pairs, kept: set[int], keep: Keep) -> Iterator[EncodedPair | None]:
    """Yield the pairs that stay, and give each that can be read to `keep`."""
    for key, pair in zip(keys, pairs, strict=True):
        if key in kept:
            if pair is not None:
                keep(key, pair)
            yield pair


def _trainable(pairs: Pairs, rule: Rule) -> Iterator[EncodedPair | None]:
    """Yield the pairs, and None in place of those that the new run holds out: memory puts them in quarantine."""
    for pair in pairs:
        yield None if pair is None or rule.holds(pair.header) else pair
