"""Use exported weights with timm alone, without any of this project's code: how alike are some images?

The model card beside the weights (`student.json`) says how to build the network and how to normalise its input.
Run it with: python examples/use_weights.py runs/NAME/export/student.safetensors A.jpg B.jpg C.jpg
"""

import json
from pathlib import Path

import cv2
import numpy as np
import timm
import torch
import tyro

Paths = tyro.conf.Positional[tuple[Path, ...]]


def main(weights: tyro.conf.Positional[Path], images: Paths, side: int = 64) -> None:
    card = json.loads(weights.with_suffix(".json").read_text())
    model = timm.create_model(card["backbone"], checkpoint_path=str(weights), **card["arguments"])
    mean, std = (torch.tensor(card[key]).view(3, 1, 1) for key in ("mean", "std"))
    pixels = [cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB) for path in images]
    same = [cv2.resize(np.asarray(image), (side, side), interpolation=cv2.INTER_AREA) for image in pixels]
    rgb = torch.from_numpy(np.stack(same)).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        features = torch.nn.functional.normalize(model.eval()((rgb - mean) / std), dim=1)
    for path, row in zip(images, (features @ features.T).tolist(), strict=True):
        print(f"{path.name:20}", *(f"{similarity:6.3f}" for similarity in row))


tyro.cli(main)
