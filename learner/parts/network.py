"""An encoder with a projector, and a copy of one that follows it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from learner.networks.encoder import Encoder


class Network(nn.Module):
    """An encoder with a projector on its features."""

    def __init__(self, encoder: Encoder, projector: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector: Any = projector  # each objective has its own

    def forward(self, rgb: Tensor) -> Any:
        """Map RGB, float [B, 3, S, S] in [0, 1], to the output of the projector."""
        return self.project(self.encoder(rgb))

    def project(self, features: Tensor) -> Any:
        """Map features of the encoder, float [B, dim], to the output of the projector."""
        # The projector stays in float32: at a temperature of 0.02 a rounded cosine gives a wrong distribution.
        with torch.autocast(features.device.type, enabled=False):
            return self.projector(features.float())


class Ema(Network):
    """A copy of a network that follows it by an exponential moving average after each step; no gradient reaches it.

    theta <- momentum * theta + (1 - momentum) * theta of the source (He et al. 2020, MoCo, section 3.2; as the teacher of the
    original experiment).
    """

    def __init__(self, source: Network, momentum: float) -> None:
        super().__init__(copy.deepcopy(source.encoder), copy.deepcopy(source.projector))
        self.requires_grad_(False)
        self.momentum = momentum
        self._source = (source,)  # in a tuple: not a part of this one

    @torch.no_grad()
    def forward(self, rgb: Tensor) -> Any:
        """Map RGB as the network that it follows."""
        return super().forward(rgb)

    @torch.no_grad()
    def after_step(self) -> None:
        """Follow; buffers, such as the statistics of a norm, are copied."""
        own: list[Tensor] = list(self.parameters())
        theirs: list[Tensor] = list(self._source[0].parameters())
        torch._foreach_lerp_(own, theirs, 1 - self.momentum)
        for mine, other in zip(self.buffers(), self._source[0].buffers(), strict=True):
            mine.copy_(other)


def keep_once(module: nn.Module) -> None:
    """Let the state of a module name once what several of its parts share, by the first name; it is loaded into all of them."""
    names: dict[int, str] = {}
    whole = module.state_dict(keep_vars=True).items()
    twins = {name: first for name, value in whole if (first := names.setdefault(id(value), name)) != name}

    def without(_module: nn.Module, state: dict[str, Any], prefix: str, _metadata: object) -> None:
        for name in twins:
            del state[prefix + name]

    def complete(_module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
        state |= {prefix + name: state[prefix + first] for name, first in twins.items() if prefix + first in state}

    untyped: Any = module
    untyped.register_state_dict_post_hook(without)
    untyped.register_load_state_dict_pre_hook(complete)
