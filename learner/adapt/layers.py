"""The layers of a backbone from its input to its output, as timm groups them. Pure."""

from __future__ import annotations

from typing import Any

from timm.models import group_parameters
from torch import nn

from learner.errors import SettingsError
from learner.networks.encoder import Encoder


def layers_of(encoder: Encoder) -> list[list[str]]:
    """Return the names of the backbone's parameters by layer: stem first, the last norm with the last block.

    Raises SettingsError for a backbone whose layers timm does not know.
    """
    backbone: Any = encoder.backbone
    matcher = getattr(backbone, "group_matcher", None)
    found = {} if matcher is None else group_parameters(backbone, matcher(coarse=False), reverse=True)
    layers: list[list[str]] = [[] for _ in range(max(found.values(), default=-1) + 1)]
    for name, _ in backbone.named_parameters():
        if found:
            layers[found[name]].append(name)
    if len(layers) < 2:
        raise SettingsError(
            f"timm does not know the layers of backbone {encoder.config.backbone!r}, which adapt needs: leave --adapt out"
        )
    return layers


def matrices_of(encoder: Encoder) -> dict[str, tuple[int, int]]:
    """Return rows and columns of each weight that multiplies its input, by name: of linear layers and convolutions.

    The columns of a convolution are its input channels times its places.
    """
    return {
        f"{name}.weight": (len(module.weight), module.weight[0].numel())
        for name, module in encoder.backbone.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    }
