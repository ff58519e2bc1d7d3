"""Several processes are one learner: the same losses, nothing lost with a process that dies, any number of them goes on.

They speak by gloo over TCP, run `python -m learner` as torchrun starts it, and are forked from one that has loaded torch.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from crew_nursery import POISONED
from recorded import recorded
from safetensors.torch import load_file
from tiny_learner import CANVAS, EPOCH, TINY, make_pair, make_pairs

from buffer.store import Store
from learner.__main__ import PROGRAM
from learner.distributed import collectives
from learner.distributed.collectives import Process, process_of
from learner.errors import SettingsError
from learner.loop import Learner
from learner.memory.holdout import GAP, STRETCH
from learner.memory.memory import Memory
from learner.networks.encoder import Encoder
from learner.runs.checkpoint import load_checkpoint
from learner.runs.commit import unpack
from learner.runs.note import Note
from learner.weights.export import export_encoder
from stream.host.program import Stop
from stream.pair import EncodedPair
from stream.recording.writer import RecordingWriter

ROOT = Path(__file__).parents[1]
PAIRS = 96
SMALL = (
    *("--control", "--encoder.image-size", "16", "--encoder.embed-dim", "32", "--encoder.depth", "2"),
    *("--encoder.heads", "2", "--objective.attention-size", "24", "--objective.teacher-size", "16"),
    *("--objective.student-size", "16", "--objective.hidden", "32", "--objective.crops", "2", "--threads", "1"),
    *("--pacing.batch-size", "8", "--pacing.replay-ratio", "4", "--memory.canvas", *map(str, CANVAS)),
    *("--memory.capacity", "96", "--memory.fresh-capacity", "96", "--http-port", "0", "--holdout", "0"),
)
"""Memory for every pair, so that one that is missing at the end was lost."""
ALL_FRESH = ("--pacing.replay-ratio", "1")
"""Each batch is of pairs that were never trained on: the same ones in whatever number of processes."""


@dataclass
class Nursery:
    """Forks the processes of a run over a recording."""

    process: subprocess.Popen[str]
    recording: Path

    def run(
        self,
        run: Path,
        processes: int,
        *words: str,
        look: str | None = None,
        dies: tuple[int, int] | None = None,
        recording: Path | None = None,
    ) -> tuple[list[int], str]:
        """One life of a run: the exit codes of its processes, and what all of them said. dies: (rank, step)."""
        objective = () if "--preset" in words else ("--objective", "babyagent")
        command = [*SMALL, *objective, "--replay", str(recording or self.recording), "--run-dir", str(run), *words]
        task = {"processes": processes, "words": command, "look": look, "dies": dies, "said": str(run)}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(task), file=self.process.stdin, flush=True)
        codes = json.loads(self.process.stdout.readline())
        return codes, "".join(run.with_name(f"{run.name}.{rank}").read_text() for rank in range(processes))


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    recording = tmp_path_factory.mktemp("recording") / "walk.mcap"
    with RecordingWriter(recording) as writer:
        for pair in make_pairs(PAIRS):
            writer.write(pair)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(ROOT / "tests" / "crew_nursery.py")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield Nursery(process, recording)
        assert process.stdin is not None
        process.stdin.close()


@dataclass
class Outcome:
    """What a run leaves."""

    steps: list[dict[str, Any]]
    weights: dict[str, torch.Tensor]
    sums: str
    state: dict[str, Any]
    seqs: list[int]
    """Of the pairs in the newest commit, in the order of their keys."""


def sums_of(folder: Path) -> str:
    """What a checkpoint holds, without the identity of its commit, which differs from run to run."""
    tensors = [line for line in (folder / "SHA256SUMS").read_text().splitlines() if "state.json" not in line]
    entries = json.loads((folder / "state.json").read_text())["$dict"]
    state = [entry for entry in entries if entry[0] != "commit"]
    assert len(state) == len(entries) - 1
    return json.dumps([tensors, state])


def outcome(run: Path) -> Outcome:
    with Store(run / "pairs.sqlite") as store:
        newest = store.commits()[0]
        seqs = [unpack(item).header.seq for item in store.items(newest.keys)]
    folder = run / "checkpoints" / msgspec.json.decode(newest.note, type=Note).folder
    return Outcome(
        steps=[json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()],
        weights=load_file(run / "export" / "teacher.safetensors"),
        sums=sums_of(folder),
        state=load_checkpoint(folder),
        seqs=seqs,
    )


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (("--objective.centring", "ema"), (1, 2, 4)),
        (
            ("--objective.centring", "sinkhorn", "--objective.repulsion", "0.1", "--objective.repelled-by", "pairs"),
            (1, 4),
        ),
        (("--preset", "contrastive"), (1, 2)),
    ],
    ids=["ema", "sinkhorn", "contrastive"],
)
def test_two_and_four_processes_learn_as_one_does_from_the_same_batches(
    words: tuple[str, ...], numbers: tuple[int, ...], nursery: Nursery, tmp_path: Path
) -> None:
    runs = {}
    for processes in numbers:
        run = tmp_path / f"in_{processes}"
        codes, said = nursery.run(run, processes, *words, *ALL_FRESH, look="plain")
        assert codes == [0] * processes, said
        runs[processes] = outcome(run)
    alone = runs.pop(1)
    assert len(alone.steps) == PAIRS // 8
    for run_of in runs.values():
        for name in ("loss", "grad_norm", "samples", *({"kl"} & alone.steps[0].keys())):
            found, expected = ([step[name] for step in steps] for steps in (run_of.steps, alone.steps))
            assert found == pytest.approx(expected, rel=1e-4), name
        for name, weight in alone.weights.items():
            torch.testing.assert_close(run_of.weights[name], weight, rtol=1e-3, atol=1e-5)
        shards, (whole,) = run_of.state["memory"]["shards"], alone.state["memory"]["shards"]
        for shard in shards:
            assert shard["scale"]["mean"] == pytest.approx(whole["scale"]["mean"], rel=1e-4)
        kl = np.concatenate([shard["priority"] for shard in shards])[
            np.argsort(np.concatenate([s["keys"] for s in shards]))
        ]
        assert kl == pytest.approx(whole["priority"], rel=1e-3, abs=1e-6)
        assert run_of.seqs == alone.seqs == list(range(PAIRS))


def test_weights_and_a_fork_reach_every_process(nursery: Nursery, tmp_path: Path) -> None:
    weights = tmp_path / "student.safetensors"
    export_encoder(Encoder(TINY.encoder), weights, figures={}, settings={})
    started = ("--objective.centring", "ema", "--encoder.weights", str(weights), *ALL_FRESH)
    runs = {processes: tmp_path / f"in_{processes}" for processes in (1, 2)}
    for processes, run in runs.items():
        codes, said = nursery.run(run, processes, *started, look="plain")
        assert codes == [0] * processes, said
        assert f"the start is vit_tiny_patch16_224 from {weights}" in said
    losses = [[step["loss"] for step in outcome(run).steps] for run in runs.values()]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    fork = tmp_path / "fork"
    codes, said = nursery.run(
        fork, 2, "--fork", str(runs[1]), "--memory.capacity", "192", "--max-steps", "1", *ALL_FRESH
    )
    assert codes == [0, 0], said
    left = outcome(fork)
    assert left.seqs[:PAIRS] == list(range(PAIRS))
    shares = [len(shard["keys"]) for shard in left.state["memory"]["shards"]]
    assert min(shares) >= PAIRS // 2, shares


COMMITTING = ("--commit-every-s", "0")
FOR_ANY_NUMBER = ("--pacing.batch-size", "12")


def test_a_process_that_dies_ends_all_and_any_number_of_them_goes_on_without_a_loss(
    nursery: Nursery, tmp_path: Path
) -> None:
    """First one that follows, then the one that leads; what goes on is in 4, 3 and 1."""
    run = tmp_path / "run"
    codes, said = nursery.run(run, 2, *FOR_ANY_NUMBER, "--max-steps", "8")
    assert codes == [0, 0], said
    for processes, dies in ((4, (2, 16)), (3, (0, 24))):
        codes, said = nursery.run(run, processes, *COMMITTING, *FOR_ANY_NUMBER, dies=dies)
        assert codes == [-signal.SIGKILL if rank == dies[0] else 1 for rank in range(processes)], said
        assert "resumed at step" in said
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == (dies[0] != 0)  # who is killed says nothing, and only the first speaks for the others
        assert all("another process of this run is gone" in line for line in errors)
        assert "Traceback" not in said
    codes, said = nursery.run(run, 1, *FOR_ANY_NUMBER)
    assert codes == [0], said
    assert "resumed at step" in said
    result = outcome(run)
    assert [step["step"] for step in result.steps] == list(range(1, PAIRS * 4 // 12 + 1))
    assert result.seqs == list(range(PAIRS))
    assert result.state["counts"]["received"] == PAIRS


def test_a_run_in_two_processes_that_was_killed_ends_as_one_that_never_was(nursery: Nursery, tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    codes, said = nursery.run(straight, 2)
    assert codes == [0, 0], said
    assert nursery.run(killed, 2, "--max-steps", "12")[0] == [0, 0]
    assert nursery.run(killed, 2, *COMMITTING, dies=(1, 30))[0] == [1, -signal.SIGKILL]
    codes, said = nursery.run(killed, 2)
    assert codes == [0, 0], said
    assert "resumed at step" in said
    assert outcome(killed).sums == outcome(straight).sums


IN_CLIPS = ("--memory.clip", "4")
ROOMY = ("--memory.capacity", "192")
"""Memory for every pair, also where a hole cuts clips."""


def test_a_run_of_clips_in_two_processes_that_was_killed_ends_as_one_that_never_was(
    nursery: Nursery, tmp_path: Path
) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    codes, said = nursery.run(straight, 2, *IN_CLIPS)
    assert codes == [0, 0], said
    assert nursery.run(killed, 2, *IN_CLIPS, *COMMITTING, dies=(1, 21))[0] == [1, -signal.SIGKILL]
    codes, said = nursery.run(killed, 2, *IN_CLIPS)
    assert codes == [0, 0], said
    assert "resumed at step" in said
    assert outcome(killed).sums == outcome(straight).sums
    for shard in outcome(killed).state["memory"]["shards"]:
        clips, lengths = np.unique(shard["clips"], return_counts=True)
        assert set(lengths.tolist()) == {4}
        assert np.array_equal(shard["keys"] - shard["clips"], np.tile(np.arange(4), len(clips)))


def test_a_run_of_clips_goes_on_in_another_number_of_processes_without_a_loss(nursery: Nursery, tmp_path: Path) -> None:
    run, pairs = tmp_path / "run", make_pairs(PAIRS)
    pairs[3] = undecodable(3)
    recording = recorded(tmp_path / "walk.mcap", [pair for pair in pairs if pair.header.seq != 30])
    for processes, words in ((2, ("--max-steps", "9")), (1, ("--max-steps", "20")), (2, ())):
        codes, said = nursery.run(run, processes, *IN_CLIPS, *ROOMY, *words, recording=recording)
        assert codes == [0] * processes, said
    result = outcome(run)
    assert result.seqs == [seq for seq in range(PAIRS) if seq not in (3, 30)]
    assert json.loads((run / "summary.json").read_text())["undecodable"] == 1


def undecodable(seq: int) -> EncodedPair:
    """A pair that travels well, but whose left image is none."""
    pair, left = make_pair(seq, codec="jpeg"), b"\xff\xd8\xffno image"
    crc = zlib.crc32(pair.right, zlib.crc32(left))
    return EncodedPair(msgspec.structs.replace(pair.header, crc=crc), left, pair.right)


def test_two_processes_hold_out_what_one_does_and_nothing_is_lost_between_them(
    nursery: Nursery, tmp_path: Path
) -> None:
    held = []
    for processes in (1, 2):
        run = tmp_path / str(processes)
        codes, said = nursery.run(run, processes, "--holdout", "0.5", *ALL_FRESH)
        assert codes == [0] * processes, said
        summary, left = json.loads((run / "summary.json").read_text()), outcome(run)
        reservoir = summary["reservoir"]
        assert summary["pairs_held_out"] == PAIRS // 2
        assert reservoir["kept"] + reservoir["fresh"] + summary["pairs_held_out"] == summary["pairs_received"] == PAIRS
        held.append(sorted(set(left.seqs) - set(trained_seqs(run, left))))
    assert held[0] == held[1]
    assert len(held[0]) == PAIRS // 2 // STRETCH * (STRETCH - 2 * GAP)


def trained_seqs(run: Path, left: Outcome) -> list[int]:
    """The seqs of the pairs in memory."""
    with Store(run / "pairs.sqlite") as store:
        return [unpack(item).header.seq for item in store.items(left.state["memory"]["keys"])]


def test_what_one_process_cannot_use_is_counted_and_named_by_the_first(nursery: Nursery, tmp_path: Path) -> None:
    """A pair that does not decode, and one whose loss is not finite, both in the shard of the second process."""
    run, name = tmp_path / "run", f"baby/{EPOCH[:8]}/"
    pairs = make_pairs(PAIRS)
    pairs[3] = undecodable(3)
    recording = recorded(tmp_path / "walk.mcap", pairs)
    codes, said = nursery.run(run, 2, look="poisoned", recording=recording)
    assert codes == [0, 0], said
    result = outcome(run)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["undecodable"] == 1
    assert summary["reservoir"]["quarantined"] == 1
    assert [step["refused"] for step in result.steps if step["refused"]] == [[f"{name}{POISONED}"]]
    assert result.seqs == [seq for seq in range(PAIRS) if seq not in (3, POISONED)]
    assert result.state["counts"]["samples"] == 8 * (len(result.steps) - 1)


# --- what is refused before any training


@pytest.mark.parametrize(
    ("environment", "process"),
    [
        ({}, Process()),
        ({"WORLD_SIZE": "1", "RANK": "0"}, Process()),
        ({"WORLD_SIZE": "8", "RANK": "5", "LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "1"}, Process(5, 8, 1, 4)),
    ],
)
def test_a_process_takes_the_place_that_torchrun_gives_it(environment: dict[str, str], process: Process) -> None:
    assert process_of(environment) == process


@pytest.mark.parametrize(
    "wrong",
    [
        {"RANK": "2"},
        {"RANK": "-1"},
        {"RANK": ""},
        {"WORLD_SIZE": "two"},
        {"WORLD_SIZE": "0"},
        {"WORLD_SIZE": "4096", "LOCAL_WORLD_SIZE": "4096"},
        {"WORLD_SIZE": "9" * 5000},
        {"LOCAL_RANK": "2"},
        {"LOCAL_WORLD_SIZE": "3"},
    ],
)
def test_a_place_that_does_not_match_the_number_of_processes_is_refused(wrong: dict[str, str]) -> None:
    right = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    with pytest.raises(SettingsError, match=r"is no place among at most 1024 processes: start with torchrun"):
        process_of(right | wrong)


def test_a_batch_or_a_memory_that_does_not_divide_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="capacity 24 and fresh_capacity 16 must be multiples of the 5 processes"):
        Memory(TINY.memory, seed=0, shard=1, shards=5)
    monkeypatch.setattr(collectives, "count", lambda: 3)
    with pytest.raises(SettingsError, match=r"pacing.batch_size 8 must be a multiple of the 3 processes"):
        Learner(TINY, torch.device("cpu"))


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    words = ["--run-dir", "never", "--connect", "tcp://127.0.0.1:9"]
    for name, value in {"WORLD_SIZE": 4, "RANK": 3, "LOCAL_WORLD_SIZE": 4, "LOCAL_RANK": 3}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(SettingsError, match="4 processes need as many GPUs, torch finds 2: lower --nproc-per-node"):
        PROGRAM.run(words, Stop())


def test_json_is_printed_once_by_the_first_process(nursery: Nursery, tmp_path: Path) -> None:
    run = tmp_path / "run"
    codes, printed = nursery.run(run, 2, "--max-steps", "1", "--json")
    assert codes == [0, 0], printed
    assert json.loads(printed)["steps"] == 1
    assert run.with_name("run.1").read_text() == ""


def test_a_setting_that_is_refused_ends_all_processes_and_is_said_once(nursery: Nursery, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for words, message in (
        (("--pacing.batch-size", "9"), "pacing.batch_size 9 must be a multiple of the 2 processes"),
        (("--control", "nowhere"), "nowhere"),  # the others cannot see this one
    ):
        codes, said = nursery.run(run, 2, *words)
        assert codes[0] == 2, said
        assert len(re.findall(f"^error: .*{message}", said, re.MULTILINE)) == len(said.splitlines()) == 1
    assert not run.exists()


def test_processes_go_back_together_where_control_sets_are_forgotten(nursery: Nursery, tmp_path: Path) -> None:
    run = tmp_path / "run"
    watched = (
        *(
            "--control",
            "digits",
            "--control-limit",
            "40",
            "--probe-every-steps",
            "2",
            "--forgetting.patience-probes",
            "1",
        ),
        *("--forgetting.max-errors", "0", "--forgetting.max-loss", "0", "--adapt.plan", "lora", "--adapt.rank", "4"),
        *("--adapt.heads-alone-steps", "3", "--adapt.anchor-patches", "1", "--adapt.learning-rate", "0.1"),
    )
    for processes, steps in ((2, 8), (1, 12)):
        codes, said = nursery.run(run, processes, *watched, "--max-steps", str(steps))
        assert codes == [0] * processes, said
    assert json.loads((run / "summary.json").read_text())["forgetting"]["rollbacks"] >= 1
    lora = outcome(run).state["objective"]
    assert {"lora.up.0", "lora.down.0"} <= lora.keys()
