"""`~` is the home directory wherever a path stands: in flags, in files, in tuples and in nested settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stream.host.command import Command
from stream.host.home import expanded, with_home
from stream.host.program import Result, Stop


@dataclass(frozen=True)
class Inner:
    folder: Path = Path("~/inner")


@dataclass(frozen=True)
class Outer:
    config: Path | None = None
    out: Path | None = None
    files: tuple[Path, ...] = ()
    name: str = "~"
    inner: Inner = field(default_factory=Inner)


def test_every_path_of_settings_is_expanded_and_texts_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/a")
    found = with_home(Outer(out=Path("~"), files=(Path("~/x"), Path("y~"), Path("~b/z"))))
    assert (found.out, found.files) == (Path("/home/a"), (Path("/home/a/x"), Path("y~"), Path("~b/z")))
    assert (found.inner.folder, found.name) == (Path("/home/a/inner"), "~")
    assert expanded(Path("a/~/b")) == Path("a/~/b")


def test_a_command_gets_whole_paths_from_its_flags_and_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rig.toml").write_bytes(b'\xef\xbb\xbfout = "~/runs"\r\n')
    seen: list[Outer] = []

    def run(settings: Outer, _stop: Stop) -> Result:
        seen.append(settings)
        return Result("")

    command = Command(run=run, settings=Outer, description="", config_file=True)
    command.execute(["--config=~/rig.toml", "--files", "~/a", "~/b"], "", Stop())
    assert (seen[0].out, seen[0].files) == (tmp_path / "runs", (tmp_path / "a", tmp_path / "b"))
