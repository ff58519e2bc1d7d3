"""The proof: a replay that is killed anywhere and started again ends with the same weights, bit for bit.

Learners are forked from one process that has loaded torch, so that each takes tenths of a second to start; otherwise they are
`python -m learner` as a person runs it, and they end by a signal that nothing catches, by a full disk or at their end.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from learner_state import leaves
from tiny_learner import FLAGS, make_pairs

from buffer.store import Store
from learner.runs.checkpoint import load_checkpoint
from learner.runs.note import COMMIT
from stream.recording.writer import RecordingWriter

ROOT = Path(__file__).parents[1]
PAIRS = 120
SMALL = (
    *("--control", *FLAGS, "--memory.canvas", "24", "32", "--memory.capacity", "64", "--memory.fresh-capacity", "64"),
    *("--http-port", "0", "--commit-every-s", "0"),
)
"""No control sets: a life is short enough without probes."""

NURSERY = """
import itertools, json, os, resource, signal, sys

import buffer.store, buffer.store_file, learner.runs.checkpoint, learner.cli.compose
from learner.__main__ import main

def kill_at(owner, name, count):
    whole, left = getattr(owner, name), itertools.count(count, -1)
    def killed(*arguments, **named):
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*arguments, **named)
    setattr(owner, name, killed)

def fault(kind, count):
    if kind == "before the transaction":
        kill_at(buffer.store.Store, "commit", count)
    elif kind == "in the transaction":
        kill_at(buffer.store_file.StoreFile, "_forget_unnamed", count)
    elif kind == "after the transaction":
        kill_at(learner.runs.checkpoint.CheckpointFolder, "remove", count)
    elif kind == "disk full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (count, count))

def die_after(cpu_s):
    restore = learner.cli.compose.restore
    def restored(*arguments):
        cursor = restore(*arguments)
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        return cursor
    learner.cli.compose.restore = restored

def live(task):
    said = os.open(task["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    fault(*task["fault"])
    try:
        return main(task["words"])
    except SystemExit as ended:
        return ended.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()

for line in sys.stdin:
    task = json.loads(line)
    pid = os.fork()
    if not pid:
        code = 3
        try:
            if task["dies_after_cpu_s"]:
                die_after(task["dies_after_cpu_s"])
            code = live(task)
        finally:
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@dataclass
class Nursery:
    """Forks learners over a recording."""

    process: subprocess.Popen[str]
    recording: Path

    def learner(
        self, run: Path, *words: str, dies_after_cpu_s: float = 0.0, fault: tuple[str, int] = ("", 0)
    ) -> tuple[int, str]:
        """One life of a learner: its exit code, and what it said.

        dies_after_cpu_s: it is killed after so much work of its own behind its last commit, by SIGPROF; 0: it is not.
        """
        said = run.with_suffix(".said")
        command = [*SMALL, "--replay", str(self.recording), "--run-dir", str(run), *words]
        task = {"words": command, "fault": fault, "dies_after_cpu_s": dies_after_cpu_s, "said": str(said)}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(task), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline()), said.read_text()


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    recording = tmp_path_factory.mktemp("recording") / "walk.mcap"
    writer = RecordingWriter(recording)
    for pair in make_pairs(PAIRS):
        writer.write(pair)
    writer.close()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", NURSERY],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield Nursery(process, recording)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def straight(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a learner comes to that nobody disturbs."""
    run = tmp_path_factory.mktemp("straight") / "run"
    code, said = nursery.learner(run)
    assert code == 0, said
    result = outcome(run)
    assert result["losses"][-1][0] == PAIRS * 4 // 8
    return result


def outcome(run: Path) -> dict[str, Any]:
    """Everything that a run leaves and that no clock decides, down to the last bit."""
    with Store(run / "pairs.sqlite") as store:
        newest = store.commits()[0]
        items = list(store.items(newest.keys))
    note = json.loads(newest.note)
    state = load_checkpoint(run / "checkpoints" / note["folder"])
    del state[COMMIT]  # it names the store, and each commit has another number
    lines = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    return {
        "state": dict(leaves(state)),
        "weights": [(run / "export" / f"{name}.safetensors").read_bytes() for name in ("student", "teacher")],
        "cursor": note["cursor"],
        "keys": newest.keys.tolist(),
        "items": items,
        "losses": [(line["step"], line["loss"]) for line in lines],
    }


def test_a_learner_killed_again_and_again_ends_as_one_that_never_was(
    nursery: Nursery, straight: dict[str, Any], tmp_path: Path
) -> None:
    draw, resumed, lives = random.Random(1), set[str](), 0
    while len(resumed) < 3 or lives < 10:
        lives += 1  # they grow longer: how much of a learner's work is a step depends on the machine
        code, said = nursery.learner(tmp_path / "run", dies_after_cpu_s=draw.uniform(0.001, 0.05 * lives))
        assert code == -signal.SIGPROF or resumed, said
        resumed.update(re.findall(r"resumed at step (\d+)", said))
        if code == 0:
            break
    assert len(resumed) > 1
    code, said = nursery.learner(tmp_path / "run")
    assert code == 0, said
    assert outcome(tmp_path / "run") == straight


COLLAPSING = ("--objective.teacher-temperature", "1", "--objective.repulsion", "0", "--guard.patience-steps", "7")
"""Every seventh step ends in a rollback."""


def test_a_learner_that_rolls_back_ends_the_same_however_often_it_is_killed(nursery: Nursery, tmp_path: Path) -> None:
    flags = (*COLLAPSING, "--guard.max-rollbacks", "9", "--guard.snapshot-every-steps", "5")
    assert nursery.learner(tmp_path / "whole", *flags)[0] == 0
    for count in (1, 0, 2, 1):
        code, said = nursery.learner(tmp_path / "killed", *flags, fault=("after the transaction", count))
        assert code == -signal.SIGKILL, said
    code, said = nursery.learner(tmp_path / "killed", *flags)
    assert code == 0, said
    killed, whole = outcome(tmp_path / "killed"), outcome(tmp_path / "whole")
    for each in (killed, whole):  # of the newest commit that was in no doubt, and commits go by the clock
        assert each.pop("weights")
    assert killed == whole
    summary = json.loads((tmp_path / "killed" / "summary.json").read_text())
    assert summary["rollbacks"] == PAIRS * 4 // 8 // 7


def test_a_learner_that_holds_pairs_out_ends_the_same_however_often_it_is_killed(
    nursery: Nursery, tmp_path: Path
) -> None:
    flags = ("--holdout", "0.4", "--memory.capacity", "128", "--memory.fresh-capacity", "128", "--probe-every-s", "0")
    assert nursery.learner(tmp_path / "whole", *flags)[0] == 0
    for count in (2, 0, 1):
        code, said = nursery.learner(tmp_path / "killed", *flags, fault=("before the transaction", count))
        assert code == -signal.SIGKILL, said
    code, said = nursery.learner(tmp_path / "killed", *flags)
    assert code == 0, said
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    summary = json.loads((tmp_path / "killed" / "summary.json").read_text())
    reservoir = summary["reservoir"]
    assert summary["pairs_held_out"] == PAIRS * 4 // 10
    assert reservoir["kept"] + reservoir["fresh"] + summary["pairs_held_out"] == summary["pairs_received"] == PAIRS
    assert summary["stream_probe"]["student"]["right_start"] is not None, said


def test_a_learner_of_clips_ends_the_same_however_often_it_is_killed(nursery: Nursery, tmp_path: Path) -> None:
    flags = ("--memory.clip", "5", "--holdout", "0.2")
    assert nursery.learner(tmp_path / "whole", *flags)[0] == 0
    draw, killed = random.Random(2), 0
    for life in range(1, 5):
        code, said = nursery.learner(tmp_path / "killed", *flags, dies_after_cpu_s=draw.uniform(0.01, 0.1 * life))
        killed += code == -signal.SIGPROF
        assert code in (0, -signal.SIGPROF), said
    code, said = nursery.learner(tmp_path / "killed", *flags)
    assert code == 0, said
    assert killed
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    reservoir = json.loads((tmp_path / "killed" / "summary.json").read_text())["reservoir"]
    assert reservoir["kept"] > 3 * reservoir["clips"]


def test_a_learner_that_collapses_again_and_again_ends_with_one_line_and_exit_code_1(
    nursery: Nursery, tmp_path: Path
) -> None:
    code, said = nursery.learner(tmp_path / "run", *COLLAPSING)
    assert code == 1, said
    assert re.fullmatch(
        r"error: the networks collapsed 4 times in a row, .*; look at the pairs .*", said.splitlines()[-1]
    )
    assert "Traceback" not in said
    with Store(tmp_path / "run" / "pairs.sqlite") as store:
        assert json.loads(store.commits()[0].note)["folder"].endswith("-step-28")


MOMENTS = {
    "before the transaction": (0, 1, 1),  # of the first commit of a run, then of the second of a life
    "in the transaction": (0, 1, 2, 3),  # that goes back to the last commit, then those of the commits
    "after the transaction": (0, 1, 2),  # of a commit that replaces an earlier one
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_around_the_instant_of_a_commit_changes_nothing(
    moment: str, nursery: Nursery, straight: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for count in MOMENTS[moment]:
        code, said = nursery.learner(run, fault=(moment, count))
        assert code == -signal.SIGKILL, said
    code, said = nursery.learner(run)
    assert code == 0, said
    assert "resumed at step" in said
    assert outcome(run) == straight


def test_a_disk_that_fills_up_ends_it_with_one_line_and_it_goes_on_when_there_is_room(
    nursery: Nursery, straight: dict[str, Any], tmp_path: Path
) -> None:
    """Too small for the weights. `tests/test_buffer_store_killed.py` has one that is too small for the pairs."""
    run = tmp_path / "run"
    code, said = nursery.learner(run, fault=("disk full", 300_000))
    assert code == 1, said
    assert re.fullmatch(
        "error: .*checkpoints/commit-.*: make room on its disk, then start again", said.splitlines()[-1]
    )
    assert "Traceback" not in said
    assert nursery.learner(run)[0] == 0
    assert outcome(run) == straight


def test_a_flipped_bit_in_the_newest_state_is_said_and_the_run_ends_the_same(
    nursery: Nursery, straight: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    code, said = nursery.learner(run, "--max-steps", "20")
    assert code == 0, said
    newest = max((run / "checkpoints").iterdir()) / "tensors.safetensors"
    data = bytearray(newest.read_bytes())
    data[len(data) // 3] ^= 1
    newest.write_bytes(data)
    code, said = nursery.learner(run)
    assert code == 0, said
    assert "is damaged" in said
    assert "going on from the commit before" in said
    assert outcome(run) == straight
