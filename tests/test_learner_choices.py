"""Size, objective and views are three words; a run keeps its settings; an objective may come from another folder."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from learner_state import trained
from recorded import recorded
from tiny_learner import FLAGS, make_pairs, tiny_learner
from waiting import until

from learner.cli.settings import HOLDOUT
from learner.cli.train import COMMAND
from learner.config import PRESETS, LearnerConfig, preset, to_plain
from learner.errors import SettingsError
from learner.objectives.babyagent import BabyAgent
from learner.objectives.contrastive import Contrastive
from learner.objectives.joint.simclr import SimCLR, SimCLRConfig
from learner.objectives.pretext.rotation import Rotation, RotationConfig
from learner.runs.folder import RunDirectory
from learner.trainer import Trainer
from learner.views.anywhere import MultiConfig, TwoConfig
from stream.errors import ReportedError

ROOT = Path(__file__).parents[1]


def settings(*words: str) -> LearnerConfig:
    learner: LearnerConfig = COMMAND.parse([*words]).learner
    return learner


def new(config: LearnerConfig) -> LearnerConfig:
    """The settings of a new run of the command, which holds out a share of the stream."""
    return dataclasses.replace(config, holdout=HOLDOUT)


def refusal(*words: str) -> str:
    with pytest.raises(ReportedError) as refused:
        settings(*words)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[objective]\nstudent_temperature = 0.1", '"babyagent" in [objective]'),
        ("[objective]\nfirst = {temperature = 1.0}", '"A+B" in [objective]'),
        ("[views]\nhidden = 0.5", '"masks" in [views]'),
        ("[objective]\ntemprature = 0.5", "did you mean temperature?"),
        ("[objective]\nnowhere = 1", "decay_biases, "),
    ],
)
def test_a_file_with_numbers_of_another_objective_or_views_says_whose_they_are(
    text: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "learner.toml"
    path.write_text(text)
    refused = refusal("--config", str(path), "--run-dir", str(tmp_path / "run"))
    assert refused.startswith(f"{path}:2: there is no setting '")
    assert said in refused


@pytest.mark.parametrize(
    ("flag", "choice"),
    [("--objective.student-temperature", "--objective babyagent"), ("--views.hidden", "--views masks")],
)
def test_a_flag_of_another_objective_or_other_views_says_whose_it_is(flag: str, choice: str) -> None:
    for words in ([flag, "0.5"], [f"{flag}=0.5"]):
        refused = refusal(*words)
        assert refused.startswith(f"there is no {flag}: it is a setting of ")
        assert refused.endswith(f"choose one with {choice}, or leave it out")
    table, name = choice.split()
    settings("--objective", "mae" if name == "masks" else name, table, name, flag, "0.5")


def test_a_flag_that_nobody_has_is_refused_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        settings("--objective.temprature", "0.5")
    assert "Unrecognized options" in capsys.readouterr().err


def test_size_objective_and_views_are_chosen_apart() -> None:
    assert settings() == new(PRESETS["cpu"])
    assert settings("--preset", "gpu") == new(PRESETS["gpu"])
    assert settings("--objective=simclr") == new(preset("cpu", SimCLR))
    assert settings("--objective", "simclr", "--views", "multi") == new(preset("cpu", SimCLR, MultiConfig))
    changed = settings("--objective", "simclr", "--objective.temperature", "0.5", "--views.size", "40")
    assert isinstance(changed.objective, SimCLRConfig)
    assert isinstance(changed.views, TwoConfig)
    assert (changed.objective.temperature, changed.views.size) == (0.5, 40)


@pytest.mark.parametrize(
    ("old", "size", "objective"), [("babyagent", "gpu", "babyagent"), ("contrastive", "cpu", "contrastive")]
)
def test_an_old_preset_still_works_and_says_what_to_type(
    old: str, size: str, objective: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = settings("--preset", old)
    assert capsys.readouterr().err == f"--preset {old} is called --preset {size} --objective {objective} now\n"
    assert found == settings("--preset", size, "--objective", objective)


def test_a_file_chooses_them_too(tmp_path: Path) -> None:
    path = tmp_path / "learner.toml"
    path.write_text('preset = "cpu"\nviews = "multi"\n[objective]\nname = "simclr"\ntemperature = 0.5\n')
    found = settings("--config", str(path))
    assert found == dataclasses.replace(new(preset("cpu", SimCLR, MultiConfig)), objective=found.objective)
    assert isinstance(found.objective, SimCLRConfig)
    assert found.objective.temperature == 0.5
    assert settings("--config", str(path), "--views", "two").views == TwoConfig.for_preset("cpu")


def test_what_is_not_given_comes_from_the_run_so_that_an_upgrade_stops_none(tmp_path: Path) -> None:
    """Not even where the default objective has become another one."""
    then = preset("cpu", BabyAgent)
    before = dataclasses.replace(then, seed=7, schedule=dataclasses.replace(then.schedule, warmup_steps=9))
    RunDirectory(tmp_path / "run", before)
    for words in ((), ("--preset", "cpu"), ("--objective", "babyagent"), ("--seed", "7")):
        found = settings("--run-dir", str(tmp_path / "run"), *words)
        assert found == before
        RunDirectory(tmp_path / "run", found)
    path = tmp_path / "learner.toml"
    path.write_text(f'preset = "cpu"\nrun_dir = "{tmp_path / "run"}"\n')
    assert settings("--config", str(path)) == before
    with pytest.raises(SettingsError, match=r"made with other settings \(now, then: seed: 8, 7\)"):
        RunDirectory(tmp_path / "run", settings("--run-dir", str(tmp_path / "run"), "--seed", "8"))


def test_a_run_of_another_choice_is_refused_in_one_line(tmp_path: Path) -> None:
    RunDirectory(tmp_path, preset("cpu", Contrastive))
    run = ("--run-dir", str(tmp_path))
    made = f"--run-dir {tmp_path} was made with"
    assert refusal(*run, "--objective", "simclr").startswith(
        f"{made} --objective contrastive: choose another --run-dir"
    )
    assert refusal(*run, "--preset", "gpu").startswith(f"{made} --preset cpu")
    assert refusal(*run, "--views", "two").startswith(f"{made} --views guided: choose another --run-dir")
    assert settings(*run, "--views", "guided") == preset("cpu", Contrastive)


def test_a_run_of_several_small_crops_is_not_gone_on_with_as_one_of_two(tmp_path: Path) -> None:
    for kind in (SimCLR, Contrastive):
        run = tmp_path / kind.__name__
        RunDirectory(run, preset("cpu", kind, MultiConfig))
        assert refusal("--run-dir", str(run), "--views", "two").startswith(
            f"--run-dir {run} was made with --views multi: choose another --run-dir"
        )
        assert settings("--run-dir", str(run)) == preset("cpu", kind, MultiConfig)


STRANGE = """
from dataclasses import dataclass, replace
from learner.objectives.contract import Objective, ObjectiveConfig
from learner.objectives.pretext.rotation import Rotation, RotationConfig
from learner.views.anywhere import TwoConfig

class Nothing: pass

@dataclass(frozen=True, kw_only=True)
class UntypedConfig(ObjectiveConfig):
    takes = (TwoConfig,)
    temperature = 0.2

class Untyped(Objective[UntypedConfig]):
    def forward(self, batch, generator): ...

@dataclass(frozen=True, kw_only=True)
class BareConfig(ObjectiveConfig):
    takes = (TwoConfig,)
    width: int

class Bare(Objective[BareConfig]):
    def forward(self, batch, generator): ...

class Abstract(Objective[UntypedConfig]): pass

class Heir(Rotation, Objective[RotationConfig]):
    pass

class Unset(Objective):
    def forward(self, batch, generator): ...

@dataclass(frozen=True, kw_only=True)
class NamelessConfig(ObjectiveConfig):
    takes = (TwoConfig,)

class Nameless(Objective[NamelessConfig]):
    def forward(self, batch, generator): ...

@dataclass(frozen=True, kw_only=True)
class WordyConfig(RotationConfig): pass

class Wordy(Rotation, Objective[WordyConfig]):
    meanings = {"right": "share of the views"}

@dataclass(frozen=True, kw_only=True)
class MeanConfig(RotationConfig): pass

class Mean(Rotation, Objective[MeanConfig]):
    def forward(self, batch, generator):
        found = super().forward(batch, generator)
        return replace(found, losses=found.losses.mean())
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("simcrl", "--objective must be one of babyagent, contrastive"),
        ("no_such_module:Thing", "cannot be imported"),
        ("strange:Missing", "cannot be imported"),
        ("broken:Thing", "cannot be imported"),
        ("strange:Nothing", "it is no class that inherits from Objective"),
        ("strange:Untyped", "its setting temperature has no type: write temperature: float = 0.2"),
        ("strange:Bare", "its setting width has no default"),
        ("strange:Abstract", "it has no forward"),
        ("strange:Unset", "its settings must be a dataclass"),
        ("strange:Heir", "RotationConfig belongs to Rotation: write a class of settings that inherits from it"),
    ],
)
def test_a_class_that_is_no_objective_is_refused_in_one_line(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strange.py").write_text(STRANGE)
    (tmp_path / "broken.py").write_text("import this is\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert said in refusal("--objective", name)
    assert RotationConfig.objective is Rotation


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("unkept:Nameless", "it has no attribute `student` that is a Network; docs/objectives.md has an example"),
        ("unkept:Wordy", r"the meaning of right must be a Meaning\(unit, text\)"),
        ("unkept:Mean", r"its losses have shape \[\], and must have one for each of the 4 pairs"),
    ],
)
def test_an_objective_that_keeps_no_contract_says_what_it_lacks(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unkept.py").write_text(STRANGE)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsError, match=said):
        trained(tiny_learner(settings("--objective", name, "--pacing.batch-size", "4")), make_pairs(4))


def test_views_and_backbones_that_do_not_fit_are_refused_in_one_line() -> None:
    assert "cannot take views masks: choose --views two" in refusal("--objective", "simclr", "--views", "masks")
    assert "cannot take views two: choose --views masks" in refusal("--objective", "mae", "--views", "two")
    with pytest.raises(
        SettingsError,
        match=r"^objective: crops must be at least 2 to repel each other, got 1: repelled_by pairs needs one$",
    ):
        Trainer(
            settings("--objective", "babyagent", "--views", "two", "--objective.repelled-by", "crops"),
            torch.device("cpu"),
        )
    assert refusal("--views", "everywhere").startswith("--views must be one of")
    assert settings("--encoder.backbone", "resnet18").encoder.timm_arguments() == {"num_classes": 0}


@pytest.fixture
def stranger(tmp_path: Path) -> dict[str, str]:
    """The environment of somebody who installed a package with the objective of examples/ in a folder of his own."""
    package, info = tmp_path / "site" / "strangers", tmp_path / "site" / "strangers-1.0.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").touch()
    (package / "turned.py").write_text((ROOT / "examples" / "own_objective.py").read_text())
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[babyagent.objectives]\nturned = strangers.turned:Rotation\n")
    return os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path / 'site'}", "OMP_NUM_THREADS": "1"}


def test_an_objective_from_another_folder_is_trained_killed_resumed_and_reported(
    tmp_path: Path, stranger: dict[str, str]
) -> None:
    """Three processes start, because a stranger's package is not importable in this one."""
    recording, run = recorded(tmp_path / "walk.mcap", make_pairs(60)), tmp_path / "run"
    flags = [word for pair in zip(FLAGS[::2], FLAGS[1::2], strict=True) if "objective" not in pair[0] for word in pair]
    common = [sys.executable, "-m", "learner", "--replay", str(recording), "--run-dir", str(run), "--http-port", "0"]
    first = [*common, *flags, "--objective", "turned", "--objective.temperature", "0.5", "--memory.capacity", "64"]
    first += ["--memory.fresh-capacity", "16", "--commit-every-s", "0.01", "--probe-every-s", "1e9"]
    process = subprocess.Popen(first, env=stranger, cwd=tmp_path)
    until(lambda: list(run.glob("checkpoints/commit-*")) or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = subprocess.run(
        [*common, "--threads", "1", "--control-limit", "40"], env=stranger, cwd=tmp_path, timeout=400
    )
    assert again.returncode == 0
    objective = json.loads((run / "config.json").read_bytes())["objective"]
    assert (objective["name"], objective["temperature"]) == ("strangers.turned:Rotation", 0.5)
    summary = json.loads((run / "summary.json").read_bytes())
    assert summary["pairs_received"] == 60
    assert "feature_rank" in summary["gauges_last"]
    page = (run / "report.html").read_text()
    assert "No control set was probed" not in page
    assert "captured from" in page


def test_the_settings_of_an_objective_are_in_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        settings("--objective", "examples.own_objective:Rotation", "--help")
    said = capsys.readouterr().out
    assert "--objective.temperature" in said
    assert "Of the softmax over the four turns" in " ".join(said.split())
    assert to_plain(settings("--objective", "examples.own_objective:Rotation"))["objective"] == {
        "name": "examples.own_objective:Rotation",
        "decay_biases": False,
        "temperature": 1.0,
    }
