"""`python -m learner --source`: a camera, dedupe and a learner in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_device_source import album
from tiny_learner import FLAGS

from device.cli.capture_settings import RigSettings
from device.cli.local import open_local
from learner.__main__ import main
from learner.loop import Learner, StepReport, learn
from learner.runs.settings import settings_of
from stream.source import Source

SMALL = (*FLAGS, "--memory.canvas", "24", "32", "--http-port", "0", "--control-limit", "20", "--json")

pytestmark = pytest.mark.usefixtures("own_signals", "one_thread")


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"dir:{album(tmp_path_factory.mktemp('album') / 'images', 16)}"


def steps(learner: Learner, source: Source) -> Iterator[StepReport]:
    return (event for event in learn(learner, source, clock=time.monotonic) if isinstance(event, StepReport))


def test_a_folder_is_learned_and_a_learner_that_was_stopped_in_it_has_the_same_weights_in_the_end(
    camera: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["--run-dir", str(run), *SMALL, "--holdout", "0.5", "--source", camera, "--repeat", "4"]) == 0
    figures = json.loads(capsys.readouterr().out)
    held_out = figures["pairs_held_out"]
    assert (figures["pairs_received"], figures["steps"]) == (64, (64 - held_out) // 2)
    assert held_out in (24, 24 + 16)  # the second stretch, or the first and what there is of the third
    stopped, settings = Learner(settings_of(run), torch.device("cpu")), RigSettings(camera=camera, repeat=4)
    with closing(open_local(settings)) as first:
        assert len(list(islice(steps(stopped, first), 5))) == 5
        cursor = first.cursor()
    with closing(open_local(settings, cursor)) as rest:
        assert len(list(steps(stopped, rest))) == figures["steps"] - 5
    ours = stopped.objective.encoders()["student"].state_dict()
    theirs = load_file(run / "export" / "student.safetensors")
    assert all(torch.equal(ours[f"backbone.{name}"], tensor) for name, tensor in theirs.items())


def test_the_pairs_of_a_camera_can_be_sent_to_other_processes(camera: str, tmp_path: Path) -> None:
    words = ["--run-dir", str(tmp_path / "run"), *SMALL, "--source", camera, "--max-steps", "1"]
    code = "from learner.__main__ import main; main(%r); import device.capture, stream.pair; print(%s)"
    same = "device.capture.EncodedPair is stream.pair.EncodedPair"
    done = subprocess.run(
        [sys.executable, "-c", code % (words, same)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "True"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--source", "dir:/nowhere"], "no folder /nowhere"),
        (["--source", "sim", "--replay", "a.mcap"], "--source and --replay are two sources"),
        (["--source", "sim", "--connect", "tcp://127.0.0.1:1"], "--connect and --source are two sources"),
        (["--source", "sim", "--rig.size", "big"], "--size is WIDTHxHEIGHT"),
        (["--source", "sim", "--rig.row-shift-px", "5000"], "--row-shift-px must be"),
        (["--source", "sim", "--rig.signals", "nowhere_at_all:read"], "there is no module nowhere_at_all"),
        (["--source", "sim", "--rig.signals", "os:nothing"], "the module os has no function or class nothing"),
    ],
)
def test_a_source_that_cannot_be_opened_is_one_line_and_leaves_nothing(
    words: list[str], what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--run-dir", str(tmp_path / "run"), *SMALL, *words]) == 2
    error = capsys.readouterr().err
    assert what in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_doctor_waits_for_the_first_pair_of_a_source(
    camera: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["doctor", "--run-dir", str(tmp_path / "run"), "--http-port", "0", "--json", "--device", "cpu"]
    main([*words, "--source", camera])
    found = {one["what"]: one for one in json.loads(capsys.readouterr().out)}
    assert found["source"]["level"] == "ok"
    assert found["source"]["text"].endswith("gives images of 64x48")
    assert "rig" not in found
    assert main([*words, "--source", "dir:/nowhere"]) != 0


def test_a_run_whose_camera_does_not_open_leaves_no_folder_that_would_stand_in_the_way(
    camera: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, none = tmp_path / "run", "v4l2:/dev/none-left,/dev/none-right"
    assert main(["--run-dir", str(run), *SMALL, "--source", none]) != 0
    assert "/dev/none-left" in capsys.readouterr().err
    assert not run.exists()
    assert main(["--run-dir", str(run), *SMALL, "--source", camera, "--max-steps", "1", "--holdout", "0"]) == 0
    assert main(["--run-dir", str(run), *SMALL, "--source", none]) != 0
    assert (run / "summary.json").is_file()
