"""From words to settings to exit code: what the four programs have in common."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.__main__ import PROGRAM as BENCHMARKS
from device.__main__ import PROGRAM as DEVICE
from learner.__main__ import PROGRAM as LEARNER
from stream.__main__ import PROGRAM as STREAM
from stream.errors import EndpointTaken, ReportedError, StreamError
from stream.host.command import Command
from stream.host.program import ExitCode, Program, Result, Stop
from stream.host.settings_file import SettingsFileError

PROGRAMS = {program.package: program for program in (STREAM, DEVICE, LEARNER, BENCHMARKS)}


@dataclass(frozen=True, kw_only=True)
class Greeting:
    """Greet somebody."""

    config: Path | None = None
    """A file."""
    name: str = "world"
    """Whom. A person,
    or a thing."""
    times: int = 1
    """How often."""
    json: bool = False
    """Print JSON."""


RAISED: list[BaseException] = []


def greet(settings: Greeting, _stop: Stop) -> Result:
    if RAISED:
        raise RAISED[0]
    if not settings.name:
        return Result("nobody is here" if settings.times > 1 else "")
    return Result(f"hello {settings.name} {settings.times}", {"name": settings.name})


def at_least_once(settings: Greeting) -> None:
    if settings.times < 1:
        raise ValueError("--times must be at least 1")


GREET = Command(
    run=greet,
    settings=Greeting,
    description="Greet.",
    config_file=True,
    check=at_least_once,
    old_names={"count": "times"},
)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    for name, command in (("greeting", GREET), ("preset_greeting", PRESETS)):
        module = ModuleType(name)
        module.__dict__["COMMAND"] = command
        monkeypatch.setitem(sys.modules, name, module)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    commands = {"": "greeting", "more": "preset_greeting", "missing": "no_such_module"}
    yield Program(package="greet", script="babyagent-greet", commands=commands, extra="learner", logs=False)
    RAISED.clear()
    for number, handler in handlers.items():
        signal.signal(number, handler)


def begin(given: Mapping[str, str]) -> Greeting:
    name = given.get("preset", "one")
    if name not in ("one", "five"):
        raise ValueError(f"--preset must be one of one, five, got {name!r}")
    return Greeting(times=5 if name == "five" else 1)


PRESETS = Command(
    run=greet,
    settings=Greeting,
    description="Greet.",
    config_file=True,
    choices={"preset": ["one", "five"]},
    begin=begin,
)


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        ([], "hello world 1\n"),
        (["--name", "you", "--times", "2"], "hello you 2\n"),
        (["--name", "you", "--json"], '{"name": "you"}\n'),
        (["--name", "", "--times", "2", "--json"], "nobody is here\n"),
        (["--name", "", "--json"], ""),
        (["more"], "hello world 1\n"),
        (["more", "--preset", "five", "--name", "you"], "hello you 5\n"),
        (["more", "--preset=five", "--times", "3"], "hello world 3\n"),
    ],
)
def test_the_words_choose_the_command_and_its_settings(
    words: list[str], printed: str, program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(words) == ExitCode.DONE
    assert capsys.readouterr() == (printed, "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError("disk full"), 1),
        (InterruptedError("interrupted"), 1),
        (EndpointTaken("port in use"), 1),
        (KeyboardInterrupt(), 1),
        (StreamError("wrong"), 2),
        (ValueError("wrong"), 2),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(
    error: BaseException, code: int, program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    RAISED.append(error)
    assert program.main([]) == code
    assert capsys.readouterr() == ("", f"error: {str(error) or 'interrupted'}\n")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: 12 bytes"
        ),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        Exception("OpenCV(5.0.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes"),
    ],
)
def test_a_lack_of_memory_is_one_sentence_with_a_remedy(
    error: Exception, program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    wrapped = RuntimeError("a layer above")
    wrapped.__cause__ = error
    for raised in (error, wrapped):
        RAISED[:] = [raised]
        assert program.main([]) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: there is not enough memory")
        assert "ulimit" in said
        assert said.count("\n") == 1


def test_of_several_processes_only_the_first_one_reports_the_error(
    program: Program, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    RAISED.append(StreamError("wrong"))
    assert program.main([]) == 2
    assert capsys.readouterr().err == ""


def test_a_defect_is_not_hidden(program: Program) -> None:
    RAISED.append(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        program.main([])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["les"], "there is no command 'les': use `more`, `missing`, flags alone"),
        (["missing"], "no_such_module is not installed here: pip install -e '.[learner]'"),
        (["--times", "0"], "--times must be at least 1"),
        (["more", "--preset", "six"], "--preset must be one of one, five, got 'six'"),
        (["--print-completion", "fish"], "bash, zsh"),
    ],
)
def test_wrong_words_are_one_line_and_exit_code_2(
    words: list[str], message: str, program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(words) == ExitCode.WRONG_SETTINGS
    out, errors = capsys.readouterr()
    assert (out, errors.count("\n")) == ("", 1)
    assert message in errors


def test_a_flag_wins_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "greet.toml"
    path.write_text('preset = "five"\nname = "file"\n')
    assert PRESETS.parse(["--config", str(path)]) == Greeting(config=path, name="file", times=5)
    assert PRESETS.parse(["--config", str(path), "--preset", "one", "--name", "flag"]) == Greeting(
        config=path, name="flag"
    )
    path.write_text("times = 0")
    with pytest.raises(SettingsFileError, match=r"greet\.toml: --times must be"):
        GREET.parse(["--config", str(path)])


@pytest.mark.parametrize("words", [["--count", "3"], ["--count=3"]])
def test_a_flag_by_its_old_name_still_works_and_the_new_name_is_reported(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert GREET.parse(words).times == 3
    assert capsys.readouterr().err == "the setting count is called times now\n"


def test_a_key_of_a_file_by_its_old_name_still_works_and_the_new_name_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "greet.toml"
    path.write_text("count = 3")
    assert GREET.parse(["--config", str(path)]).times == 3
    assert capsys.readouterr().err == "the setting count is called times now\n"


def test_the_text_of_a_flag_goes_on_in_its_line_where_a_line_of_the_source_ends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        GREET.parse(["--help", "--name", "you"])
    said = capsys.readouterr().out
    assert "Whom. A person, or a thing. (default: world)" in said
    assert "--times" in said


def test_a_program_without_a_command_of_no_name_prints_its_usage() -> None:
    program = Program(
        package="greet", script="babyagent-greet", commands={"more": "preset_greeting"}, usage="usage: ..."
    )
    for words in ([], ["-h"], ["--help"]):
        assert program.run(words, Stop()) == Result("usage: ...")
    with pytest.raises(ReportedError, match="there is no command '--moer'"):
        program.run(["--moer"], Stop())


def test_the_first_signal_asks_for_the_end_and_a_later_one_kills_unless_a_file_is_being_closed() -> None:
    code = """
import os, signal
from stream.host import program
stop = program.Stop.on_signals("ending")
assert not stop.is_set()
program.AGAIN_S = 3600.0
for _ in range(3):  # timeout sends two at once
    os.kill(os.getpid(), signal.SIGTERM)
assert stop.is_set()
program.AGAIN_S = 0.0
held = program.Stop.on_signals("ending")
held.hold()
for _ in range(3):
    os.kill(os.getpid(), signal.SIGTERM)
program.Stop.on_signals("ending")
os.kill(os.getpid(), signal.SIGTERM)
print("still here", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
print("never printed")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "still here\n", "ending\n" * 3)


def test_the_second_signal_ends_optional_work_in_the_middle_and_nothing_else() -> None:
    code = """
import os, signal, time
from stream.host import program
program.AGAIN_S = 0.0
stop = program.Stop.on_signals("ending", hurries=True)
def ask():
    os.kill(os.getpid(), signal.SIGINT)
def work(times):
    for _ in range(times):
        ask()
    return "done"
print(stop.optional(lambda: work(1)))
print(stop.optional(lambda: work(1)))
print(stop.optional(lambda: work(0)), stop.is_hurried())
other = program.Stop.on_signals("ending", hurries=True)
print(work(2), other.is_hurried())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert done.stdout.splitlines() == ["done", "None", "None True", "done True"], done.stderr


def test_a_request_ends_a_long_sleep() -> None:
    stop = Stop()
    timer = threading.Timer(0.05, stop.set)
    timer.start()
    stop.sleep(3600)
    timer.join()
    assert stop.is_set()


def test_a_program_is_ready_for_signals_before_anything_heavy_is_loaded() -> None:
    code = "import sys, stream.host.program; print(*(name for name in ('cv2', 'zmq', 'tyro', 'numpy') if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout == "\n"


@pytest.mark.parametrize(
    "words",
    [
        *(f"{package} {name}".split() for package in ("stream", "device") for name in PROGRAMS[package].commands),
        *(["stream"], ["benchmarks"], ["benchmarks", "demo"], ["learner", "runs"]),
    ],
    ids=" ".join,
)
def test_help_all_is_the_help_where_help_hides_nothing(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    package, *command = words
    said = []
    for flag in ("--help", "--help-all"):
        try:
            text = PROGRAMS[package].run([*command, flag], Stop()).text
        except SystemExit:
            text = capsys.readouterr().out
        said.append(text)
    assert said[0] == said[1]
    assert "usage" in said[0]
