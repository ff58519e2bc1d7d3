"""The backbone for others: safetensors that `timm.create_model(..., checkpoint_path=...)` loads, with a model card beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save

from learner.encoder import Encoder
from learner.rundir import replace_file


def export_encoder(encoder: Encoder, path: Path, *, figures: dict[str, Any]) -> str:
    """Write the backbone's weights to `path` (.safetensors) and a card `path`.json with `figures`, both atomically.

    Returns the line of Python that loads them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    arguments = encoder.config.timm_arguments() | {"dynamic_img_size": True}
    settings = "".join(f", {name}={value!r}" for name, value in arguments.items())
    line = f"timm.create_model({encoder.config.backbone!r}, checkpoint_path={path.name!r}{settings})"
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.backbone.state_dict().items()}
    replace_file(path, save(weights, metadata={"format": "pt"}))
    card = {
        "load": line,
        "backbone": encoder.config.backbone,
        "arguments": arguments,
        "mean": encoder.mean.flatten().tolist(),
        "std": encoder.std.flatten().tolist(),
        "input": "RGB in [0, 1], minus mean, over std; height and width in multiples of the patch size",
        "figures": figures,
    }
    replace_file(path.with_suffix(".json"), (json.dumps(card, indent=2) + "\n").encode())
    return line
