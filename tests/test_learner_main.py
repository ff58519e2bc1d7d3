"""`python -m learner` as a person runs it: a process of its own, real devices over TCP, signals, exit codes."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny_learner import EPOCH, FLAGS, make_pairs
from waiting import WAIT_S, until

from benchmarks.shared.machine import free_port
from learner.__main__ import main
from learner.errors import Failed
from learner.runs.checkpoint import load_checkpoint
from stream.live.publisher import Publisher

ROOT = Path(__file__).parents[1]
SMALL = (*FLAGS, "--memory.canvas", "24", "32", "--memory.capacity", "64", "--memory.fresh-capacity", "64")


@dataclass
class Process:
    """A running `python -m learner`; what it says comes line by line."""

    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reader = threading.Thread(target=lambda: self.said.extend(self.process.stdout or ()), daemon=True)
        self.reader.start()

    def wait_for(self, words: str) -> None:
        """Until it has said these words."""
        until(lambda: self.has_said(words) or not self.reader.is_alive(), lambda: self.said)
        assert self.has_said(words), self.said

    def has_said(self, words: str) -> bool:
        return re.search(words, "".join(self.said)) is not None

    def signal(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send it and wait for the end, and for all that it says until then; the exit code."""
        self.process.send_signal(number)
        self.reader.join(WAIT_S)
        return self.process.wait(WAIT_S)


@contextmanager
def learner(*arguments: str) -> Iterator[Process]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "learner", *arguments]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    running = Process(process)
    assert process.stdout is not None
    try:
        yield running
    finally:
        process.kill()
        process.wait()
        running.reader.join()
        process.stdout.close()


def test_a_run_waits_for_its_device_trains_stops_and_goes_on(tmp_path: Path) -> None:
    """No device yet; then one; Ctrl-C; the same command again, ended by SIGTERM; metrics and weights meanwhile."""
    run, stream_port, http_port = tmp_path / "run", free_port(), free_port()
    endpoint = f"tcp://127.0.0.1:{stream_port}"
    arguments = ("--connect", endpoint, "--run-dir", str(run), "--http-port", str(http_port), *SMALL)
    with learner(*arguments) as process:
        process.wait_for(rf"waiting for a device at {endpoint} \(\d+ s so far\)")
        with Publisher(endpoint, device="baby", epoch=EPOCH, on_full="wait") as publisher:
            for pair in make_pairs(24):
                publisher.send(pair)
            until(lambda: has_steps(run, received=24))
            with urllib.request.urlopen(f"http://127.0.0.1:{http_port}/metrics", timeout=WAIT_S) as answer:
                text = answer.read().decode()
            until(lambda: "<dt>received</dt><dd>24</dd>" in devices_on_the_page(http_port))
            page = devices_on_the_page(http_port)
            assert process.signal(signal.SIGINT) == 0
        said = "".join(process.said)
    assert re.search(r"^babyagent_learner_steps_total [1-9]", text, re.MULTILINE)
    assert re.search(r"^babyagent_stream_received_pairs_total 24", text, re.MULTILINE)
    assert "<h3>baby</h3>" in page
    first = summary_of(run)
    assert (first["pairs_received"], first["pairs_lost"]) == (24, 0)
    assert said.count("stopping: probe, checkpoint, report; press again to leave the report out\n") == 1
    assert f"stopped by hand at step {first['steps']}, which is committed" in said
    assert said.count(f"page: http://127.0.0.1:{http_port}/\n") == 1  # at the start
    assert f"page: http://127.0.0.1:{http_port}/ while the learner runs\n" in said
    assert said.count("probe  step") == 4  # before, and the last one after Ctrl-C
    assert said.strip().endswith(f"report: {run / 'report.html'}")
    assert "Traceback" not in said
    assert (run / "report.html").is_file()
    with learner(*arguments) as process:
        process.wait_for(f"resumed at step {first['steps']}")
        process.wait_for(r"waiting for \d+ more pairs? for the next step")
        with urllib.request.urlopen(f"http://127.0.0.1:{http_port}/metrics", timeout=WAIT_S) as answer:
            (step,) = re.findall(r"^babyagent_learner_step ([0-9.]+)$", answer.read().decode(), re.MULTILINE)
        assert float(step) >= first["steps"] > 0
        with urllib.request.urlopen(f"http://127.0.0.1:{http_port}/weights/student.json", timeout=WAIT_S) as answer:
            assert json.load(answer)["figures"]["steps"] == first["steps"]
        assert process.signal(signal.SIGTERM) == 0
    second = summary_of(run)
    assert second["pairs_received"] == 24
    assert second["steps"] >= first["steps"]


def devices_on_the_page(http_port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{http_port}/sections", timeout=WAIT_S) as answer:
        markup: str = json.load(answer)["devices"][1]
    return markup


def has_steps(run: Path, received: int) -> bool:
    """Whether a few steps are noted, the last of them after so many pairs."""
    path = run / "steps.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return len(lines) >= 3 and json.loads(lines[-1])["received"] >= received


def summary_of(run: Path) -> dict[str, int]:
    summary: dict[str, int] = json.loads((run / "summary.json").read_text())
    return summary


def test_ctrl_c_while_torch_is_still_loading_ends_clean(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with learner("--run-dir", str(run), "--http-port", "0", "--json", *SMALL) as process:
        maps = Path(f"/proc/{process.process.pid}/maps")
        until(lambda: "libtorch" in maps.read_text())
        assert process.signal() == 0
        said = "".join(process.said)
    answer, printed = said.splitlines()  # on the standard error and output, which are one here
    assert answer.startswith("stopping: probe, checkpoint, report;")
    assert json.loads(printed)["steps"] == summary_of(run)["steps"] == 0
    assert (run / "report.html").is_file()
    path = max((run / "checkpoints").iterdir())
    assert load_checkpoint(path)["counts"]["steps"] == 0


def test_help_teaches_and_ends_with_0(capsys: pytest.CaptureFixture[str], own_signals: None) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--preset", "gpu", "--help-all"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for words in ("--connect", "--run-dir", "--pacing.batch-size", "--until-device-ends", "Ctrl-C", "Exit codes"):
        assert words in text
    assert "deit_small_patch16_224" in text


def test_the_help_of_doctor_is_about_the_doctor(capsys: pytest.CaptureFixture[str], own_signals: None) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--help"])
    assert ended.value.code == 0
    assert "python -m learner doctor --connect" in capsys.readouterr().out


@contextmanager
def finite_device() -> Iterator[str]:
    """The address of a device that sends 16 pairs to whoever comes first, and then says that its stream is over."""

    def publish() -> None:
        for pair in make_pairs(16):
            publisher.send(pair)
        publisher.bye()

    with Publisher("tcp://127.0.0.1:0", device="baby", epoch=EPOCH, on_full="wait") as publisher:
        thread = threading.Thread(target=publish)
        thread.start()
        yield publisher.endpoint
        thread.join()


def test_a_finite_device_ends_the_run_and_json_is_all_that_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], own_signals: None
) -> None:
    run = tmp_path / "run"
    with finite_device() as endpoint:
        connect = ["--connect", endpoint, "--until-device-ends", "--http-port", "0"]
        main([*connect, "--run-dir", str(run), "--json", *SMALL])
    output, errors = capsys.readouterr()
    assert json.loads(output) == summary_of(run)
    assert json.loads(output)["steps"] == 8
    assert errors == ""


def test_a_taken_port_stops_no_training_and_a_run_directory_in_use_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, own_signals: None
) -> None:
    run = tmp_path / "run"
    with socket.create_server(("127.0.0.1", 0)) as taken, finite_device() as endpoint:
        port = taken.getsockname()[1]
        words = ["--connect", endpoint, "--until-device-ends", "--http-port", str(port), "--run-dir", str(run), *SMALL]
        main([*words, "--json"])
    assert f"http port {port} on 127.0.0.1 cannot be used" in caplog.text
    assert json.loads(capsys.readouterr().out)["steps"] == 8
    folder = os.open(run, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    assert main(words) == 1
    os.close(folder)
    assert "in use by another learner: stop that one" in capsys.readouterr().err


def test_the_report_of_a_run_is_built_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], own_signals: None
) -> None:
    (tmp_path / "summary.json").write_text("{}")
    main(["report", str(tmp_path)])
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"
    assert (tmp_path / "report.html").is_file()


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """Things that are wrong: a run of other settings, a folder of letters, control sets of no and of one class."""
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "one" / "cat").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "one" / "cat" / "0.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"seed": 5}')
    return tmp_path


BAD = {
    "unknown backbone": (
        ["--encoder.backbone", "deit_small_patch16"],
        "'deit_small_patch16'; did you mean deit_small_patch16_224",
    ),
    "backbone without attention": (["--encoder.backbone", "resnet18"], "resnet18.*vision transformer"),
    "size of a patch": (["--objective.student-size", "20"], "student_size 20 must be a multiple of the patch size 8"),
    "batch too large": (["--pacing.batch-size", "65"], "fresh_capacity 64 must hold at least one batch of 65"),
    "batch of one": (["--pacing.batch-size", "1"], "batch_size"),
    "no capacity": (["--memory.capacity", "0"], "capacity"),
    "half a share": (["--memory.uniform-floor", "2"], "uniform_floor"),
    "threads": (["--threads", "0"], "--threads must be at least 1"),
    "preset": (["--preset", "huge"], "--preset must be one of cpu, gpu, got 'huge'"),
    "preset without a name": (["--preset"], "--preset must be one of"),
    "command": (["train"], "there is no command 'train'.*--help"),
    "report of nothing": (["report"], "report needs a run directory"),
    "report of no run": (["report", "{places}/letters"], "summary.json is missing or damaged"),
    "address": (["--connect", "localhost"], "'localhost' is not an address: expected tcp://HOST:PORT"),
    "one of two addresses": (["--connect", "tcp://127.0.0.1:5555", "tcp://x"], "'tcp://x' is not an address"),
    "recording": (["--replay", "{places}/none.mcap"], "none.mcap"),
    "no recording": (["--replay", "{places}/letters/a.txt"], "a.txt"),
    "recording and address": (
        ["--replay", "{places}/none.mcap", "--connect", "tcp://127.0.0.1:1"],
        "--connect and --replay are two sources: give one of them",
    ),
    "across the network": (["--connect", "tcp://192.0.2.1:5555"], "tcp://192.0.2.1:5555 needs keys.*--insecure"),
    "http port": (["--http-port", "70000"], "--http-port must be 0 \\(none\\) to 65535, got 70000"),
    "http host": (["--http-host", "here"], "--http-host .here. is not an address"),
    "open to the network": (
        ["--http-host", "0.0.0.0"],
        "--http-host 0.0.0.0 can be reached from the network: give --http-token",
    ),
    "no token": (["--http-token", "{places}/none"], "--http-token .*none cannot be read"),
    "other settings": (["--run-dir", "{places}/other"], "other settings .*choose another --run-dir"),
    "folder that is no text": (["--run-dir", "{places}/\udcff"], "has bytes that are no text: choose another name"),
    "home of nobody": (["--encoder.weights", "~nobody-here/w.pth"], "there is no such file or folder"),
    "foreign folder": (["--run-dir", "{places}/letters"], "holds no run: choose another"),
    "file as folder": (["--run-dir", "{places}/letters/a.txt/run"], "cannot be written"),
    "no control set": (["--control", "{places}/none"], "control set .*none: is no folder"),
    "no classes": (["--control", "{places}/empty"], "has 0 classes; expected at least 2"),
    "one class": (["--control", "{places}/one"], "has 1 classes; expected at least 2"),
    "control size": (["--control", "digits@20"], "digits@20.* multiple of the patch size 8"),
    "control twice": (["--control", "digits", "digits@24"], "another set has the name digits"),
    "control limit": (["--control-limit", "3"], "limit of 3 images leaves out"),
    "negative time": (["--train-s", "-3"], "--train-s must be 0 or more, got -3"),
    "no time": (["--probe-every-s", "nan"], "--probe-every-s must be 0 or more, got nan"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_setting_is_one_line_and_exit_code_2_and_leaves_nothing(
    name: str,
    places: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    own_signals: None,
) -> None:
    monkeypatch.setenv("BABYAGENT_KEYS", str(tmp_path / "no-keys"))
    arguments, said = BAD[name]
    given = [word.format(places=places) for word in arguments]
    if given[0].startswith("--"):
        given = [*SMALL, "--http-port", "0", "--run-dir", str(tmp_path / "run"), *given]
    before = tree(tmp_path)
    assert main(given) == 2
    output, errors = capfd.readouterr()
    assert output == ""
    assert errors.count("\n") == 1, errors
    assert re.match(rf"error: .*{said}", errors), errors
    assert tree(tmp_path) == before


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"/" for path in folder.rglob("*")}


def test_flags_and_keys_of_earlier_versions_still_work_and_their_new_names_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], own_signals: None
) -> None:
    file = tmp_path / "learner.toml"
    file.write_text("most_bad_steps = 7\n[guard]\nleast_teacher_information = 0.125\n")
    words = ["--run-dir", str(tmp_path / "run"), "--http-port", "0", *SMALL, "--max-steps", "0", "--json"]
    assert main([*words, "--config", str(file), "--pacing.most-owed-steps", "9", "--guard.most-rollbacks=5"]) == 0
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (settings["max_refused_steps"], settings["pacing"]["max_owed_steps"]) == (7, 9)
    assert (settings["guard"]["min_teacher_information"], settings["guard"]["max_rollbacks"]) == (0.125, 5)
    printed = capsys.readouterr().err.splitlines()
    for old, new in (
        ("most_bad_steps", "max_refused_steps"),
        ("guard.least_teacher_information", "guard.min_teacher_information"),
        ("pacing.most_owed_steps", "pacing.max_owed_steps"),
        ("guard.most_rollbacks", "guard.max_rollbacks"),
    ):
        assert printed.count(f"the setting {old} is called {new} now") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused_before_anything_is_made(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], own_signals: None
) -> None:
    assert main([*SMALL, "--run-dir", str(tmp_path / "run"), "--http-port", "0", "--device", "cuda"]) == 2
    assert re.fullmatch(r"error: .*no GPU.*\n", errors := capfd.readouterr().err), errors
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["cooldown", "run"], ["doctor"], ["export", "run"], ["report", "run"]])
def test_what_is_not_training_is_not_done_by_several_processes_at_once(
    words: list[str], capfd: pytest.CaptureFixture[str], own_signals: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, word in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, word)
    assert main(words) == 2
    assert capfd.readouterr().err == f"error: `{words[0]}` runs in one process: start it without torchrun\n"


def test_what_fails_on_the_way_ends_with_1(
    capfd: pytest.CaptureFixture[str], own_signals: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> Path:
        raise Failed("the report failed")

    monkeypatch.setattr("learner.cli.report.write_report", fails)
    assert main(["report", "run"]) == 1
    assert capfd.readouterr().err == "error: the report failed\n"


@pytest.mark.parametrize("arguments", [["--no-such-flag", "1"], ["--seed", "many"], ["--device", "tpu"]])
def test_a_flag_that_cannot_be_parsed_ends_with_2_before_anything_is_made(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], own_signals: None
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--run-dir", str(tmp_path / "run"), *arguments])
    assert ended.value.code == 2
    assert arguments[0] in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_damaged_commit_gives_way_to_the_one_before_and_without_one_it_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, own_signals: None
) -> None:
    arguments = ["--run-dir", str(tmp_path / "run"), "--http-port", "0", *SMALL, "--max-steps", "0", "--json"]
    folder = tmp_path / "run" / "checkpoints"
    for damaged in ([], [], [3], [2, 4]):
        for number in damaged:
            os.truncate(folder / f"commit-00000{number}-step-0" / "tensors.safetensors", 100)
        if len(damaged) < 2:
            main(arguments)
    assert "commit-000003-step-0 is damaged" in caplog.text
    capfd.readouterr()
    assert main(arguments) == 2
    said = rf"error: checkpoint {folder}/commit-000004-step-0 is damaged .*no other commit .*choose another --run-dir\n"
    assert re.fullmatch(said, capfd.readouterr().err)


def test_a_folder_that_cannot_be_written_any_more_is_one_line_and_exit_code_1(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], own_signals: None
) -> None:
    arguments = ["--run-dir", str(tmp_path / "run"), "--http-port", "0", *SMALL, "--max-steps", "0", "--json"]
    main(arguments)
    settings = (tmp_path / "run" / "config.json").read_text()
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(settings)
    (tmp_path / "run" / "checkpoints").write_text("in the way")
    capfd.readouterr()
    assert main(arguments) == 1
    assert re.fullmatch(rf"error: .*{tmp_path / 'run' / 'checkpoints'}.*\n", capfd.readouterr().err)


def test_a_store_that_is_none_is_one_line_and_exit_code_1(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], own_signals: None
) -> None:
    arguments = ["--run-dir", str(tmp_path / "run"), "--http-port", "0", *SMALL, "--max-steps", "0", "--json"]
    main(arguments)
    (tmp_path / "run" / "pairs.sqlite").write_text("in the way")
    capfd.readouterr()
    assert main(arguments) == 1
    assert re.fullmatch(r"error: \S+pairs.sqlite cannot be opened \(.*\): restore it .*\n", capfd.readouterr().err)


def test_where_torch_is_not_installed_it_is_said_in_one_line() -> None:
    """As on a rig, whose base install has none."""
    program = (
        "import sys; sys.modules['torch'] = None; import sys; from learner.__main__ import main; sys.exit(main([]))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"error: torch is not installed here: .*\[learner\].*\n", done.stderr)


def test_a_second_ctrl_c_in_the_middle_of_the_report_leaves_it_out_and_the_run_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    began: list[Path] = []

    def endless(path: Path) -> None:
        began.append(path)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it goes on")

    monkeypatch.setattr("learner.cli.compose.write_report", endless)
    monkeypatch.setattr("stream.host.program.AGAIN_S", 0.0)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        words = ("--preset", "cpu", "--source", "sim", "--dedupe", "off", "--max-steps", "2", "--run-dir", str(run))
        assert main([*words, "--http-port", "0", "--control", "digits", *SMALL]) == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert began == [run]
    assert "no report; this writes it" in capsys.readouterr().out
    assert json.loads((run / "summary.json").read_text())["steps"] == 2
    assert {path.name for path in run.iterdir()} >= {"album.npz", "pairs.sqlite", "checkpoints", "export"}
