"""A branch for settled weights: it reads a run, beside the learner too, and the run is bit for bit as if there had been none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from committing import run as training
from learner_state import digest
from safetensors.torch import load_file
from tiny_learner import TINY, committed

from learner.__main__ import PROGRAM
from learner.errors import SettingsError
from learner.runs.folder import RunDirectory
from learner.schedule import cooldown_factor, learning_rate
from learner.weights.cooldown import branch, cool_down
from stream.host.program import Stop

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Committed at step 12."""
    path = tmp_path_factory.mktemp("runs") / "run"
    with training(path) as learner:
        learner.train(12)
        learner.committer.finish()
    return path


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_run, tmp_path / "run"))


def cool(run: Path, *words: str, stopped: bool = False) -> str:
    """The text of the command."""
    stop = Stop()
    if stopped:
        stop.set()
    return PROGRAM.run(["cooldown", str(run), *words], stop).text


def contents(run: Path) -> dict[str, bytes]:
    """All files but what SQLite keeps beside its own while somebody reads."""
    files = (path for path in run.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm")))
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def test_the_rate_falls_from_the_whole_one_along_a_line_towards_nothing(run: Path) -> None:
    assert [cooldown_factor(step, 4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
    learner, _ = branch(run, CPU)
    assert learner.steps == 12
    rates = [report.learning_rate for report in cool_down(learner, 4)]
    assert rates == pytest.approx([learning_rate(TINY.schedule, 12) * share for share in (1.0, 0.75, 0.5, 0.25)])
    assert learner.received == committed(run).received


def test_a_branch_changes_nothing_of_its_run_but_what_it_exports(run: Path) -> None:
    before = contents(run)
    said = json.loads(cool(run, "--steps", "5", "--json"))
    after = contents(run)
    assert {name: after[name] for name in before} == before
    made = {f"export/cooldown-{who}.{kind}" for who in ("student", "teacher") for kind in ("safetensors", "json", "md")}
    assert set(after) - set(before) == made
    assert (said["from_step"], said["cooldown_steps"]) == (12, 5)
    card = json.loads(after["export/cooldown-student.json"])
    assert {**card["figures"], "exported": said["exported"]} == said
    arguments = card["arguments"]
    timm.create_model(card["backbone"], checkpoint_path=run / "export" / "cooldown-student.safetensors", **arguments)


def test_a_run_with_branches_beside_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    """Off the first commit, while the learner has the store open and goes on training; and off the second one."""
    with training(tmp_path / "alone") as alone:
        alone.train(24)
        alone.committer.finish()
    with training(tmp_path / "run") as learner:
        for steps in (12, 12):
            learner.train(steps)
            learner.committer.finish()
            other, _ = branch(tmp_path / "run", CPU)
            assert digest(other) == digest(learner.learner)
            learner_before = digest(learner.learner)
            assert len(list(cool_down(other, 6))) == 6
            assert digest(learner.learner) == learner_before != digest(other)
    assert digest(committed(tmp_path / "run")) == digest(committed(tmp_path / "alone"))


def test_the_same_branch_twice_gives_the_same_weights(run: Path) -> None:
    weights = []
    for _ in range(2):
        assert "cooled down from step 12: loss " in cool(run, "--steps", "3")
        weights.append((run / "export" / "cooldown-teacher.safetensors").read_bytes())
    assert weights[0] == weights[1]
    exported = load_file(run / "export" / "cooldown-student.safetensors")
    student = committed(run).objective.encoders()["student"].backbone.state_dict()
    assert any(not torch.equal(exported[name], student[name]) for name in exported)


def test_a_run_without_a_commit_and_a_folder_without_a_run_are_refused_and_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none is no run, it has no config\.json"):
        branch(tmp_path / "none", CPU)
    RunDirectory(tmp_path / "new", TINY)
    with pytest.raises(SettingsError, match="has no commit yet: wait for the first one"):
        branch(tmp_path / "new", CPU)
    with training(tmp_path / "empty") as learner:
        learner.committer.finish()
    with pytest.raises(SettingsError, match="has no pair in memory to cool down on"):
        branch(tmp_path / "empty", CPU)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "empty"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["config.json"]
    assert not (tmp_path / "empty" / "export").exists()


def test_a_branch_that_is_stopped_leaves_nothing(run: Path) -> None:
    before = contents(run)
    assert cool(run, "--steps", "5", stopped=True) == "stopped after 0 of 5 steps: nothing was written"
    assert contents(run) == before


def test_what_cannot_work_is_refused_before_anything_is_written(run: Path) -> None:
    before = contents(run)
    with pytest.raises(SettingsError, match=r"--steps and --threads must be at least 1, got 0 and 1"):
        cool(run, "--steps", "0")
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match="finds no GPU here"):
            cool(run, "--device", "cuda")
    assert contents(run) == before


def test_its_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        PROGRAM.run(["cooldown", "--help"], Stop())
    assert ended.value.code == 0
    assert "while a learner works there" in " ".join(capsys.readouterr().out.split())
