"""`python -m device` as a person runs it: a process of its own, a real subscriber over TCP, signals, exit codes."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from link_steps import all_received
from running import ROOT, Running, environment, running
from waiting import WAIT_S, until

from benchmarks.shared.machine import free_port
from device.__main__ import main
from device.spool.epoch_end import find_epoch_ends
from device.spool.rules import SpoolLimits
from device.spool.spool import Spool
from stream.codec import decode
from stream.live.subscriber import Subscriber
from stream.pair import EncodedPair

SMALL = ("--size", "128x96", "--places", "2")


def rig(*arguments: str) -> AbstractContextManager[Running]:
    return running("device", "--bind", "tcp://127.0.0.1:0", "--disk-floor-gib", "0", *arguments)


def address(device: Running) -> str:
    """The address that it prints at its start."""
    return device.saying(r"bind=(tcp://\S+:\d+)")[1]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "device", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=WAIT_S, check=False
    )


def received(subscriber: Subscriber, at_least: int | None = None) -> list[EncodedPair]:
    """All pairs until the device says bye, or until there are enough of them."""
    if at_least is None:
        return all_received(subscriber)
    pairs: list[EncodedPair] = []

    def are_enough() -> bool:
        pairs.extend(subscriber.receive(64, 1.0))
        return len(pairs) >= at_least

    until(are_enough, lambda: f"only {len(pairs)} pairs came")
    return pairs


def files_of(folder: Path) -> list[tuple[bytes, bytes]]:
    names = sorted(path.name for path in (folder / "left").iterdir())
    return [((folder / "left" / name).read_bytes(), (folder / "right" / name).read_bytes()) for name in names]


def dir_of(folder: Path) -> str:
    return f"dir:{folder / 'left'},{folder / 'right'}"


@pytest.mark.parametrize(("name", "fps"), [("kitti_street_a", "0"), ("kitti_street_b", "0"), ("kitti_colour", "10")])
def test_every_pair_of_a_drive_arrives_once_with_the_bytes_of_its_files(shared_data: Path, name: str, fps: str) -> None:
    """As fast as possible and at 10 Hz; left and right in their places, sizes as the files have them."""
    folder = shared_data / "stereo" / name
    expected = files_of(folder)
    with (
        rig("--camera", dir_of(folder), "--fps", fps, "--name", "rig-1", "--json") as device,
        Subscriber([address(device)], end_on_bye=True) as subscriber,
    ):
        pairs = received(subscriber)
        code, output = device.end()
        assert [(pair.left, pair.right) for pair in pairs] == expected
        assert [pair.header.seq for pair in pairs] == list(range(len(expected)))
        assert {pair.header.device for pair in pairs} == {"rig-1"}
        shape = decode(pairs[0]).left.shape
        assert shape == ((376, 1241, 3) if name == "kitti_colour" else (370, 1226))
        stats = subscriber.stats()
        assert (stats.received, stats.lost) == (len(expected), 0)
    summary = json.loads(output)
    assert code == 0
    assert summary["captured"] == summary["kept"] == summary["sent"] == len(expected)
    assert summary["pairs_per_s"] > 0


def test_of_a_still_view_hardly_anything_is_sent_and_the_rest_is_counted(shared_data: Path) -> None:
    folder = shared_data / "stereo" / "euroc_still"
    with (
        rig("--camera", dir_of(folder), "--fps", "0", "--json") as device,
        Subscriber([address(device)], end_on_bye=True) as subscriber,
    ):
        pairs = received(subscriber)
        code, output = device.end()
    summary = json.loads(output)
    assert code == 0
    assert summary["captured"] == 40
    assert summary["suppressed"] == 40 - len(pairs)
    assert len(pairs) <= 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_a_live_stream_with_bye_and_exit_code_0(number: signal.Signals) -> None:
    with rig("--camera", "sim", *SMALL, "--dedupe-threshold", "5") as device:
        with Subscriber([address(device)], end_on_bye=True) as subscriber:
            pairs = received(subscriber, at_least=2)
            device.process.send_signal(number)
            received(subscriber)  # ends by the device's bye
        code, output = device.end()
    assert code == 0
    assert "kept" in output
    assert pairs[0].header.codec == "jpeg"


def test_the_first_line_has_what_an_operator_needs_and_what_is_not_by_default() -> None:
    with rig("--camera", "sim", *SMALL, "--fps", "0", "--name", "rig-1", "--spool", "none") as device:
        line = device.saying(r"camera=.*\n")[0]
        assert re.fullmatch(
            r"camera=sim name=rig-1 bind=tcp://127\.0\.0\.1:\d+ spool=none fps=0\.0 size=128x96 places=2 "
            r"disk_floor_gib=0\.0 \(all else as --help says\)\n",
            line,
        )


def test_ctrl_c_while_nobody_listens_ends_at_once() -> None:
    with rig("--camera", "sim", *SMALL, "--fps", "0") as device:
        address(device)
        device.process.send_signal(signal.SIGINT)
        code, _ = device.end()
    assert code == 0


def test_a_simulated_walk_of_a_given_length_arrives_whole_and_lossless() -> None:
    arguments = ("--camera", "sim", *SMALL, "--fps", "0", "--count", "25", "--codec", "lz4", "--max-silence-s", "inf")
    with (
        rig(*arguments, "--audit-share", "1", "--json") as device,
        Subscriber([address(device)], end_on_bye=True) as subscriber,
    ):
        pairs = received(subscriber)
        code, output = device.end()
    assert code == 0
    assert json.loads(output)["captured"] == 25 == len(pairs)  # all suppressed ones are audited
    assert decode(pairs[-1]).right.shape == (96, 128, 3)


def test_a_live_stream_does_not_wait_for_a_learner() -> None:
    with rig("--camera", "sim", *SMALL, "--fps", "50", "--count", "20", "--wait-for-learner", "no", "--json") as device:
        code, output = device.end()
    summary: dict[str, Any] = json.loads(output)
    assert code == 0
    assert (summary["captured"], summary["sent"]) == (20, 0)


def test_the_pairs_of_a_killed_rig_reach_the_learner_from_the_next_one(tmp_path: Path) -> None:
    """Nobody listens to the first rig; the second one has its folder."""
    flags = ("--camera", "sim", *SMALL, "--spool", str(tmp_path), "--name", "rig-1", "--dedupe-threshold", "5")
    with rig(*flags, "--fps", "50") as device:
        until(lambda: any(found.end >= 10 for found in find_epoch_ends(tmp_path).values()))
        device.process.kill()
        device.process.wait()
    ((epoch, earlier),) = find_epoch_ends(tmp_path).items()
    with rig(*flags) as device:
        with Subscriber([address(device)], consumer="one") as subscriber:
            pairs: list[EncodedPair] = []
            while sum(pair.header.epoch == epoch for pair in pairs) < earlier.end:
                pairs += received(subscriber, at_least=1)
            assert subscriber.stats().lost == 0
        device.process.send_signal(signal.SIGINT)
        assert device.end()[0] == 0
    found = [pair.header.seq for pair in pairs if pair.header.epoch == epoch]
    assert found == list(range(len(found)))
    # The kill may fall between a pair's append and the file that holds the end of the epoch.
    assert len(found) - earlier.end in (0, 1)


FINITE = ("--camera", "sim", *SMALL, "--fps", "0", "--count", "30", "--dedupe-threshold", "5", "--json")


def test_a_recording_ends_when_its_learner_has_made_every_pair_durable() -> None:
    with rig(*FINITE) as device, Subscriber([address(device)], consumer="one", end_on_bye=True) as subscriber:
        pairs = received(subscriber)
        until(lambda: f"durable with: one ({len(pairs)} pairs)" in "".join(device.said))
        assert device.process.poll() is None
        subscriber.acknowledge(subscriber.cursor())
        code, output = device.end()
    assert code == 0
    assert json.loads(output)["kept"] == json.loads(output)["sent"] == len(pairs)


def test_what_a_recorder_had_made_durable_before_it_left_is_no_backlog_at_the_end() -> None:
    with rig(*FINITE) as device:
        with Subscriber([address(device)], consumer="one", end_on_bye=True) as subscriber:
            pairs = received(subscriber)
            subscriber.acknowledge(subscriber.cursor())
            subscriber.leave()
        code, output = device.end()
    summary = json.loads(output)
    assert code == 0
    assert (summary["kept"], summary["backlog"]) == (len(pairs), 0)
    assert "no learner has made durable" not in "".join(device.said)


def test_a_learner_that_comes_back_after_the_end_of_a_recording_gets_the_pairs_it_had_not_made_durable() -> None:
    with rig(*FINITE) as device:
        with Subscriber([address(device)], consumer="one", end_on_bye=True) as subscriber:
            first = received(subscriber)
        with Subscriber([address(device)], consumer="one", end_on_bye=True) as subscriber:
            assert received(subscriber) == first
            subscriber.acknowledge(subscriber.cursor())
            assert device.end()[0] == 0


@pytest.mark.parametrize("way", ["ctrl-c", "silence"])
def test_a_recording_does_not_wait_for_its_learner_after_ctrl_c_or_a_long_silence(way: str) -> None:
    with rig(*FINITE, "--linger-s", "3600" if way == "ctrl-c" else "5") as device:
        with Subscriber([address(device)], consumer="one", end_on_bye=True) as subscriber:
            assert received(subscriber)
            until(lambda: "durable with: one" in "".join(device.said))
            if way == "ctrl-c":
                device.process.send_signal(signal.SIGINT)
        assert device.end()[0] == 0


def test_a_temporary_spool_is_deleted_with_its_process_and_that_of_a_killed_one_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    stranger = tmp_path / "babyagent-spool-stranger"
    stranger.mkdir()
    with rig("--camera", "sim", *SMALL) as device:
        address(device)
        (killed,) = (path for path in tmp_path.iterdir() if path != stranger)
        assert f"spool={killed}" in "".join(device.said)
        device.process.kill()
        device.process.wait()
    with rig("--camera", "sim", *SMALL) as device:
        address(device)
        assert not killed.exists()
        device.process.send_signal(signal.SIGINT)
        assert device.end()[0] == 0
    assert list(tmp_path.iterdir()) == [stranger]


def test_without_a_spool_a_late_learner_does_not_get_the_pairs_it_missed() -> None:
    with rig("--camera", "sim", *SMALL, "--spool", "none", "--fps", "50", "--dedupe-threshold", "5") as device:
        endpoint = address(device)
        with Subscriber([endpoint]) as subscriber:
            received(subscriber, at_least=3)
        with Subscriber([endpoint]) as subscriber:
            assert received(subscriber, at_least=2)[0].header.seq >= 3
            assert subscriber.stats().pending == subscriber.stats().lost == 0
        device.process.send_signal(signal.SIGINT)
        assert device.end()[0] == 0
    assert "spool=none" in "".join(device.said)


def test_metrics_are_served_while_it_runs() -> None:
    port = free_port()
    with rig("--camera", "sim", *SMALL, "--metrics-port", str(port)) as device:
        with Subscriber([address(device)]) as subscriber:
            received(subscriber, at_least=1)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_S) as answer:
                text = answer.read().decode()
        device.process.send_signal(signal.SIGINT)
        assert device.end()[0] == 0
    assert re.search(r"^babyagent_device_captured_pairs_total [1-9]", text, re.MULTILINE)
    assert re.search(r'^babyagent_device_kept_pairs_total\{reason="new"\} [1-9]', text, re.MULTILINE)
    assert re.search(r"^babyagent_device_spool_bytes [1-9]", text, re.MULTILINE)
    assert re.search(r"^babyagent_device_spool_pairs [1-9]", text, re.MULTILINE)
    assert re.search(r"^babyagent_device_spool_sync_seconds_count \d", text, re.MULTILINE)
    for name in ("evicted", "rot"):
        assert f'babyagent_device_lost_pairs_total{{cause="{name}"}} 0.0' in text
    assert "babyagent_device_unspooled_pairs_total 0.0" in text
    assert "babyagent_device_spool_oldest_age_seconds" in text


@pytest.fixture
def unequal(tmp_path: Path) -> Path:
    """folders/{left,right}: right lacks a file; sizes/{left,right}: right is larger."""
    for kind, files in (("folders", (3, 2)), ("sizes", (2, 2))):
        for eye, number in zip(("left", "right"), files, strict=True):
            (tmp_path / kind / eye).mkdir(parents=True)
            width = 70 if (kind, eye) == ("sizes", "right") else 64
            for index in range(number):
                cv2.imwrite(str(tmp_path / kind / eye / f"{index}.jpg"), np.full((48, width, 3), 90, np.uint8))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--camera", "webcam"], "no camera 'webcam'"),
        (["--camera", "dir:{data}/sizes/left,{data}/sizes/right"], "left is 64x48 colour and right is 70x48 colour"),
        (["--camera", "dir:{data}/none,{data}/none"], "no folder"),
        (["--camera", "sbs:{data}/folders/left/0.txt"], "no video"),
        (["--places", "1", "--bind", "tcp://0.0.0.0:0"], "--insecure"),
        (["--places", "1", "--bind", "nonsense"], "nonsense"),
        (["--name", "two words"], "--name"),
        (["--size", "320"], "--size"),
        (["--fps", "-1"], "--fps"),
        (["--fps", "1e-300"], "--fps must be 0.0001 to 1000"),
        (["--fps", "nan"], "--fps"),
        (["--seed", "-1"], "--seed must be 0"),
        (["--count", "99999999999999999999"], "--count must be 1"),
        (["--quality", "0"], "--quality"),
        (["--count", "0"], "--count"),
        (["--audit-share", "2"], "audit_share"),
        (["--target-per-hour", "5"], "max_silence_s 10 alone keeps 360"),
        (["--textures", "{data}/none"], "none"),
        (["--places", "1", "--spool", "/proc/self/spool"], "cannot keep pairs in /proc/self/spool.* --spool"),
        (["--places", "1", "--spool", "{data}/other", "--name", "rig-2"], "holds pairs of rig-1"),
        (["--spool-gib", "0"], "--spool-gib"),
        (["--spool-gib", "nan"], "--spool-gib"),
        (["--disk-floor-gib", "-1"], "--disk-floor-gib"),
        (["--linger-s", "-1"], "--linger-s"),
        (["--spool", ""], "--spool"),
        (["walk", "--out", "{data}"], "not an empty folder"),
        (["walk", "--places", "1", "--per-place", "1", "--out", "/proc/self/walk"], "/proc/self/walk"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    unequal: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str], own_signals: None
) -> None:
    """Called in this process, because a start takes a second."""
    open_small(unequal / "other").close()
    assert main([argument.format(data=unequal) for argument in arguments]) == 2
    check_one_line(capfd, message.format(data=unequal))


open_small = partial(Spool, limits=SpoolLimits(1 << 24, free_floor_bytes=0), device="rig-1")


def check_one_line(capfd: pytest.CaptureFixture[str], message: str) -> None:
    output, errors = capfd.readouterr()
    assert output == ""
    assert errors.count("\n") == 1, errors
    assert re.match(rf"error: .*{message}", errors), errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--camera", "v4l2:977,978"], "no camera at /dev/video977"),
        (["--places", "1", "--spool", "{data}/taken"], "another process has the spool {data}/taken"),
        (["--places", "1", "--bind", "tcp://127.0.0.1:{port}"], "127.0.0.1:{port} is in use"),
        (["--places", "1", "--bind", "tcp://192.0.2.1:5555", "--insecure"], "not an address of this machine"),
    ],
)
def test_a_resource_that_may_be_free_later_is_one_line_and_exit_code_1(
    tmp_path: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str], own_signals: None
) -> None:
    """After this exit code systemd starts the rig again, but not after a wrong setting. Nobody has 192.0.2.1 (RFC 5737)."""
    with open_small(tmp_path / "taken"), socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        known = {"data": tmp_path, "port": taken.getsockname()[1]}
        assert main([argument.format(**known) for argument in arguments]) == 1
    check_one_line(capfd, message.format(**known))


def test_a_labelled_walk_is_written_as_a_folder_per_place(tmp_path: Path) -> None:
    out = tmp_path / "walk"
    done = run("walk", "--out", str(out), "--places", "2", "--size", "64x48", "--per-place", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"folder": str(out), "places": 2, "images": 8}
    images = sorted(path.relative_to(out).parent.as_posix() for path in out.rglob("*.png"))
    assert images == sorted(2 * [f"{split}/place_0{place}" for split in ("train", "test") for place in (0, 1)])


def test_help_explains_every_flag() -> None:
    done = run("--help")
    assert done.returncode == 0
    for flag in (
        "--camera",
        "--bind",
        "--dedupe-threshold",
        "--target-per-hour",
        "--wait-for-learner",
        "--spool",
        "--json",
    ):
        assert flag in done.stdout
