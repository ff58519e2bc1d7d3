"""A backbone as safetensors, which `timm.create_model(..., checkpoint_path=...)` loads, with its model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from learner.errors import LearnerError
from learner.networks.encoder import Encoder, EncoderConfig
from learner.weights.card import Card, card_of, markdown, plain
from stream.fsync import replace_file


def export_encoder(
    encoder: Encoder,
    path: Path,
    *,
    figures: Mapping[str, Any],
    settings: Mapping[str, Any],
    weights: Mapping[str, Tensor] | None = None,
) -> Card:
    """Write a backbone to `path` (.safetensors), and its card to .json and .md; return the card.

    Each file is replaced as a whole. weights: those of the backbone at an earlier moment; None takes the present ones.
    figures, settings: as in `card_of`. The sha256 in the card identifies the weights. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = write_weights(path, encoder.backbone.state_dict() if weights is None else weights)
    card = card_of(path.stem, encoder, data, figures=figures, settings=settings)
    write_card(path, card)
    return card


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> bytes:
    """Write the weights of a backbone (.safetensors), and return the bytes of the file. Raises OSError."""
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, {"format": "pt"})
    replace_file(path, data)
    return data


def write_card(path: Path, card: Card) -> None:
    """Write the card of the weights at `path`. Raises OSError."""
    replace_file(path.with_suffix(".json"), (json.dumps(plain(card), indent=2, allow_nan=False) + "\n").encode())
    replace_file(path.with_suffix(".md"), markdown(card).encode(errors="backslashreplace"))


def load_encoder(config: EncoderConfig, weights: Path) -> Encoder:
    """Return an encoder with exported weights (.safetensors), on the CPU, for inference. Raises LearnerError."""
    encoder = Encoder(config).eval().requires_grad_(False)
    try:
        encoder.backbone.load_state_dict(load_file(weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise LearnerError(
            f"{weights} cannot be read as weights of {config.backbone} ({' '.join(str(error).split())[:200]})"
        ) from error
    return encoder
