"""The main job on real input: rigs that stream real drives, a learner in another process that learns from them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tiny_learner import FLAGS
from waiting import WAIT_S, until

from buffer.store import Store
from learner.loop import Learner
from learner.memory import pictures
from learner.memory.canvas import on_canvas
from learner.runs.checkpoint import CheckpointFolder
from learner.runs.restore import restore
from learner.runs.settings import from_plain
from stream.image import Image

ROOT = Path(__file__).parents[1]
DRIVES = {"kitti_street_a": 51, "kitti_street_b": 60, "kitti_colour": 20}
CANVAS = (96, 128)
SMALL = (
    *(*FLAGS, "--memory.canvas", str(CANVAS[0]), str(CANVAS[1])),
    *("--memory.capacity", "256", "--memory.fresh-capacity", "256", "--pacing.max-owed-steps", "32"),
)
"""Room for all pairs, and a budget that a burst of them does not overflow."""


def python(module: str, *arguments: str, **pipes: Any) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=ROOT, env=environment, text=True, **pipes)


@contextmanager
def rig(name: str, folder: Path, fps: str, log: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A device over a folder with left/ and right/: its process and its address."""
    camera = f"dir:{folder / 'left'},{folder / 'right'}"
    words = ("--camera", camera, "--fps", fps, "--name", name, "--bind", "tcp://127.0.0.1:0", "--json")
    arguments = (*words, "--disk-floor-gib", "0")
    with log.open("w") as errors:
        process = python("device", *arguments, stdout=subprocess.PIPE, stderr=errors)
    try:
        yield process, address(process, log)
    finally:
        process.kill()
        process.communicate()


def address(process: subprocess.Popen[str], log: Path) -> str:
    def said() -> re.Match[str] | None:
        return re.search(r"bind=(tcp://\S+:\d+)", log.read_text())

    until(lambda: said() or process.poll() is not None, log.read_text)
    found = said()
    assert found is not None, log.read_text()
    return found[1]


def eyes_of(folder: Path) -> list[tuple[Image, Image]]:
    """What each pair of a drive must look like in memory, from its files."""
    names = sorted(path.name for path in (folder / "left").iterdir())
    flags = cv2.IMREAD_ANYCOLOR
    both = [[cv2.imread(str(folder / eye / name), flags) for eye in ("left", "right")] for name in names]
    return [(seen(left), seen(right)) for left, right in both]


def seen(image: Any) -> Image:
    return on_canvas(np.asarray(image, np.uint8), CANVAS)


@pytest.mark.parametrize("fps", ["0", "10"], ids=["as fast as possible", "at 10 Hz"])
def test_every_pair_of_three_drives_is_learned_from_once_with_its_colours_and_eyes(
    fps: str, shared_data: Path, tmp_path: Path
) -> None:
    """Three devices, one learner, four processes: what lies in the learner's memory is what lies in the files."""
    run = tmp_path / "run"
    with ExitStack() as stack:
        rigs = [
            stack.enter_context(rig(name, shared_data / "stereo" / name, fps, tmp_path / f"{name}.log"))
            for name in DRIVES
        ]
        connect = ("--connect", *(endpoint for _, endpoint in rigs), "--until-device-ends")
        learner = python(
            "learner", *connect, "--run-dir", str(run), "--http-port", "0", *SMALL, "--json", stdout=subprocess.PIPE
        )
        stack.callback(learner.kill)
        output, _ = learner.communicate(timeout=WAIT_S)
        kept = {
            name: json.loads(process.communicate(timeout=WAIT_S)[0])["kept"]
            for name, (process, _) in zip(DRIVES, rigs, strict=True)
        }
    assert learner.returncode == 0
    assert kept == DRIVES
    summary = json.loads(output)
    assert (summary["pairs_received"], summary["pairs_lost"]) == (131, 0)
    assert (summary["malformed"], summary["undecodable"], summary["reservoir"]["dropped_fresh"]) == ({}, 0, 0)
    assert summary["steps"] >= 131 // 8
    assert summary["reservoir"]["kept"] + summary["reservoir"]["fresh"] == 131
    assert summary["reservoir"]["fresh"] < 8
    assert summary["loss_last"] > 0
    check_memory(run, shared_data)


def check_memory(run: Path, shared_data: Path) -> None:
    """The memory as the next process would have it: from the run's last commit and the pairs in its store."""
    settings = from_plain(json.loads((run / "config.json").read_bytes()))
    learner = Learner(settings, torch.device("cpu"))
    with Store(run / "pairs.sqlite") as store:
        restore(learner, store, CheckpointFolder(run / "checkpoints"))
    memory = learner.memory
    slots = pictures.over_time(memory, len(memory))
    names = [memory.slots.names[slot] for slot in slots]
    assert len(names) == len(set(names)) == 131
    drives = {name: eyes_of(shared_data / "stereo" / name) for name in DRIVES}
    sizes = {"kitti_street_a": (1226, 370), "kitti_street_b": (1226, 370), "kitti_colour": (1241, 376)}
    for slot, name in zip(slots, names, strict=True):
        drive, _, seq = name.split("/")
        left, right = drives[drive][int(seq)]
        assert np.array_equal(memory.slots.left[slot].numpy(), left), name
        assert np.array_equal(memory.slots.right[slot].numpy(), right), name
        assert not np.array_equal(left, right)
        width, height = sizes[drive]
        assert float(memory.slots.aspect[slot]) == pytest.approx(width / height)


def test_a_view_that_stands_still_brings_hardly_anything_and_the_learner_hears_of_the_rest(
    shared_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with rig("still", shared_data / "stereo" / "euroc_still", "0", tmp_path / "log") as (device, endpoint):
        learner = python(
            "learner",
            *("--connect", endpoint, "--until-device-ends", "--run-dir", str(run), "--http-port", "0"),
            *(*SMALL, "--json"),
            stdout=subprocess.PIPE,
        )
        output, _ = learner.communicate(timeout=WAIT_S)
        told = json.loads(device.communicate(timeout=WAIT_S)[0])
    summary = json.loads(output)
    assert learner.returncode == 1
    assert summary["problem"].startswith("nothing was learned: ")
    assert summary["pairs_received"] == told["kept"] <= 2
    assert summary["pairs_suppressed"] <= told["suppressed"]
    assert summary["steps"] == 0
    assert (run / "report.html").is_file()
