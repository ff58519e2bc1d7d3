"""Settings from a TOML file: what is taken, what is refused and how that is said."""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from example_settings import DEPLOY, device_example, learner_example
from hypothesis import given, settings
from hypothesis import strategies as st

from device.__main__ import main as device_main
from device.cli.settings import StreamSettings
from learner.cli.settings import HOLDOUT, TrainSettings
from learner.cli.train import COMMAND
from learner.config import PRESETS
from learner.errors import SettingsError
from stream.host.settings_file import MAX_BYTES, SettingsFile, SettingsFileError, config_of


@dataclass(frozen=True)
class Lens:
    focal_mm: float = 4.0
    names: tuple[str, ...] = ()
    size: tuple[int, int] = (720, 1280)


@dataclass(frozen=True)
class Body:
    config: Path | None = None
    name: str = "rig"
    count: int | None = None
    wide: bool = False
    folder: Path = Path("runs")
    mode: Literal["fast", "slow"] = "fast"
    lens: Lens = field(default_factory=Lens)
    grip: Lens = field(default_factory=Lens)


def read(tmp_path: Path, text: str | bytes) -> SettingsFile:
    path = tmp_path / "rig.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return SettingsFile.read(path)


def test_what_the_file_says_stands_in_the_place_of_the_defaults(tmp_path: Path) -> None:
    text = 'count = 3\nwide = true\nfolder = "/srv/x"\nmode = "slow"\nlens.focal_mm = 6\n'
    body = read(tmp_path, text + '[grip]\nnames = ["a", "b"]\nsize = [1, 2]').over(Body())
    assert body == Body(
        count=3, wide=True, folder=Path("/srv/x"), mode="slow", lens=Lens(6.0), grip=Lens(names=("a", "b"), size=(1, 2))
    )
    assert type(body.lens.focal_mm) is float


def test_fields_of_an_inline_dataclass_stand_beside_its_own(tmp_path: Path) -> None:
    body = read(tmp_path, 'focal_mm = inf\nname = "x"').over(Body(), inline=("lens",))
    assert (body.name, body.lens.focal_mm) == ("x", math.inf)


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, "").over(Body()) == Body()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("wide = true\ncuont = 3", r":2: there is no setting 'cuont': did you mean count\?"),
        ("\n[lens]\nfocal = 3", r":3: there is no setting 'lens.focal': did you mean focal_mm\?"),
        ("[len]\nfocal_mm = 3", r":1: there is no setting 'len': did you mean lens\?"),
        ("zzz = 1", r":1: there is no setting 'zzz': --help lists them; name, count, wide"),
        ('config = "other.toml"', r":1: there is no setting 'config'"),
        ('count = "three"', r":1: count must be a whole number, got 'three'"),
        ("count = 3.5", r":1: count must be a whole number, got 3.5"),
        ("count = true", r":1: count must be a whole number, got True"),
        ("name = 3", r":1: name must be a text in quotes, got 3"),
        ("wide = 1", r":1: wide must be true or false, got 1"),
        ("folder = 1", r":1: folder must be a path in quotes, got 1"),
        ('folder = ""', r":1: folder must be a path in quotes, got ''"),
        ('mode = "quick"', r":1: mode must be one of 'fast', 'slow', got 'quick'"),
        ('lens.focal_mm = "x"', r":1: lens.focal_mm must be a number, got 'x'"),
        ("lens = 3", r":1: lens must be a table \[lens\], got 3"),
        ('lens.names = "x"', r":1: lens.names must be a list, each a text in quotes, got 'x'"),
        ("[lens]\n\nsize = [1, 2, 3]", r":3: lens.size must be a list of 2, got \[1, 2, 3\]"),
        ("count = 1979-05-27", r":1: count must be a whole number"),
        ("count =\n", r" is not TOML: .*line 1"),
        ("count = 1\ncount = 2\n", r" is not TOML: .*line 2"),
        ("x = " + "[" * 5000, r" is not TOML"),
        ("x = " + "9" * 5000, r" is not TOML"),
        (b"name = '\xff'", r" is not UTF-8 text \(at byte 8\)"),
        ("#" * (MAX_BYTES + 1), r" is larger than 65536 bytes"),
    ],
)
def test_what_is_wrong_is_said_with_file_line_and_what_was_expected(
    tmp_path: Path, text: str | bytes, said: str
) -> None:
    with pytest.raises(SettingsFileError, match=rf"^{re.escape(str(tmp_path))}/rig.toml{said}") as refused:
        read(tmp_path, text).over(Body())
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_or_a_folder_is_said(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.toml"):
        with pytest.raises(SettingsFileError, match=rf"^{path} cannot be read: "):
            SettingsFile.read(path)


@settings(max_examples=50)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_file_is_taken_or_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    try:
        read(tmp_path_factory.getbasetemp(), data).over(Body())
    except SettingsFileError as error:
        assert "\n" not in str(error)  # noqa: PT017 - most are refused, not all


@pytest.mark.parametrize("words", [["--config", "a"], ["--config=a"], ["--config", "b", "--x", "--config=a"]])
def test_the_last_file_that_is_named_counts(words: list[str]) -> None:
    assert config_of(words) == Path("a")


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_without_the_flag_there_is_no_file(words: list[str]) -> None:
    assert config_of(words) is None


@pytest.mark.parametrize("words", [["--config"], ["--config="], ["--config", "--json"]])
def test_a_flag_without_a_file_is_said(words: list[str]) -> None:
    with pytest.raises(SettingsFileError, match="--config needs the path of a TOML file"):
        config_of(words)


def test_a_flag_wins_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "learner.toml"
    path.write_text(
        'preset = "cpu"\nmax_steps = 7\nseed = 4\nconnect = ["tcp://127.0.0.1:1"]\n[pacing]\nbatch_size = 64\n'
    )
    settings = COMMAND.parse(["--config", str(path), "--seed", "5"])
    cpu = PRESETS["cpu"]
    pacing = dataclasses.replace(cpu.pacing, batch_size=64)
    assert settings.learner == dataclasses.replace(cpu, seed=5, pacing=pacing, holdout=HOLDOUT)
    assert (settings.process.limits.max_steps, settings.process.connect) == (7, ("tcp://127.0.0.1:1",))
    assert COMMAND.parse(["--config", str(path), "--preset", "gpu"]).learner.encoder == PRESETS["gpu"].encoder


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("probe_every_s = -1", "--probe-every-s must be 0 or more"),
        ("pacing.batch_size = 1", "batch_size"),
        ("max_owed = 1", "max_owed"),
        ('preset = "huge"', "preset must be one of cpu, gpu, got 'huge'"),
        ("preset = []", "preset must be one of"),
    ],
)
def test_what_the_learner_refuses_is_said_with_the_file(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "learner.toml").write_text(text)
    with pytest.raises((SettingsError, SettingsFileError), match=rf"^{tmp_path}/learner.toml.*{said}"):
        COMMAND.parse(["--config", str(tmp_path / "learner.toml")])


@pytest.mark.parametrize(("text", "said"), [("quality = 0", ": --quality must be 1"), ("fbs = 1", ":1: .* fps?")])
def test_what_the_rig_refuses_is_said_with_the_file_and_exit_code_2(
    tmp_path: Path, text: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "device.toml").write_text(text)
    assert device_main(["--config", str(tmp_path / "device.toml")]) == 2
    errors = capfd.readouterr().err
    assert re.fullmatch(rf"error: {tmp_path}/device.toml{said}.*\n", errors), errors


def test_the_examples_are_what_the_settings_say_today() -> None:
    """After a change of the settings: python tests/example_settings.py."""
    assert (DEPLOY / "device.toml").read_text() == device_example()
    assert (DEPLOY / "learner.toml").read_text() == learner_example()


def test_every_setting_in_the_examples_is_explained() -> None:
    for example in (device_example(), learner_example()):
        blocks = re.split(r"\n\n|^\[.*\]\n", example, flags=re.MULTILINE)[1:]
        bare = [block for block in blocks if re.match(r"(# )?[a-z_]+ = ", block)]
        assert bare == []


def test_the_examples_can_be_used_as_they_are_and_with_every_line_in_use(tmp_path: Path) -> None:
    device, learner = (
        SettingsFile.read(DEPLOY / "device.toml").over(StreamSettings()),
        from_learner(DEPLOY / "learner.toml"),
    )
    device.check()
    assert (device.camera, device.name, learner.process.connect) == (
        "v4l2:0,2",
        "rig1",
        ("tcp://rig1.local:5555#rig1",),
    )
    for name in ("device.toml", "learner.toml"):
        alone = r"(?!sbs |tb |fork )"  # these stand instead of left and right, and of weights
        used = re.sub(rf"^# {alone}([a-z_]+ = )", r"\1", (DEPLOY / name).read_text(), flags=re.MULTILINE)
        (tmp_path / name).write_text(used)
    known = {each.name for each in dataclasses.fields(StreamSettings)} - {"config"}
    assert tomllib.loads((tmp_path / "device.toml").read_text()).keys() == known
    SettingsFile.read(tmp_path / "device.toml").over(StreamSettings()).check()
    assert from_learner(tmp_path / "learner.toml").process.threads == 3


def from_learner(path: Path) -> TrainSettings:
    settings: TrainSettings = COMMAND.parse(["--config", str(path)])
    return settings
