"""What names, paths and peers bring along is shown on a terminal and in a log, and never obeyed there."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcap.writer import Writer
from recorded import recorded, some
from rich.console import Console
from waiting import WAIT_S

from stream.__main__ import PROGRAM
from stream.errors import ReportedError
from stream.host.findings import Finding, report
from stream.host.printing import LineFormatter, printable
from stream.host.program import Stop, write
from stream.host.progress import Progress
from stream.host.settings_file import present_name
from stream.host.systemd import Supervisor

ROOT = Path(__file__).parents[1]
EVIL = "a\x1b[31m\x1b]0;title\x07\r\nerror: forged\x9b2J\u202egpj.\u2028\udcff\x00"
SHOWN = r"a\x1b[31m\x1b]0;title\x07\r\nerror: forged\x9b2J\u202egpj.\u2028\udcff\x00"


def test_control_characters_become_visible_and_everything_else_stays() -> None:
    assert printable(EVIL) == SHOWN
    for text in ("", "plain", "Grüße, 世界 🦆", "an \\x1b that was typed", "a 'quoted' \"path\" with spaces"):
        assert printable(text) == text
    assert printable("two\nlines\tand\x1b[0m", keep="\n\t") == "two\nlines\tand\\x1b[0m"


@given(st.text())
def test_what_is_printable_stays_so_and_can_be_written(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)
    printable(text).encode()


def test_a_message_of_the_log_is_one_line_and_a_traceback_keeps_its_lines() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter("%(levelname)s %(name)s: %(message)s"))
    log = logging.Logger("some.module")
    log.addHandler(handler)
    log.warning("topic %s", EVIL)
    assert stream.getvalue() == f"WARNING some.module: topic {SHOWN}\n"
    try:
        raise RuntimeError(EVIL)
    except RuntimeError:
        log.exception("failed")
    lines = stream.getvalue().splitlines()
    assert lines[1:3] == ["ERROR some.module: failed", "Traceback (most recent call last):"]
    assert all(line.isprintable() for line in lines)


def progress(text: str) -> None:
    with Progress(Console(stderr=True)) as shown:
        shown.log(text)


def plain_line(text: str) -> None:
    with Progress(Console(stderr=True), clock=iter((0.0, 99.0)).__next__) as shown:
        shown.update(lambda: text)


def live_line(text: str) -> None:
    with Progress(Console(file=sys.stderr, force_terminal=True, width=200)) as shown:
        shown.show(text)


@pytest.mark.parametrize(
    "say",
    [
        write,
        progress,
        plain_line,
        live_line,
        lambda text: report([Finding("disk", "ok", text)], as_json=False),
        lambda text: present_name(f"{text}.old", {"old": "new"}),
    ],
    ids=["result", "progress", "plain line", "live line", "finding", "renamed setting"],
)
def test_every_way_to_a_person_escapes(say: Callable[[str], object], capsys: pytest.CaptureFixture[str]) -> None:
    say("name\x1b]0;owned\x07\x9b2J")
    output = "".join(capsys.readouterr())
    assert r"name\x1b]0;owned\x07\x9b2J" in output
    assert not {"\x1b]", "\x07", "\x9b"} & {output[at : at + size] for size in (1, 2) for at in range(len(output))}


def test_the_status_that_systemd_gets_is_one_printable_line(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    supervisor = Supervisor({}, lambda: 0.0)
    monkeypatch.setattr(supervisor, "_socket", object())
    monkeypatch.setattr(supervisor, "_send", sent.append)
    supervisor.alive(lambda: "learning from a\x1b[31m\nMAINPID=1")
    assert sent == [r"READY=1" "\n" r"WATCHDOG=1" "\n" r"STATUS=learning from a\x1b[31m MAINPID=1"]


def foreign_recording(path: Path, topic: str) -> None:
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        channel = writer.register_channel(topic, "protobuf", writer.register_schema(topic, "protobuf", b""))
        writer.add_message(channel, 0, b"", 0)
        writer.finish()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("command", ["info", "replay", "recover"])
def test_commands_show_what_a_file_and_its_name_bring_along(tmp_path: Path, command: str) -> None:
    path = tmp_path / "walk\x1b[31m\x07.mcap"
    foreign_recording(path, "/left\x1b]0;owned\x07\nerror: forged")
    words: dict[str, list[Path | str]] = {
        "info": [path],
        "replay": [path, "--bind", "tcp://127.0.0.1:*"],
        "recover": [path, tmp_path / "out.mcap"],
    }
    done = subprocess.run(
        [sys.executable, "-m", "stream", command, *words[command]],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert r"walk\x1b[31m\x07.mcap" in done.stdout + done.stderr
    lines = (done.stdout + done.stderr).splitlines()
    assert [line for line in lines if not line.isprintable() or line.startswith("error: forged")] == []


def test_a_line_end_in_a_name_forges_no_line_of_a_result(tmp_path: Path) -> None:
    path = recorded(tmp_path / "walk\n  whole", some(2))
    lines = PROGRAM.run(["info", str(path)], Stop()).text.splitlines()
    assert lines[0].endswith(r"walk\n  whole: 2 pairs, " + lines[0].partition("2 pairs, ")[2])
    assert lines.count("  whole") == 1


def test_an_error_with_a_name_that_is_not_utf_8_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stream", "info", os.fsdecode(b"/nothing-\xff\x1b[1m.mcap")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == ReportedError.exit_code
    (line,) = done.stderr.splitlines()
    assert r"/nothing-\udcff\x1b[1m.mcap" in line


def test_the_narrow_space_in_figures_of_a_report_is_a_plain_one_in_a_terminal() -> None:
    assert printable("pairs received 1\u202f881") == "pairs received 1 881"
