"""`doctor` of rig and learner: what is found in facts that are given, and on this machine with real sockets and files."""

from __future__ import annotations

import json
import re
import socket
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from device.__main__ import main as device_main
from device.camera import BadShot, EyeImage, Shot
from device.cli.doctor import check_images, check_skew
from device.cli.doctor import examine as examine_rig
from device.cli.settings import StreamSettings
from learner.cli.doctor import check_compute_device, check_recording, examine, rig_finding
from learner.cli.train import COMMAND
from stream.errors import EndpointError
from stream.host.findings import (
    EARLIEST_S,
    GIB,
    Clock,
    Finding,
    check_clock,
    check_disk,
    check_opencv,
    existing_folder,
    read_clock,
    report,
    run_check,
)
from stream.live.publisher import Publisher
from stream.recording.foreign import EyeTopics
from stream.transport.keys import make_keys, trust

EPOCH = "c" * 32
SIM = ("--camera", "sim", "--size", "64x48", "--places", "1", "--fps", "200")


def shot(apart_ms: float = 0.0, size: tuple[int, int] = (48, 64), right: tuple[int, int] | None = None) -> Shot:
    left_ns, eye = 10**18, np.zeros(size, np.uint8)
    other = eye if right is None else np.zeros(right, np.uint8)
    return Shot(EyeImage(left_ns, eye), EyeImage(left_ns + round(apart_ms * 1e6), other))


@pytest.mark.parametrize(
    ("finding", "level", "text"),
    [
        (check_clock(Clock(EARLIEST_S - 1, synchronised=True, error_s=0.0)), "problem", "set it"),
        (check_clock(Clock(EARLIEST_S, synchronised=False, error_s=0.0)), "warning", "set-ntp true"),
        (check_clock(Clock(EARLIEST_S, synchronised=True, error_s=2.0)), "warning", "within 2.0 s only"),
        (check_clock(Clock(EARLIEST_S, synchronised=True, error_s=0.02)), "ok", "within 20 ms"),
        (check_disk(Path("/d"), 9 * GIB, writable=True, floor_bytes=GIB, wanted_bytes=8 * GIB), "ok", "9.0 GiB free"),
        (
            check_disk(Path("/d"), 9 * GIB - 1, writable=True, floor_bytes=GIB, wanted_bytes=8 * GIB),
            "warning",
            "make room",
        ),
        (check_disk(Path("/d"), GIB, writable=True, floor_bytes=GIB, wanted_bytes=0), "problem", "make room"),
        (check_disk(Path("/d"), 9 * GIB, writable=False, floor_bytes=0, wanted_bytes=0), "problem", "chown"),
        (check_images("cam", [shot()] * 31, 1.0, fps=30), "ok", "cam: 64x48, 30 shots/s"),
        (
            check_images("cam", [shot()] * 31, 3.1, fps=30),
            "warning",
            "9.68 shots/s, though it states 30 Hz: more light",
        ),
        (check_images("cam", [shot()] * 31, 3.1), "ok", "9.68 shots/s"),
        (check_images("cam", [shot()] * 2, 10.0), "ok", "0.1 shots/s"),
        (check_opencv(["opencv-python-headless 5.0"]), "ok", "opencv-python-headless 5.0"),
        (check_opencv([]), "ok", "not installed by pip"),
        (
            check_opencv(["opencv-python-headless 5.0", "opencv-python 4.9"]),
            "problem",
            "overwrite each other's cv2: pip uninstall -y opencv-python opencv-python-headless, then pip install",
        ),
        (check_images("cam", [shot(), BadShot("torn")], 1.0), "warning", r"1 of 2 shots cannot be read \(torn\)"),
        (check_images("cam", [BadShot("torn")], 1.0), "problem", "no shot can be read"),
        (check_images("cam", [], 1.0), "problem", "it gives no shot"),
        (check_images("cam", [shot(right=(48, 70))], 1.0), "problem", "64x48 left and 70x48 right.*--size"),
        (check_images("cam", [shot(), shot(size=(50, 64))], 1.0), "problem", "64x48, 64x50"),
        (
            check_skew([shot(1), shot(-2), shot(3), BadShot("torn")], 30),
            "ok",
            r"2.0 ms apart \(median\), 3.0 at most",
        ),
        (check_skew([shot(17)] * 3, 30), "warning", "common trigger"),
        (check_skew([shot(16)] * 3, 30), "ok", "16.0 ms"),
        (check_compute_device("auto", "float32", None), "ok", "CPU"),
        (check_compute_device("auto", "bfloat16", None), "warning", "--preset cpu"),
        (check_compute_device("cuda", "bfloat16", None), "problem", "no GPU"),
        (check_compute_device("auto", "bfloat16", ("a GPU", 8 * GIB)), "ok", "a GPU, 8.0 GiB free"),
        (rig_finding("tcp://rig:1", ["rig1"], {"refused": 2}), "ok", "rig1 answers"),
        (rig_finding("tcp://rig:1", [], {"refused": 2}), "problem", "has keys that do not fit ours"),
        (rig_finding("tcp://rig:1", [], {"broken_off": 2}), "problem", "handshake with tcp://rig:1 failed"),
        (rig_finding("tcp://rig:1", [], {"broken_off": 0}), "warning", "does not answer: start the rig"),
        (
            run_check("recording", lambda: check_recording(Path("x.mcap"), EyeTopics())),
            "problem",
            "x.mcap: No such file",
        ),
    ],
)
def test_facts_become_findings_that_say_what_to_do(finding: Finding, level: str, text: str) -> None:
    assert finding.level == level
    assert re.search(text, finding.text), finding.text
    assert "\n" not in finding.text


def test_only_a_problem_makes_the_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    fine, odd, bad = (Finding("disk", level, "x") for level in ("ok", "warning", "problem"))
    assert [report(found, as_json=True).code for found in ([], [fine, odd], [fine, bad, odd])] == [0, 0, 1]
    report([fine, bad], as_json=False)
    assert capsys.readouterr().out.splitlines() == ["ok       disk         x", "problem  disk         x"]
    assert report([bad], as_json=True).figures == [{"what": "disk", "level": "problem", "text": "x"}]


def test_a_refusal_is_a_problem_in_its_own_words_and_a_defect_is_not_hidden() -> None:
    def refuse() -> Finding:
        raise EndpointError("taken: choose another")

    assert run_check("port", refuse) == Finding("port", "problem", "taken: choose another")
    with pytest.raises(ZeroDivisionError):
        run_check("port", lambda: Finding("port", "ok", str(1 / 0)))


def test_the_clock_of_this_machine_can_be_asked() -> None:
    read = read_clock(5.0)
    assert read.now_s == 5.0
    assert read.error_s >= 0


def test_of_a_folder_that_is_not_there_the_nearest_one_stands(tmp_path: Path) -> None:
    assert existing_folder(tmp_path / "a" / "b") == tmp_path


def found(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, list[str]]]:
    """Exit code, and the levels found of each thing."""
    code = device_main(["doctor", *words, "--json"])
    levels: dict[str, list[str]] = {}
    for finding in json.loads(capfd.readouterr().out):
        levels.setdefault(finding["what"], []).append(finding["level"])
    return code, levels


def test_a_rig_that_would_run_has_no_problem_and_nothing_is_left(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spool = tmp_path / "spool"
    bind = "tcp://127.0.0.1:0"
    code, levels = found(
        capfd, *SIM, "--bind", bind, "--spool", str(spool), "--disk-floor-gib", "0", "--spool-gib", "0.01"
    )
    assert code == 0
    assert {what: levels[what] for what in ("keys", "port", "disk", "camera", "skew")} == {
        "keys": ["ok"],
        "port": ["ok"],
        "disk": ["ok"],
        "camera": ["ok"],
        "skew": ["ok"],
    }
    assert not spool.exists()


def test_a_rig_without_camera_keys_or_its_port_has_problems(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Publisher("tcp://127.0.0.1:0", device="rig", epoch=EPOCH) as taken:
        code, levels = found(capfd, "--camera", "v4l2:977,978", "--bind", taken.endpoint)
        assert (code, levels["port"][0], levels["camera"]) == (1, "problem", ["problem"])
        assert len(levels["port"]) == 2  # the live one, and the spool's behind it
        assert "skew" not in levels
    for bind, ports in (("tcp://127.0.0.1:*", ["ok"]), ("tcp://127.0.0.1:65535", ["ok", "problem"])):
        _, levels = found(capfd, *SIM, "--bind", bind, "--spool", "none")
        assert (levels["port"], levels["camera"]) == (ports, ["ok"])
    _, levels = found(capfd, *SIM, "--bind", "tcp://127.0.0.1:0", "--keys", str(tmp_path), "--spool", "none")
    assert (levels["keys"], levels["disk"]) == (["problem"], ["warning"])
    make_keys(tmp_path)
    _, levels = found(capfd, *SIM, "--bind", "tcp://127.0.0.1:0", "--keys", str(tmp_path))
    assert (levels["keys"], levels["port"]) == (["problem"], ["problem"])  # nobody is trusted yet
    trust(tmp_path, "learner", make_keys(tmp_path / "other"))
    _, levels = found(capfd, *SIM, "--bind", "tcp://127.0.0.1:0", "--keys", str(tmp_path))
    assert (levels["keys"], levels["port"]) == (["ok"], ["ok"])


@pytest.mark.parametrize(
    ("name", "level", "says"),
    [
        ("read", "ok", "imu (3 wide)"),
        ("silent", "ok", "nothing at this moment"),
        ("spoiled", "problem", "imu has numbers that are not finite in 1 of 1 rows"),
        ("broken", "problem", "the function that reads signals failed: OSError: no bus"),
        ("nothing", "problem", "no function or class nothing"),
    ],
)
def test_what_reads_the_signals_is_asked_once(
    name: str, level: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
    from stream.signals.signal import Signal, Telemetry
    def read(captured_ns):
        return Telemetry({"imu": Signal([1.0, 2.0, 3.0], captured_ns)})
    def silent(captured_ns):
        return Telemetry()
    def spoiled(captured_ns):
        return Telemetry({"imu": Signal(float("nan"), captured_ns)})
    def broken(captured_ns):
        raise OSError("no bus")
    """
    (tmp_path / "sensors_of_a_doctor.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    settings = StreamSettings(bind="tcp://127.0.0.1:0", spool="none", signals=f"sensors_of_a_doctor:{name}")
    found = next(one for one in examine_rig(settings, lambda: pytest.fail("not yet")) if one.what == "signals")
    assert (found.level, says in found.text) == (level, True), found.text


def test_wrong_flags_of_a_doctor_are_exit_code_2(capfd: pytest.CaptureFixture[str]) -> None:
    assert device_main(["doctor", "--quality", "0"]) == 2
    assert "--quality" in capfd.readouterr().err


def test_a_learner_finds_a_rig_that_is_there_and_leaves_no_name_with_it(tmp_path: Path) -> None:
    with Publisher("tcp://127.0.0.1:0", device="rig-1", epoch=EPOCH) as rig:
        words = [
            "--connect",
            rig.endpoint,
            "--run-dir",
            str(tmp_path / "run"),
            "--http-port",
            "0",
            "--device",
            "cpu",
        ]
        asked = threading.Event()

        def greet() -> None:
            while not asked.wait(0.02):
                rig.subscribers()

        thread = threading.Thread(target=greet)
        thread.start()
        findings = {finding.what: finding for finding in examine(COMMAND.parse(words), patience_s=60.0)}
        asked.set()
        thread.join()
    assert findings["rig"] == Finding("rig", "ok", f"{rig.endpoint}: rig-1 answers")
    assert {findings[what].level for what in ("processor", "keys")} == {"ok"}
    assert not (tmp_path / "run").exists()


def test_a_learner_whose_port_is_taken_is_warned_and_would_run(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = ["--replay", str(tmp_path / "walk.mcap"), "--run-dir", str(tmp_path / "run"), "--http-port", port]
        findings = {finding.what: finding for finding in examine(COMMAND.parse(words))}
    assert findings["port"].level == "warning"
    assert "in use" in findings["port"].text


def test_a_learner_without_keys_for_its_rig_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BABYAGENT_KEYS", str(tmp_path / "none"))
    words = ["--connect", "tcp://192.0.2.1:5555", "--run-dir", str(tmp_path / "run"), "--http-port", "0"]
    findings = {finding.what: finding for finding in examine(COMMAND.parse(words))}
    assert (findings["keys"].level, findings["rig"].level) == ("problem", "problem")
    assert "python -m stream keys" in findings["keys"].text
