"""The start of a run: which weights its networks begin with, and what is to be said about them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from learner.errors import SettingsError
from learner.networks.encoder import Encoder, EncoderConfig, create_backbone
from learner.pretrained.files import Found, find
from learner.pretrained.fit import fitted
from learner.pretrained.names import named
from learner.pretrained.recognise import recognised

TIMM = "timm:"
Start = dict[str, Any]
"""Where the weights of a run come from, as `start.json` and `summary.json` have it."""


def encoder_of(weights: str) -> EncoderConfig:
    """Return the settings of the encoder that a file, a folder or `timm:NAME` has the weights of. Raises SettingsError."""
    if weights.startswith(TIMM):
        return EncoderConfig(backbone=weights.removeprefix(TIMM), weights=weights)
    found = find(weights)
    try:
        given = named(found.read())
        config = replace(recognised(given, found.beside, found.preprocessor), weights=weights)
        with torch.device("meta"):  # whatever sizes a file claims, no memory is taken before all its tensors fit
            fitted(create_backbone(config), given)
    except SettingsError as error:
        raise SettingsError(f"--encoder.weights {weights}: {error}") from error
    return config


def begin(networks: nn.Module, config: EncoderConfig) -> Start:
    """Put the weights that the settings name into every encoder of an objective, and return what was done.

    Without any, the networks keep their random start. Raises SettingsError for weights that do not fit.
    """
    if config.weights is None:
        refuse_tag(config.backbone)
        return {"from": "random"}
    found = _downloaded(config) if config.weights.startswith(TIMM) else find(config.weights)
    encoders = [part for part in networks.modules() if isinstance(part, Encoder)]
    tensors = found.read()
    try:
        fit = fitted(encoders[0].backbone, named(tensors))
    except SettingsError as error:
        raise SettingsError(
            f"--encoder.weights {config.weights} does not fit backbone {config.backbone}: {error}"
        ) from error
    for encoder in encoders:
        encoder.backbone.load_state_dict(fit.state)
    about = {"from": "weights", "name": config.weights, "sha256": found.sha256(), "backbone": config.backbone}
    pixels = {"mean": encoders[0].mean.flatten().tolist(), "std": encoders[0].std.flatten().tolist()}
    stated = isinstance(found.beside.get("num_attention_heads"), int) or found.beside.keys() & {
        "arguments",
        "architecture",
    }
    guessed = {} if stated or config.heads is None else {"unstated_heads": config.heads}
    return (
        about | pixels | guessed | {"tensors": len(fit.state), "surplus": sorted(fit.surplus), "resized": fit.resized}
    )


def refuse_tag(backbone: str) -> None:
    """Raise SettingsError for a backbone that names pretrained weights, where none are to be loaded."""
    name, dot, _ = backbone.partition(".")
    if dot:
        raise SettingsError(
            f"backbone {backbone!r} names pretrained weights: add --encoder.weights timm:{backbone} or a file to start from "
            f"them, or take --encoder.backbone {name} for a random start"
        )


def _downloaded(config: EncoderConfig) -> Found:
    """Return the file that timm names, from the cache of Hugging Face or the network. Raises SettingsError without both."""
    name = str(config.weights).removeprefix(TIMM)
    try:
        known = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # it has no such tag
        known = None
    if known is None or not known.hf_hub_id:
        raise SettingsError(f"timm has no weights called {name!r}: timm.list_pretrained('vit*') names some")
    from huggingface_hub import hf_hub_download  # only here: it takes half a second

    try:
        return Found((Path(hf_hub_download(known.hf_hub_id, "model.safetensors")),))
    except Exception as error:  # of whatever kind the network is missing
        raise SettingsError(
            f"timm:{name} cannot be downloaded here ({type(error).__name__}): on a machine with a network fetch "
            f"https://huggingface.co/{known.hf_hub_id}/resolve/main/model.safetensors, "
            f"and give --encoder.weights FILE --encoder.backbone {name}"
        ) from error
