"""Commands that are printed to be typed work as they stand; what a person asks of a program needs no torch."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT, environment

from device.__main__ import PROGRAM as DEVICE
from learner.__main__ import PROGRAM as LEARNER
from stream.__main__ import PROGRAM as STREAM
from stream.host.program import Program, Stop
from stream.host.standins import standing_in
from stream.host.typed import here, there


def test_a_command_for_this_machine_begins_as_this_program_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    monkeypatch.setattr(sys, "argv", [str(folder / "stream" / "__main__.py")])
    monkeypatch.setattr(sys, "executable", str(folder / "python9"))
    assert shlex.split(here("stream", "keys", keys=Path("my keys"))) == [
        *(str(folder / "python9"), "-m", "stream", "keys", "--keys", "my keys")
    ]
    monkeypatch.chdir(tmp_path)
    assert here("stream", "keys") == "'a b/python9' -m stream keys"
    (folder / "python9").touch(mode=0o700)
    monkeypatch.setenv("PATH", str(folder))
    assert here("stream", "keys", "it's") == "python9 -m stream keys 'it'\"'\"'s'"
    monkeypatch.setattr(sys, "argv", [str(folder / "babyagent-device")])
    assert here("stream", "keys") == "'a b/babyagent-stream' keys"
    assert there("stream", "keys", "a b") == "babyagent-stream keys 'a b'"


def test_a_command_for_another_machine_is_that_of_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/stream/__main__.py"])
    assert there("stream", "keys", "trust", "a", "b c") == ".venv/bin/python -m stream keys trust a 'b c'"


@pytest.mark.parametrize("program", [DEVICE, LEARNER, STREAM], ids=lambda program: program.package)
def test_every_program_and_command_says_its_version(program: Program) -> None:
    for words in (["--version"], *([name, "--version"] for name in program.commands if name)):
        assert program.run(words, Stop()).text.startswith("babyagent ")


ASKED = (
    ["--help"],
    ["--help-all"],
    ["--objective", "simclr", "--views", "multi", "--help"],
    ["--version"],
    ["--print-completion", "bash"],
    ["--no-such-flag"],
    ["--objective.prototypes", "many"],
    ["--objective", "nothing"],
    ["--connect", "localhost"],
    ["--pacing.batch-size", "1"],
    *([command, "--help"] for command in ("doctor", "report", "export", "cooldown")),
    ["report"],
)


def test_help_version_completion_and_wrong_settings_do_without_torch() -> None:
    """In a process in which torch cannot be imported at all."""
    program = f"""
import contextlib, io, sys
sys.modules["torch"] = None
from learner.__main__ import main
for words in {list(map(list, ASKED))!r}:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code = main(words)
        except SystemExit as ended:
            code = ended.code
    assert "torch is not installed" not in out.getvalue(), words
    print(code, len(out.getvalue().splitlines()))
main(["--max-steps", "0"])
"""
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    codes, lines = zip(*(map(int, line.split()) for line in done.stdout.splitlines()), strict=True)
    assert list(codes) == [0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 0, 0, 0, 0, 2]
    assert lines[0] < lines[2] < lines[1]
    assert "torch is not installed" in done.stderr


def test_what_was_imported_with_stand_ins_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "massive.py").write_text("from heavyweight import nn, run\n\nclass Net(nn.Module):\n    f = run(len)\n")
    (tmp_path / "stranger.py").write_text("import heavyweight.deep as deep\nfrom massive import Net\n")
    (tmp_path / "plain.py").write_text("import shlex\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with standing_in(("heavyweight",), ("massive",)) as replaced:
        import plain  # type: ignore[import-not-found]
        import stranger  # type: ignore[import-not-found]

        assert replaced
        assert stranger.deep.anything.at_all is not None
    assert "plain" in sys.modules
    assert plain.shlex is shlex
    assert not {"massive", "stranger", "heavyweight", "heavyweight.deep"} & sys.modules.keys()
    del sys.modules["plain"]
    with standing_in(("os",), ()) as replaced:
        assert not replaced


def test_help_shows_the_everyday_flags_with_the_values_of_the_preset(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        LEARNER.run(["--help"], Stop())
    text = capsys.readouterr().out
    flags = re.findall(r"^[│ ]+(--[a-z][a-z0-9.-]+)", text, re.MULTILINE)
    assert 15 < len(flags) < 36
    assert "--run-dir" in flags
    assert "--help-all" in text
    assert "Pairs in the reservoir. (default: 2048)" in text
