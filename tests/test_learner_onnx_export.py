"""ONNX: the same features as PyTorch on real pairs, for any number of images, or no file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from committing import Acknowledging
from committing import run as training
from tiny_learner import EPOCH, TINY, make_pairs, tiny_learner

from buffer.store import Store
from learner.__main__ import PROGRAM
from learner.errors import Failed, LearnerError
from learner.loop import learn
from learner.metrics import LearnerMetrics
from learner.report.recent_pairs import recent_pairs
from learner.runs.checkpoint import CheckpointFolder
from learner.runs.commit import Committer
from learner.runs.folder import RunDirectory
from learner.weights.export import load_encoder
from learner.weights.latest import LatestWeights
from learner.weights.onnx import TOLERANCE, export_onnx
from stream.codec import encode_pair
from stream.host.program import Stop
from stream.pair import EncodedPair


def real_pairs(shared_data: Path, count: int) -> list[EncodedPair]:
    folder = shared_data / "stereo" / "kitti_colour"
    names = sorted(path.name for path in (folder / "left").iterdir())[:count]
    eyes = [[np.asarray(cv2.imread(str(folder / eye / name)), np.uint8) for eye in ("left", "right")] for name in names]
    return [
        encode_pair(left, right, device="car", epoch=EPOCH, seq=seq, left_ns=seq, right_ns=seq)
        for seq, (left, right) in enumerate(eyes)
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, shared_data: Path, one_thread: None) -> Path:
    """Of a learner that saw a street, with its weights in export/."""
    directory, learner = RunDirectory(tmp_path_factory.mktemp("runs") / "street", TINY), tiny_learner()
    metrics = LearnerMetrics()
    latest_weights = LatestWeights(learner, directory.export, metrics=metrics)
    source = Acknowledging(real_pairs(shared_data, 12))
    with (
        Store(directory.store) as store,
        closing(
            Committer(
                learner,
                source,
                store,
                CheckpointFolder(directory.checkpoints),
                clock=time.monotonic,
                publish=latest_weights.export,
            )
        ) as committer,
    ):
        for _ in learn(learner, source, clock=time.monotonic, keep=committer.keep):
            pass
        learner.trainer.guard.doubt = 0
        committer.finish()
    return directory.path


@pytest.fixture(scope="module")
def exported(run: Path) -> dict[str, Any]:
    """What the command said of the student; the exporter takes seconds, so once."""
    (run / "export" / "teacher.safetensors").unlink()
    (said,) = json.loads(PROGRAM.run(["export", str(run), "--json"], Stop()).text)
    found: dict[str, Any] = said
    return found


def test_the_command_writes_what_runs_without_pytorch_and_gives_its_features(
    run: Path, exported: dict[str, Any]
) -> None:
    """On all images of the run at once, and on one."""
    path = run / "export" / "student.onnx"
    assert exported["path"] == str(path)
    assert 0 <= exported["difference"] <= TOLERANCE
    assert not list(path.parent.glob(".*")), "no draft stays behind"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    weights = run / "export" / "student.safetensors"
    known = session.get_modelmeta().custom_metadata_map
    assert known["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    images, _ = recent_pairs(run / "pairs.sqlite", 9, size=exported["size"])
    rgb = np.ascontiguousarray(images[..., ::-1].transpose(0, 3, 1, 2), np.float32) / 255
    with torch.inference_mode():
        ours = load_encoder(TINY.encoder, weights)(torch.from_numpy(rgb)).numpy()
    assert len(rgb) == 9
    assert np.ptp(ours, axis=0).max() > 100 * TOLERANCE, "different images have different features"
    for count in (9, 1):
        np.testing.assert_allclose(session.run(None, {"rgb": rgb[:count]})[0], ours[:count], atol=TOLERANCE)


@dataclass
class Program:
    """What an exporter returns that has made `graph` of the model."""

    graph: bytes
    model: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(metadata_props={}))

    def save(self, path: Path, *, external_data: bool) -> None:
        path.write_bytes(self.graph)


def test_a_graph_that_differs_from_pytorch_is_not_handed_out(
    run: Path, exported: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter gives the graph of other weights than those it was given."""
    graph = Path(exported["path"]).read_bytes()
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: Program(graph))
    encoder = load_encoder(TINY.encoder, run / "export" / "student.safetensors")
    images, _ = recent_pairs(run / "pairs.sqlite", 4, size=exported["size"])
    assert export_onnx(encoder, tmp_path / "same.onnx", images, weights_sha256="") <= TOLERANCE
    encoder.backbone.norm.bias.add_(0.01)
    with pytest.raises(Failed, match=r"student\.onnx differs from PyTorch by \d.*: not written"):
        export_onnx(encoder, tmp_path / "student.onnx", images, weights_sha256="")
    assert [path.name for path in tmp_path.iterdir()] == ["same.onnx"]


@pytest.mark.parametrize(
    ("spoil", "words", "says"),
    [
        (lambda run: None, ["--size", "17"], "multiple of the patch size 8, got 17"),
        (lambda run: None, ["--size", "0"], "--size must be 1 to"),
        (lambda run: None, ["--threads", "0"], "--threads must be at least 1"),
        (
            lambda run: (run / "export" / "student.safetensors").write_bytes(b"\x08"),
            [],
            "cannot be read as weights of vit_",
        ),
        (lambda run: (run / "export").rename(run / "gone"), [], "has no weights yet: wait for a commit"),
        (lambda run: (run / "config.json").unlink(), [], "is no run, it has no config.json"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line(
    run: Path,
    tmp_path: Path,
    spoil: Callable[[Path], object],
    words: list[str],
    says: str,
) -> None:
    copy = tmp_path / "run"
    (copy / "export").mkdir(parents=True)
    for name in ("config.json", "pairs.sqlite", "export/student.safetensors"):
        (copy / name).write_bytes((run / name).read_bytes())
    spoil(copy)
    with pytest.raises(LearnerError, match=says) as raised:
        PROGRAM.run(["export", str(copy), *words], Stop())
    assert "\n" not in str(raised.value)


def test_the_newest_pairs_come_in_the_order_of_their_capture_without_the_damaged_ones(run: Path) -> None:
    images, captured_ns = recent_pairs(run / "pairs.sqlite", 5, size=24)
    assert captured_ns == [7, 8, 9, 10, 11]
    assert images.shape == (5, 24, 24, 3)
    assert len(recent_pairs(run / "pairs.sqlite", 100, size=8)[0]) == 12


def test_pairs_that_are_held_out_are_no_pairs_of_the_memory(tmp_path: Path) -> None:
    with training(tmp_path / "run", make_pairs(60), config=dataclasses.replace(TINY, holdout=0.5)) as started:
        started.train(12)
        started.committer.finish()
        kept, held = started.learner.memory.slots, started.learner.held_out.slots
        assert len(kept)
        assert len(held)
    found = [
        recent_pairs(tmp_path / "run" / "pairs.sqlite", 100, size=8, checkpoints=folder)[1]
        for folder in (None, started.folder)
    ]
    assert [len(times) for times in found] == [len(kept) + len(held), len(kept)]
