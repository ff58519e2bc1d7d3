"""The settings of a training command: those of the process, and those that decide the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from device.cli.capture_settings import CaptureSettings, DedupeChoice, Repeat
from learner import legacy
from learner.adapt.config import MOMENTUM, PATIENCE_PROBES, PLANS, planned
from learner.bounds import Choice
from learner.config import PRESETS, LearnerConfig, preset, size_of
from learner.errors import SettingsError
from learner.networks.encoder import EncoderConfig
from learner.objectives.contract import Objective, ObjectiveConfig
from learner.objectives.foreign import objective_named, views_named
from learner.objectives.labels import Labels
from learner.objectives.ntxent import NTXent
from learner.objectives.sums import sum_of
from learner.objectives.table import OBJECTIVES, VIEWS
from learner.pretrained.start import encoder_of, refuse_tag
from learner.runs.settings import settings_of
from learner.service.timing import Limits
from learner.views.contract import ViewsConfig
from stream.host.home import expanded
from stream.host.standins import is_stand_in
from stream.recording.foreign import EyeTopics

HOLDOUT = 0.04
"""Share of the stream that a new run of this command holds out; `preset` holds nothing out, as only the service probes it."""


@dataclass(frozen=True, kw_only=True)
class ProcessConfig:
    """The source of the pairs, and everything this process does beside training; nothing here decides the weights."""

    config: Path | None = None
    """A TOML file with any of these settings, `preset`, `objective` and `views`, as in deploy/learner.toml; a flag wins."""
    connect: tuple[str, ...] = ("tcp://127.0.0.1:5555",)
    """Addresses of the rigs."""
    replay: tuple[Path, ...] = ()
    """Recordings to learn from in place of rigs, one after the other."""
    topics: Annotated[EyeTopics, tyro.conf.arg(name="")] = field(default_factory=EyeTopics)
    source: str | None = None
    """A camera to learn from in this process, in place of a rig: dir:LEFT,RIGHT, dir:FOLDER (one camera), video:FILE, sim,
    v4l2:0,2, and whatever else `python -m device --help` lists."""
    repeat: Repeat = False
    """With --source: play a recording N times; --repeat alone: without end."""
    count: int | None = None
    """With --source: stop after this many shots."""
    dedupe: DedupeChoice = "auto"
    """With --source: off leaves out no shot, neither as seen before nor as junk. auto: off for folders that are repeated."""
    rig: CaptureSettings = field(default_factory=CaptureSettings)
    replay_speed: float = 0.0
    """Speed of the replay, 1 for that of the recording; 0 gives each pair when the learner is ready for it."""
    rectify: tuple[Path, ...] = ()
    """With --replay: a calibration, by which things come into the same row of both images, as for a rig (docs/rig.md)."""
    row_shift_px: int | None = None
    """With --replay: how many pixels lower things are in the right image, which is corrected by cutting rows off; `python -m
    learner doctor` measures it."""
    run_dir: Path = Path("runs/learner")
    """The run directory: settings, pairs, commits, weights and report."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The compute device to train on; auto takes a GPU if there is one."""
    threads: int | None = None
    """Threads of torch on the CPU. None takes all cores except one, divided among the processes of this machine; the last core
    receives pairs, because two busy thread pools on one core slow each other down five times."""
    control: tuple[str, ...] = ("digits",)
    """Control sets to probe on: digits, a folder with a folder per class, the files of MNIST or CIFAR, or a name such as
    cifar100, dogs-vs-cats or imagenet for what lies in the usual folder (docs/control-sets.md). NAME=PATH gives a set a name;
    PATH@SIZE sets the side of its images in pixels (otherwise that of the views that the encoder sees most)."""
    keys: Path | None = None
    """Folder of the keys, which `python -m stream keys` makes. A connection over the network needs keys, from the usual
    folder if none is given; a connection on this machine uses them only if a folder is given."""
    insecure: bool = False
    """Connect without keys: trust every rig that answers, and let everybody on the network see the images."""
    control_limit: int | None = None
    """Largest number of images in each half of a control set, balanced over its classes."""
    until_device_ends: bool = False
    """Stop when every device has announced the end of its stream, in place of waiting for more pairs."""
    limits: Annotated[Limits, tyro.conf.arg(name="")] = field(default_factory=Limits)
    http_port: int = 9632
    """Port of the live page, /metrics for Prometheus, /weights for robots, /healthz and /readyz; 0 serves none of them.
    A port in use is tried again every 10 s; until then the other process answers, so give each learner its own port."""
    http_host: str = "127.0.0.1"
    """Address of that port; 0.0.0.0 means every address of this machine and needs --http-token."""
    http_token: Path | None = None
    """File with the token that the page asks for and that a program sends as `Authorization: Bearer`; it is not encrypted."""
    export_worse: bool = False
    """Export the weights of each commit, also where a guard against forgetting says that they are worse than the start."""
    tensorboard: bool = False
    """Write steps and probes as TensorBoard event files too, into events/ of the run directory."""
    json: bool = False
    """Print only the summary, as JSON."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """All settings: `process` and, from the preset, `learner`."""

    process: Annotated[ProcessConfig, tyro.conf.arg(name="")]
    learner: Annotated[LearnerConfig, tyro.conf.arg(name="")]

    @property
    def json(self) -> bool:
        """Whether the command prints JSON only."""
        return self.process.json


def begin(given: Mapping[str, str]) -> TrainSettings:
    """Return the settings to begin from: those of the run in the run directory, or of preset, objective and views.

    given: the choices, and what `FROM_WORDS` is told, where they are given. So a later version of a preset stops no run.
    Raises SettingsError for an unknown choice, one that is not that of the run, and weights that fit no backbone.
    """
    process = ProcessConfig()
    size, objective = legacy.preset(given.get("preset", next(iter(PRESETS))), given.get("objective"))
    if size not in PRESETS:
        raise SettingsError(f"--preset must be one of {', '.join(PRESETS)}, got {size!r}")
    kind = None if objective is None else objective_named(objective)
    views = None if "views" not in given else views_named(given["views"])
    run = Path(given.get("run_dir") or process.run_dir)
    if (run / "config.json").is_file():
        learner = settings_of(run)
        asked = size if "preset" in given else None
        require_made_with(run, learner, asked, None if kind is None else kind.settings, views, given.get("adapt"))
    elif "fork" in given:
        learner = _forked(given, size if "preset" in given else None, kind, views)
    else:
        new = replace(preset(size, kind, views), holdout=HOLDOUT)
        learner = _adapting(given, size, _starting(given, new))
    return TrainSettings(process=process, learner=learner)


def _adapting(given: Mapping[str, str], size: str, learner: LearnerConfig) -> LearnerConfig:
    """Return the settings with those of the plan that was asked for, and a teacher that follows slowly enough for it."""
    plan = given.get("adapt")
    if plan is None:
        return learner
    if plan not in PLANS:
        raise SettingsError(f"--adapt must be one of {', '.join(PLANS)}, got {plan!r}")
    if "encoder.weights" not in given and "fork" not in given:
        raise SettingsError(f"--adapt {plan} adapts weights: add --encoder.weights FILE, or --fork RUN")
    guard, objective = (
        replace(learner.forgetting, patience_probes=PATIENCE_PROBES),
        _slowed(learner.objective, MOMENTUM[size]),
    )
    return replace(learner, adapt=planned(plan, size), forgetting=guard, objective=objective)


def _slowed(settings: Any, least: float) -> Any:
    """Return settings of an objective, or of a sum of two, with at least this momentum of teachers."""
    slow = {
        name: max(least, getattr(settings, name))
        for name in ("teacher_momentum", "momentum")
        if hasattr(settings, name)
    }
    parts = {name: _slowed(getattr(settings, name), least) for name in ("first", "second") if hasattr(settings, name)}
    return replace(settings, **slow, **parts)


def _forked(
    given: Mapping[str, str], size: str | None, kind: type[Objective[Any]] | None, views: type[ViewsConfig] | None
) -> LearnerConfig:
    """Return the settings of the run that is forked; what was newly chosen brings its own numbers, but keeps the encoder.

    size: the preset that was newly chosen. None: what is chosen beside it has its numbers for the size of the old run.
    """
    if "encoder.weights" in given:
        raise SettingsError(
            "--fork and --encoder.weights exclude each other: a fork starts from the weights of its run"
        )
    old = settings_of(expanded(Path(given["fork"])))
    new = preset(size or size_of(old), kind or type(old.objective).objective, views)
    if kind is None and views is None:
        new = replace(new, objective=old.objective, views=old.views)
    if size is None:
        memory = old.memory if kind is None else replace(old.memory, clip=new.memory.clip)
        new = replace(old, objective=new.objective, views=new.views, memory=memory)
    new = _of_whole_patches(replace(new, encoder=old.encoder, holdout=old.holdout, fork=given["fork"]))
    return _adapting(given, size or size_of(old), new)


def _starting(given: Mapping[str, str], learner: LearnerConfig) -> LearnerConfig:
    """Return the settings with the encoder that a backbone or weights ask for: the sizes of the preset are those of its own."""
    backbone, weights = given.get("encoder.backbone"), given.get("encoder.weights")
    if weights is None:
        refuse_tag(backbone or learner.encoder.backbone)
    if weights is None or is_stand_in(torch):  # no weights can be read then
        is_other = backbone is not None and backbone != learner.encoder.backbone
        return replace(learner, encoder=EncoderConfig(backbone=backbone)) if backbone and is_other else learner
    encoder = EncoderConfig(backbone=backbone, weights=weights) if backbone else encoder_of(weights)
    return _of_whole_patches(replace(learner, encoder=encoder))


def _of_whole_patches(learner: LearnerConfig) -> LearnerConfig:
    """Return the settings with views that the encoder can cut into its patches."""
    encoder = learner.encoder
    patch = encoder.patch_size or int((re.search(r"patch(\d+)", encoder.backbone) or ["", "1"])[1])
    return replace(learner, **{name: _in_patches(getattr(learner, name), patch) for name in ("objective", "views")})


def _in_patches(settings: Any, patch: int) -> Any:
    """Return settings whose sizes of views are the next multiples of the patch size."""
    changed = {}
    for one in fields(settings):
        value = getattr(settings, one.name)
        if isinstance(value, int) and (one.name == "size" or one.name.endswith("_size")):
            changed[one.name] = -(-value // patch) * patch
        elif isinstance(value, Choice):
            changed[one.name] = _in_patches(value, patch)
    return replace(settings, **changed)


def require_made_with(
    run: Path,
    then: LearnerConfig,
    size: str | None,
    kind: type[ObjectiveConfig] | None,
    views: type[ViewsConfig] | None,
    plan: str | None = None,
) -> None:
    """Raise SettingsError if what was chosen is not what the run in a folder was made with; None: it was not chosen."""
    others = [name for name, config in PRESETS.items() if name != size and config.encoder == then.encoder]
    wrong = [
        (size is not None and bool(others), f"--preset {' or '.join(others)}"),
        (kind is not None and not isinstance(then.objective, kind), f"--objective {then.objective.name}"),
        (views is not None and then.views_name != views.name, f"--views {then.views_name}"),
        (plan is not None and then.adapt.plan != plan, f"--adapt {then.adapt.plan}"),
    ]
    for is_wrong, right in wrong:
        if is_wrong:
            raise SettingsError(
                f"--run-dir {run} was made with {right}: choose another --run-dir, or leave out {right.split()[0]} to go on"
            )


def elsewhere(key: tuple[str, ...]) -> list[str]:
    """Return the objectives or the views that have a setting. key: its path in a settings file."""
    objectives = {name: kind.settings for name, kind in OBJECTIVES.items()} | {"A+B": sum_of(NTXent, Labels).settings}
    tables: Mapping[str, Mapping[str, type[Choice]]] = {"objective": objectives, "views": VIEWS}
    kinds = tables.get(key[0], {}) if len(key) == 2 else {}
    return [name for name, kind in kinds.items() if key[1] in {one.name for one in fields(kind)}]


EVERYDAY = (
    *(
        "config",
        "connect",
        "source",
        "replay",
        "run_dir",
        "device",
        "threads",
        "control",
        "keys",
        "insecure",
        "until_device_ends",
    ),
    *("train_s", "max_steps", "probe_every_s", "commit_every_s", "http_port", "http_host", "http_token", "json"),
    *("pacing.replay_ratio", "pacing.batch_size", "memory.capacity", "memory.policy", "seed"),
    *("schedule.learning_rate", "encoder.backbone", "encoder.weights", "fork", "holdout"),
)
"""The flags that --help shows, beside --preset, --objective and --views; --help-all shows all."""
FROM_WORDS: Mapping[str, Any] = {
    "settings": TrainSettings,
    "config_file": True,
    "choices": {"preset": list(PRESETS), "objective": list(OBJECTIVES), "views": list(VIEWS), "adapt": list(PLANS)},
    "told": ("run_dir", "encoder.backbone", "encoder.weights", "fork"),
    "begin": begin,
    "elsewhere": elsewhere,
    "inline": ("process", "learner", "limits", "topics"),
    "old_names": legacy.SETTINGS,
    "everyday": EVERYDAY,
}
"""How a `Command` makes these settings of words and of a file."""
