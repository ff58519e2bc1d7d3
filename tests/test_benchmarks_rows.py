"""The bench of rows trains on pairs as they are and corrected, and finds the crops that belong together."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from test_stream_rows import two_depths
from torch import Tensor, nn

from benchmarks.__main__ import main
from benchmarks.rows import GRID, _recall
from stream.image import Image


class Pixels(nn.Module):
    """Features that are the pixels themselves, without their mean."""

    def forward(self, rgb: Tensor) -> Tensor:
        flat = rgb.flatten(1)
        return flat - flat.mean(dim=1, keepdim=True)


def test_recall_is_whole_for_equal_images_and_falls_where_rows_are_apart() -> None:
    random = np.random.default_rng(0)
    images: list[Image] = [random.integers(0, 255, (64, 96, 3), np.uint8) for _ in range(5)]
    assert _recall(Pixels(), [(image, image) for image in images], 32, GRID) == 1.0
    apart = [(image, np.roll(image, 16, axis=0)) for image in images]
    assert _recall(Pixels(), apart, 32, GRID) < 0.5
    swapped = [(image, images[number - 1]) for number, image in enumerate(images)]
    assert _recall(Pixels(), swapped, 32, (1, 1)) == 0.0


def test_it_trains_both_arms_and_says_how_far_rows_are_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for eye in ("left", "right"):
        (tmp_path / eye).mkdir()
    for number in range(12):
        for eye, image in zip(("left", "right"), two_depths(6, number), strict=True):
            cv2.imwrite(str(tmp_path / eye / f"{number:02}.jpg"), image)
    words = ["rows", "--camera", f"dir:{tmp_path}", "--steps", "2", "--batch-size", "4", "--seeds", "1"]
    threads = torch.get_num_threads()
    try:
        assert main([*words, "--row-shift-px", "6", "--json"]) == 0
    finally:
        torch.set_num_threads(threads)
    found = json.loads(capsys.readouterr().out)
    assert found["rows"]["as they are"].startswith("+6.0 px")
    assert found["rows"]["corrected"].startswith(("+0.0 px", "-0.0 px"))
    assert [(run["arm"], run["steps"]) for run in found["runs"]] == [("as they are", 2), ("corrected", 2)]
    assert main(words) == 2
    assert "--row-shift-px" in capsys.readouterr().err
