"""The example files of deploy/ are generated from the settings: `python tests/example_settings.py` writes them again."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import math
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from device.cli.settings import StreamSettings
from learner.cli.settings import begin
from learner.config import PRESETS

DEPLOY = Path(__file__).parents[1] / "deploy"
PRESET = "gpu"
HEAD = """# Settings of the {side}: python -m {side} --config FILE. Flags win over it.
# What is commented out is {what}.
# Relative paths begin where the process does.
"""
DEVICE = {"camera": "v4l2:0,2", "bind": "tcp://*:5555", "name": "rig1", "metrics_port": 9633}
LEARNER = {"connect": ("tcp://rig1.local:5555#rig1",), "run_dir": Path("runs/rig")}
"""What the examples set."""
UNSET: Mapping[str, Any] = {
    "keys": Path("/etc/babyagent/keys"),
    "name": "rig1",
    "fps": 15.0,
    "source": "dir:/srv/left,/srv/right",
    "exposure_us": 8000.0,
    "tolerance_ms": 10.0,
    "left": "/camera/left/image_raw",
    "right": "/camera/right/image_raw",
    "sbs": "/camera/image_raw",
    "tb": "/camera/image_raw",
    "levels": (0.0, 4095.0),
    "row_shift_px": 3,
    "count": 1000,
    "signals": "lab:read",
    "size": "1280x720",
    "textures": Path("/srv/photographs"),
    "target_per_hour": 600.0,
    "spool_gib": 8.0,
    "loss_weight": 1.0,
    "half_life": math.inf,
    "noise": 1.0,
    "uniform_floor": 0.25,
    "http_token": Path("/etc/babyagent/http-token"),
    "threads": 3,
    "control_limit": 1000,
    "train_s": 3600.0,
    "max_steps": 100_000,
    "probe_every_steps": 500,
    "image_size": 224,
    "patch_size": 16,
    "embed_dim": 384,
    "depth": 12,
    "heads": 6,
    "weights": "dinov2_vits14_pretrain.pth",
    "pool": "token",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "fork": "runs/last",
    "learning_rate": 1e-4,
}
"""A possible value of what has none by default."""


def device_example() -> str:
    lines = _table(StreamSettings(), DEVICE, "", frozenset())
    return "\n".join([HEAD.format(side="device", what="the default, or (unset) a possible value"), *lines])


def learner_example() -> str:
    settings = begin({"preset": PRESET, "run_dir": "nowhere"})
    what = f"the default of preset {PRESET}, or (unset) a possible value"
    preset = [f"# The settings to begin from: {', '.join(PRESETS)}.", f'preset = "{PRESET}"', ""]
    lines = _table(settings, LEARNER, "", frozenset({"process", "learner", "limits", "topics"}))
    return "\n".join([HEAD.format(side="learner", what=what), *preset, *lines])


def _table(settings: Any, chosen: Mapping[str, Any], name: str, inline: frozenset[str]) -> Iterator[str]:
    """First what stands in the table itself, then the tables in it."""
    tables = []
    for field, value, text in _described(settings, inline):
        if dataclasses.is_dataclass(value):
            tables.append((f"{name}.{field}".lstrip("."), value, text))
            continue
        yield from (f"# {line}" for line in textwrap.wrap(" ".join(text.split()), 118))
        if field in chosen:
            yield f"{field} = {_toml(chosen[field])}"
        elif value is None:
            yield f"# {field} = {_toml(UNSET[field])}  # unset"
        else:
            yield f"# {field} = {_toml(value)}"
        yield ""
    for path, value, _ in tables:
        yield f"[{path}]"
        yield from _table(value, {}, path, inline)


def _described(settings: Any, inline: frozenset[str]) -> Iterator[tuple[str, Any, str]]:
    texts = _texts(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name in inline:
            yield from _described(value, inline)
        elif field.name != "config":
            yield field.name, value, texts.get(field.name, "")


def _texts(kind: type) -> dict[str, str]:
    """The text under each field, from the source."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                assert isinstance(field.target, ast.Name)
                texts[field.target.id] = str(text.value.value)
    return texts


def _toml(value: Any) -> str:
    match value:
        case bool() | str() | Path():
            return json.dumps(str(value) if isinstance(value, Path) else value)
        case tuple():
            return f"[{', '.join(_toml(part) for part in value)}]"
        case float() if math.isinf(value):
            return "inf"
        case _:
            return repr(value)


if __name__ == "__main__":
    (DEPLOY / "device.toml").write_text(device_example())
    (DEPLOY / "learner.toml").write_text(learner_example())
