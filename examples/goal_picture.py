"""How near is each picture to a goal picture, by exported weights? The rewards are what a policy or a planner would raise.

The model card beside the weights (`student.json`) says how to build the network and how to normalise its input.
Run it with: python examples/goal_picture.py runs/NAME/export/student.safetensors GOAL.jpg A.jpg B.jpg
"""

import json
from pathlib import Path

import cv2
import numpy as np
import timm
import torch
import tyro

from learner.weights.goals import huber_reward, latent_reward

Paths = tyro.conf.Positional[tuple[Path, ...]]


def main(weights: tyro.conf.Positional[Path], goal: tyro.conf.Positional[Path], images: Paths, side: int = 64) -> None:
    card = json.loads(weights.with_suffix(".json").read_text())
    model = timm.create_model(card["backbone"], checkpoint_path=str(weights), **card["arguments"])
    mean, std = (torch.tensor(card[key]).view(3, 1, 1) for key in ("mean", "std"))
    pixels = [cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB) for path in (goal, *images)]
    same = [cv2.resize(np.asarray(image), (side, side), interpolation=cv2.INTER_AREA) for image in pixels]
    rgb = torch.from_numpy(np.stack(same)).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        wanted, *seen = torch.nn.functional.normalize(model.eval()((rgb - mean) / std), dim=1).numpy()
    rewards = zip(images, latent_reward(seen, wanted), huber_reward(seen, wanted), strict=True)
    for path, latent, huber in rewards:
        print(f"{path.name:20} latent {latent:7.3f} huber {huber:7.3f}")


tyro.cli(main)
