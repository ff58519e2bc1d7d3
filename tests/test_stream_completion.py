"""Shell completion: the scripts of the four doors, sourced by a real bash that is asked as Tab asks it."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache

import pytest

from device.__main__ import PROGRAM as DEVICE
from learner.__main__ import PROGRAM as LEARNER
from stream.__main__ import PROGRAM as STREAM
from stream.errors import StreamError
from stream.host.completion import script, shell_of
from stream.host.program import Stop

BASH = shutil.which("bash")


def completed(script: str, line: str, function: str = "") -> list[str]:
    """What bash offers at the end of the line."""
    assert BASH is not None
    function = function or f"_{line.split()[0].replace('-', '_')}"
    ask = f"""{script}
COMP_WORDS=({line.replace("|", '""')}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
"$1"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run([BASH, "-c", ask, "bash", function], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@cache
def script_of(door: str) -> str:
    program = {"stream": STREAM, "device": DEVICE, "learner": LEARNER}[door]
    return program.run(["--print-completion", "bash"], Stop()).text


@pytest.mark.parametrize(
    ("door", "line", "offered"),
    [
        ("device", "babyagent-device w", ["walk"]),
        ("device", "babyagent-device --cod", ["--codec"]),
        ("device", "babyagent-device --name rig1 --codec |", ["jpeg", "lz4"]),
        ("device", "babyagent-device --wait-for-learner y", ["yes"]),
        ("device", "babyagent-device walk --per", ["--per-place"]),
        ("device", "babyagent-device walk --cod", []),
        ("device", "babyagent-device doctor --cod", ["--codec"]),
        ("device", "babyagent-device --textures |", []),
        ("stream", "babyagent-stream re", ["record", "replay", "recover"]),
        ("stream", "babyagent-stream record --until", ["--until-device-ends"]),
        ("stream", "babyagent-stream info |", []),
        ("stream", "babyagent-stream keys t", ["trust"]),
        ("stream", "babyagent-stream keys |", ["own", "trust", "list", "forget"]),
        ("stream", "babyagent-stream keys list -", ["--keys", "--own-name", "--help"]),
        ("learner", "babyagent-learner --preset c", ["cpu"]),
        ("learner", "babyagent-learner doctor --device |", ["auto", "cpu", "cuda"]),
        ("learner", "babyagent-learner --pacing.b", ["--pacing.batch-size"]),
        ("learner", "babyagent-learner --probe-every-st", ["--probe-every-steps"]),
        ("learner", "babyagent-learner cool", ["cooldown"]),
        ("learner", "babyagent-learner export runs/a --si", ["--size"]),
        ("learner", "babyagent-learner cooldown runs/a --st", ["--steps"]),
        ("learner", "babyagent-learner --help-", ["--help-all"]),
    ],
)
def test_bash_offers_what_fits(door: str, line: str, offered: list[str]) -> None:
    assert completed(script_of(door), line) == offered


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("python -m learner --pacing.b", ["--pacing.batch-size"]),
        (".venv/bin/python -X dev -m device walk --per", ["--per-place"]),
        (".venv/bin/torchrun --nproc-per-node 4 -m learner --preset |", ["cpu", "gpu"]),
        ("python -m http.serv", []),
        ("python scr", []),
    ],
)
def test_bash_completes_what_the_documents_type(line: str, offered: list[str]) -> None:
    both = script_of("learner") + "\n" + script_of("device")
    for name in ("python", "torchrun"):
        assert re.search(rf"^complete .* -F _babyagent_module .*\b{name}\b", both, re.MULTILINE)
    assert completed(both, line, "_babyagent_module") == offered


def test_every_flag_that_help_lists_is_offered(capsys: pytest.CaptureFixture[str]) -> None:
    from learner.cli.train import COMMAND

    with pytest.raises(SystemExit):
        COMMAND.parse(["--help-all"])
    listed = set(re.findall(r"^[│ ]+(--[a-z][a-z0-9.-]+)", capsys.readouterr().out, re.MULTILINE))
    assert len(listed) > 60
    assert listed <= set(completed(script_of("learner"), "babyagent-learner --"))


def test_zsh_reads_the_same_script_through_its_bash_completion() -> None:
    bash, zsh = (script(shell, "babyagent-x", {"": {"--a": ("b", "c")}}) for shell in ("bash", "zsh"))
    assert zsh.endswith(bash)
    assert "bashcompinit" in zsh


@pytest.mark.parametrize("words", [["--print-completion"], ["--print-completion", "tcsh"], ["--print-completion=fish"]])
def test_another_shell_is_refused_by_name(words: list[str]) -> None:
    with pytest.raises(StreamError, match="bash, zsh"):
        shell_of(words)
    assert shell_of(["--print-completion=zsh"]) == "zsh"
    assert shell_of(["record", "--print-completion"]) is None
