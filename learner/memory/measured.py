"""The signals that an objective needs, beside the images in slots: of each the mean of its rows since the pair before."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stream.signals.signal import MAX_WIDTH

if TYPE_CHECKING:  # the bench on a GPU runs without the packages of the stream
    from stream.signals.signal import Signal

LIMIT = 1e30
"""Values are cut to [-LIMIT, LIMIT], so that float32 can hold them, and their mean."""
log = logging.getLogger(__name__)


class Measured:
    """The signals of the pairs in `count` slots. names: those that are kept; of all others nothing is.

    widths: how many values a row of each signal has that has come, as in its first pair. A pair with rows of another width is
    without that signal, and is counted in `changed`.
    """

    def __init__(self, count: int, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.widths: dict[str, int] = {}
        self.changed = 0
        self._count = count
        self._values: dict[str, Tensor] = {}

    @property
    def nbytes(self) -> int:
        """The bytes that all values take at most."""
        return 4 * MAX_WIDTH * self._count * len(self.names)

    def put(self, slot: int, signals: Mapping[str, Signal]) -> None:
        """Give a slot the signals of its pair, in place of those of the pair that it had before."""
        some = {name: signals[name] for name in self.names if len(signals.get(name, ()))}
        for name in self.names:
            if name in some:
                self._begin(name, some[name].width)
            if name in self._values:
                self._values[name][slot] = self._mean(name, some.get(name))

    def of(self, slots: Tensor) -> dict[str, Tensor]:
        """Return the signals of these slots, int64 [B]: float32 [B, width], nan where a pair has none.

        The width is 1 where no pair had the signal yet.
        """
        none = torch.full((len(slots), 1), torch.nan)
        return {name: self._values[name][slots] if name in self._values else none for name in self.names}

    def state_dict(self) -> dict[str, int]:
        """Return the state for a checkpoint: the widths. The pairs bring their values back."""
        return dict(self.widths)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from a state, before its pairs are put into their slots."""
        self.widths, self._values = {}, {}
        for name in self.names:
            if name in state:
                self._begin(name, int(state[name]))

    def _begin(self, name: str, width: int) -> None:
        if self.widths.setdefault(name, width) and name not in self._values:
            self._values[name] = torch.full((self._count, self.widths[name]), torch.nan)

    def _mean(self, name: str, signal: Signal | None) -> Tensor:
        """Return the mean of a signal's rows, float [width]; nan for none, or for another width, which is counted and logged."""
        width = self.widths[name]
        if signal is None:
            return torch.full((width,), torch.nan)
        if signal.width != width:
            self.changed += 1
            if self.changed & (self.changed - 1) == 0:  # the 1st, 2nd, 4th, ...: a device could fill the disk
                log.warning(
                    "signal %s is %d wide and was %d: missing, count=%d", name, signal.width, width, self.changed
                )
            return torch.full((width,), torch.nan)
        return torch.from_numpy(np.clip(signal.values, -LIMIT, LIMIT).mean(0).astype(np.float32))
