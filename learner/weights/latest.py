"""The newest good weights of a run, always in the same place: export/NAME.safetensors for each encoder, with its model card.

Each commit whose networks have no sign of collapse (`learner.guard`) exports new ones, in the thread of the commit, beside
training. A commit in doubt keeps the earlier ones. An export that the disk refuses is logged, and the next commit tries again.

Where a guard watches for forgetting (`learner.adapt.forgetting`), the weights of the last probe that was not below the start are
exported in place of the commit's, so that nobody is handed weights that were not measured, or that are worse than the start.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from learner.config import to_plain
from learner.loop import Learner
from learner.metrics import LearnerMetrics
from learner.runs.reading import Line
from learner.runs.start import RANDOM
from learner.weights.card import Card
from learner.weights.export import export_encoder, write_card

log = logging.getLogger(__name__)

NAMED_DEVICES = 64
"""Largest number of devices that a card names."""


class LatestWeights:
    """Exports the encoders of a learner into a folder. One call at a time is allowed; `set_probes` may run beside another.

    hands_out_worse: export each commit's weights, even those that control sets call worse than the start.
    """

    def __init__(
        self, learner: Learner, folder: Path, *, metrics: LearnerMetrics, hands_out_worse: bool = False
    ) -> None:
        self._hands_out_worse = hands_out_worse
        self._learner = learner
        self._folder = folder
        self._metrics = metrics
        self._settings = to_plain(learner.config)
        self.start: Line = RANDOM
        """What the run started from, for the cards."""
        names = {module: name for name, module in learner.objective.named_modules()}
        self._encoders = {
            name: (encoder, f"{names[encoder.backbone]}.") for name, encoder in learner.objective.encoders().items()
        }
        self._probes: dict[int, dict[str, Any]] = {}  # by the step of the last one
        self._cards: dict[str, Card] = {}
        self._step = -1

    def set_probes(self, figures: dict[str, Any]) -> None:
        """Set the figures of the probes for the next cards. Those of the networks that are kept as good ones stay known."""
        good = (self._learner.trainer.fine or {}).get("step")
        before = max(self._probes, default=None)
        probes = {step: one for step, one in self._probes.items() if step in (good, before)}
        self._probes = probes | {figures["probed_steps"][-1]: figures}

    def _probes_of(self, step: int) -> dict[str, Any]:
        """Return the figures of the probes until a step: a card says nothing about other weights than its own."""
        probes = self._probes  # another thread may replace it
        until = [probed for probed in probes if probed <= step]
        return probes[max(until)] if until else {}

    def export(self, state: Mapping[str, Any]) -> None:
        """Export the networks of a state (`Learner.state_dict`), unless they are in doubt. An error of the disk is logged."""
        counts = state["counts"]
        if state["guard"]["doubt"]:
            return
        figures = {name: counts[name] for name in ("steps", "samples")} | {"pairs_received": counts["received"]}
        figures |= {"rollbacks": state["guard"]["rollbacks"]}
        fine = self._fine(state.get("fine"))
        if fine is not None and fine["step"] == self._step:
            return
        if fine is not None and fine["step"] != counts["steps"]:
            figures = {"steps": fine["step"]}  # the other counts are those of later weights
        try:
            self._write((fine or state)["objective"], figures | self._probes_of(figures["steps"]) | self._stream())
        except OSError as error:
            log.warning("weights of step %d could not be exported: %s", figures["steps"], error)
            return
        self._step = figures["steps"]
        self._metrics.exported_step.set(self._step)

    def _fine(self, fine: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Return the networks to export in place of the present ones; None: there are none."""
        return None if self._hands_out_worse else fine

    def conclude(self, summary: Mapping[str, Any]) -> str:
        """Give the cards the figures of the whole run, after the last export; return a warning, empty if there is none.

        If no networks were ever good, the last ones are exported, and their card warns. Raises OSError.
        """
        fine = self._fine(self._learner.trainer.fine)
        if fine is not None and fine["step"] != self._step:
            self._write(fine["objective"], {"steps": fine["step"], **self._probes_of(fine["step"]), **self._stream()})
            self._step = fine["step"]
        if self._step == self._learner.steps:
            for name, card in self._cards.items():
                write_card(self._path(name), card | {"figures": {**summary, **self._stream()}})
            return ""
        if fine is not None:
            last = self._learner.trainer.forgetting.last
            why = f"{last}" if last is not None and last.is_worse else "no later ones were measured"
            return f"export/ has the weights of step {self._step}: {why}; --export-worse hands out those of each commit"
        if all(self._path(name).is_file() for name in self._encoders):
            return f"export/ keeps earlier weights: those of step {self._learner.steps} are in doubt or could not be written"
        self._write(self._learner.objective.state_dict(), {**summary, **self._stream(), "in_doubt": True})
        return f"the weights of step {self._learner.steps} in export/ are in doubt: train longer before you use them"

    def _write(self, state: Mapping[str, Tensor], figures: Mapping[str, Any]) -> None:
        for name, (encoder, prefix) in self._encoders.items():
            weights = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            self._cards[name] = export_encoder(
                encoder, self._path(name), figures=figures, settings=self._settings, weights=weights
            )

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"

    def _stream(self) -> dict[str, Any]:
        """Return the start, the devices of the pairs in memory, and when these were captured."""
        captured = [(device, time_ns) for device, time_ns in self._learner.memory.slots.captured if device]
        devices = sorted({device for device, _ in captured})[:NAMED_DEVICES]
        times = [time_ns for _, time_ns in captured]
        span = {"captured_from": _utc(min(times)), "captured_until": _utc(max(times))} if times else {}
        return {"start": self.start, "stream": {"devices": devices, **span}}


def _utc(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).isoformat().replace("+00:00", "Z")
