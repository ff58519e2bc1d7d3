"""The backbone for others: safetensors that `timm.create_model(..., checkpoint_path=...)` loads, with a model card beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from learner.encoder import Encoder


def export_encoder(encoder: Encoder, path: Path, *, figures: dict[str, Any]) -> str:
    """Write the backbone's weights to `path` (.safetensors) and a card `path`.json with `figures`, both atomically.

    Returns the line of Python that loads them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    arguments = encoder.config.timm_arguments()
    settings = "".join(f", {name}={value!r}" for name, value in arguments.items())
    line = f"timm.create_model({encoder.config.backbone!r}, checkpoint_path={path.name!r}{settings})"
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.backbone.state_dict().items()}
    draft = path.with_name(f".{path.name}")
    save_file(weights, draft, metadata={"format": "pt"})
    draft.rename(path)
    card = {
        "load": line,
        "backbone": encoder.config.backbone,
        "arguments": arguments,
        "mean": encoder.mean.flatten().tolist(),
        "std": encoder.std.flatten().tolist(),
        "input": "RGB in [0, 1], minus mean, over std; height and width in multiples of the patch size",
        "figures": figures,
    }
    card_path = path.with_suffix(".json")
    card_draft = card_path.with_name(f".{card_path.name}")
    card_draft.write_text(json.dumps(card, indent=2) + "\n")
    card_draft.rename(card_path)
    return line
