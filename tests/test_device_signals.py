"""What a rig measures beside its images: from a function, a camera or the simulator to the pair, and nothing valid is lost."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from link_steps import LOOPBACK, received
from recorded import read_pairs
from running import ROOT, environment
from signalled import PAIR_NS, forged, paired, parts, unexpected
from spooled import open_spool
from waiting import WAIT_S, until

from device.camera import BadShot, CameraError, EyeImage, Shot
from device.cameras.custom import open_signals
from device.cameras.open import open_camera
from device.capture import capture
from device.cli.capture_settings import RigSettings
from device.cli.local import _epoch, open_local
from device.dedupe import Dedupe, DedupeConfig
from device.metrics import DeviceMetrics
from device.signals import RigTelemetry
from device.sim.camera import SimCamera
from device.sim.experience import motion
from learner.runs.commit import pack, unpack
from stream.codec import TOPIC, from_parts, to_parts
from stream.live.publisher import Publisher
from stream.live.subscriber import Subscriber
from stream.pair import EncodedPair
from stream.signals.signal import MAX_ROWS, Signal, Telemetry

EPOCH = "0123456789abcdef" * 2
MS = 1_000_000


def at(number: int) -> int:
    return PAIR_NS + 100 * MS * number


def shots(kinds: str) -> list[Shot | BadShot]:
    """A shot for each letter, 100 ms apart: n shows something new, s the same as before, b cannot be read."""
    made: list[Shot | BadShot] = []
    seed = 0
    for number, kind in enumerate(kinds):
        seed += kind == "n"
        image = np.random.default_rng(seed).integers(30, 220, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        made.append(BadShot("torn") if kind == "b" else Shot(EyeImage(at(number), image), EyeImage(at(number), image)))
    return made


def kept(kinds: str, read: Callable[[int], Telemetry], metrics: DeviceMetrics | None = None) -> list[EncodedPair]:
    dedupe = Dedupe(DedupeConfig(audit_share=0))
    return list(capture(shots(kinds), dedupe, device="rig", epoch=EPOCH, metrics=metrics, signals=read))


def total(metrics: DeviceMetrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"babyagent_device_{name}_total", labels) or 0.0


def two_rows(captured_ns: int) -> Telemetry:
    """An IMU that was read twice since the last shot."""
    return Telemetry({"imu": Signal([[1.0], [2.0]], [captured_ns - 50 * MS, captured_ns], "g")})


# A function


def test_the_rows_of_all_shots_since_the_last_kept_pair_go_with_the_next_one() -> None:
    pairs = kept("nssbnn", two_rows)
    assert [len(pair.telemetry.signals["imu"]) for pair in pairs] == [2, 6, 2]
    assert pairs[1].telemetry.signals["imu"].times_ns.tolist() == [
        at(number) - early for number in (1, 2, 4) for early in (50 * MS, 0)
    ]


def test_a_rig_without_signals_sends_the_bytes_that_it_sent_before() -> None:
    dedupe = Dedupe(DedupeConfig(audit_share=0))
    plain = list(capture(shots("nn"), dedupe, device="rig", epoch=EPOCH))
    assert plain == kept("nn", lambda captured_ns: Telemetry())
    assert [to_parts(pair)[1][3] for pair in plain] == [2, 2]


def test_more_rows_than_a_pair_can_have_are_thinned_and_counted() -> None:
    def imu_of_1_khz(captured_ns: int) -> Telemetry:
        times_ns = captured_ns - MS * np.arange(99, -1, -1)
        return Telemetry({"imu": Signal(np.zeros((100, 6)), times_ns)})

    metrics = DeviceMetrics()
    pairs = kept("nsssn", imu_of_1_khz, metrics)
    assert [len(pair.telemetry.signals["imu"]) for pair in pairs] == [MAX_ROWS, MAX_ROWS]
    assert total(metrics, "thinned_signal_rows") == 500 - 2 * MAX_ROWS


def test_a_function_that_fails_costs_only_its_signals_and_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    def broken(captured_ns: int) -> Telemetry:
        if captured_ns == at(1):
            raise OSError("no answer\non the bus")
        return {"imu": 1} if captured_ns == at(2) else two_rows(captured_ns)  # type: ignore[return-value]

    metrics = DeviceMetrics()
    pairs = kept("nnnn", broken, metrics)
    assert [sorted(pair.telemetry.signals) for pair in pairs] == [["imu"], [], [], ["imu"]]
    assert total(metrics, "refused_signals", reason="failed") == 2
    assert [record.getMessage() for record in caplog.records] == [
        "signals: the function that reads signals failed: OSError: no answer on the bus"
    ]


class Changing(dict[str, Signal]):
    """As a dictionary is to which a thread adds while it is read."""

    def keys(self) -> Any:
        raise RuntimeError("dictionary changed size during iteration")

    __iter__ = items = keys


@pytest.mark.parametrize("wrong", [None, 5, Telemetry(5), Telemetry([1]), Telemetry(Changing(a=Signal(1.0, 5)))])  # type: ignore[arg-type]
@pytest.mark.parametrize("whose", ["the function that reads signals", "the telemetry of the camera"])
def test_whatever_a_function_or_a_camera_gives_images_go_on(
    whose: str, wrong: Any, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = DeviceMetrics()
    telemetry = RigTelemetry(metrics, (lambda _captured_ns: wrong) if "function" in whose else None)
    (shot,) = shots("n")
    assert isinstance(shot, Shot)
    telemetry.add(shot if "function" in whose else replace(shot, telemetry=wrong))
    assert telemetry.take(shot) == Telemetry()
    assert total(metrics, "refused_signals", reason="failed") == 1
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"signals: {whose} failed: ")


def test_bad_signals_are_counted_by_reason_and_all_else_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    def odd(captured_ns: int) -> Telemetry:
        first = captured_ns == at(0)
        signals = {
            "good": Signal(1.0, captured_ns),
            "width": Signal([1.0] if first else [1.0, 2.0], captured_ns),
            "nan": Signal([[float("nan")], [3.0]], [captured_ns, captured_ns]),
            "back": Signal([[1.0], [2.0]], [captured_ns, captured_ns - 1]),
            "no name": Signal(1.0, captured_ns),
            "far": Signal(1.0, 5),
            "text": "1.0",
        }
        return Telemetry(signals, episode="a b")  # type: ignore[arg-type]

    metrics = DeviceMetrics()
    pairs = kept("nn", odd, metrics)
    assert [sorted(pair.telemetry.signals) for pair in pairs] == [
        ["back", "good", "nan", "width"],
        ["back", "good", "nan"],
    ]
    assert {pair.telemetry.episode for pair in pairs} == {""}
    counts = {
        reason: total(metrics, "refused_signals", reason=reason) for reason in ("form", "changed", "finite", "times")
    }
    assert counts == {"form": 6, "changed": 1, "finite": 2, "times": 4}
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 5  # one a minute for each reason and signal
    assert "signals: nan has numbers that are not finite in 1 of 2 rows, which are left out" in lines
    assert any(line.startswith("signals: back has times that run back in 1 of 2 rows") for line in lines)
    assert any(line.startswith("signals: far has times more than 24 hours away from their pair") for line in lines)
    assert [from_parts(to_parts(pair), unexpected) for pair in pairs] == pairs


def test_ten_thousand_names_cost_one_line(caplog: pytest.LogCaptureFixture) -> None:
    pairs = kept("n", lambda ns: Telemetry({f"n{number}": Signal(1.0, ns) for number in range(10_000)}))
    assert len(pairs[0].telemetry.signals) == 32
    assert len(caplog.records) == 1


def test_episode_and_subject_hold_until_others_are_said() -> None:
    said = {at(1): Telemetry(episode="1"), at(3): Telemetry(episode="2", subject="anna")}
    pairs = kept("nnnnn", lambda captured_ns: said.get(captured_ns, Telemetry()))
    assert [(pair.telemetry.episode, pair.telemetry.subject) for pair in pairs] == [
        ("", ""),
        ("1", ""),
        ("1", ""),
        ("2", "anna"),
        ("2", "anna"),
    ]


# The command line


def test_signals_are_named_as_a_function_or_a_class_with_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
    from stream.signals.signal import Signal, Telemetry
    def read(captured_ns):
        return Telemetry({"reward": Signal(1.0, captured_ns)})
    class Imu:
        def __init__(self, gain="1"):
            self.gain = float(gain)
        def __call__(self, captured_ns):
            return Telemetry({"reward": Signal(self.gain, captured_ns)}, episode="own")
    class Silent:
        pass
    class Broken:
        def __init__(self):
            raise OSError("no bus")
    """
    (tmp_path / "sensors_of_a_test.py").write_text("\n".join(line[4:] for line in code.splitlines()))
    (tmp_path / "sensors_of_a_test_with_an_error.py").write_text("def read(:")
    (tmp_path / "sensors_of_a_test_that_ends.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    rig = RigSettings(signals="sensors_of_a_test:read", episode="e1", subject="s1").open_signals()
    own = RigSettings(signals="sensors_of_a_test:Imu?gain=3", episode="e1").open_signals()
    labels = RigSettings(episode="e1").open_signals()
    assert rig is not None
    assert own is not None
    assert labels is not None
    assert rig(PAIR_NS) == Telemetry({"reward": Signal(1.0, PAIR_NS)}, "e1", "s1")
    assert own(PAIR_NS) == Telemetry({"reward": Signal(3.0, PAIR_NS)}, "own")
    assert labels(PAIR_NS) == Telemetry(episode="e1")
    assert RigSettings().open_signals() is None
    for text, why in (
        ("sensors_of_a_test:nothing", "no function or class nothing"),
        ("sensors_of_a_test_with_an_error:read", "cannot be imported: SyntaxError"),
        ("sensors_of_a_test_that_ends:read", "cannot be imported: SystemExit: 3"),
        ("nowhere_at_all:read", "no module nowhere_at_all: start in its folder"),
        ("sensors_of_a_test:read?gain=3", "options are for a class"),
        ("sensors_of_a_test:Imu?volume=3", "cannot be opened: TypeError"),
        ("sensors_of_a_test:Silent", "cannot be called"),
        ("sensors_of_a_test:Broken", "cannot be opened: OSError: no bus"),
        ("read", "expected package.module:function"),
    ):
        with pytest.raises(CameraError, match=why) as caught:
            open_signals(text)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flag", ["--episode", "--subject"])
def test_a_label_that_cannot_be_sent_is_refused_at_the_start(flag: str) -> None:
    with pytest.raises(ValueError, match=rf"{flag} is 1 to 64 of A-Z"):
        (RigSettings(episode="a b") if flag == "--episode" else RigSettings(subject="a b")).check()


def test_the_epochs_of_a_camera_without_signals_are_those_of_earlier_versions() -> None:
    """A run that reads a camera in its own process goes on where it stopped."""
    expected = {"sim": "941458d83b6b52a5", "dir:a,b": "37de0b19093d4600"}
    for camera, begun in expected.items():
        settings = RigSettings(camera=camera, fps=5.0 if camera != "sim" else None)
        assert _epoch(settings, "rig", None, lambda: 0)[:16] == begun
        other = RigSettings(camera=camera, subject="anna")
        assert _epoch(other, "rig", None, lambda: 0)[:16] not in expected.values()


def test_the_recorder_writes_signals_and_subject(tmp_path: Path) -> None:
    words = ["record", "--camera", "sim?reward=room", "--size", "64x48", "--places", "2", "--count", "20"]
    words += ["--subject", "anna", "--out", str(tmp_path / "walk.mcap")]
    command = [sys.executable, "-m", "device", *words]
    subprocess.run(command, check=True, env=environment(), cwd=ROOT, timeout=WAIT_S, capture_output=True)
    pairs = read_pairs((tmp_path / "walk.mcap").read_bytes())
    assert {pair.telemetry.subject for pair in pairs} == {"anna"}
    assert all({"action", "reward"} >= set(pair.telemetry.signals) for pair in pairs)
    assert "reward" in pairs[0].telemetry.signals


# The simulator


def test_the_action_of_the_simulator_is_its_motion() -> None:
    camera = SimCamera(size=(48, 64), places=2, fps=10.0)
    poses, made = list(islice(camera.poses(), 60)), list(islice(camera, 60))
    assert made[0].telemetry.signals == {}
    position = poses[0].position
    for before, now, shot in zip(poses, poses[1:], made[1:], strict=False):
        action = shot.telemetry.signals["action"]
        assert action.unit == "m/s, rad/s"
        assert action.times_ns.tolist() == [shot.left.captured_ns]
        np.testing.assert_array_equal(action.values[0], 10.0 * motion(before, now))
        position = position + before.axes.T @ action.values[0, :3] / 10.0
    np.testing.assert_allclose(position, poses[-1].position, atol=1e-9)
    assert np.abs([shot.telemetry.signals["action"].values for shot in made[1:]]).max() > 0.1


def test_a_turn_to_the_right_is_a_positive_turn_about_the_axis_that_points_down() -> None:
    (pose,) = islice(SimCamera(size=(48, 64), places=1).poses(), 1)
    level = replace(pose, yaw=0.0, pitch=0.0, roll=0.0)
    np.testing.assert_allclose(motion(level, replace(level, yaw=0.1, z=level.z + 2)), [0, 0, 2, 0, 0.1, 0], atol=1e-9)
    np.testing.assert_allclose(motion(level, replace(level, x=level.x + 1)), [1, 0, 0, 0, 0, 0], atol=1e-9)


def test_the_reward_of_the_simulator_is_a_new_room_and_only_on_request() -> None:
    plain, rewarded = SimCamera(size=(48, 64), places=3), SimCamera(size=(48, 64), places=3, reward=True)
    places = [pose.place for pose in islice(plain.poses(), 400)]
    rewards = [float(shot.telemetry.signals["reward"].values[0, 0]) for shot in islice(rewarded, 400)]
    assert rewards == [float(place not in places[:number]) for number, place in enumerate(places)]
    assert sum(rewards) == len(set(places)) > 1
    assert all("reward" not in shot.telemetry.signals for shot in islice(plain, 5))


def test_the_reward_is_an_option_of_the_camera() -> None:
    with closing(open_camera("sim?reward=room")) as camera:
        assert "reward" in next(iter(camera)).telemetry.signals  # type: ignore[union-attr]
    with pytest.raises(CameraError, match=r"sim\?reward=food"):
        open_camera("sim?reward=food")


def test_a_camera_in_the_learners_process_gives_the_same_signals_when_it_goes_on() -> None:
    settings = RigSettings(camera="sim?reward=room", size="64x48", places=2, count=60)
    with closing(open_local(settings, now_ns=lambda: PAIR_NS)) as source:
        first = received(source, 3)
        cursor = source.cursor()
        rest = received(source, 2)
    with closing(open_local(settings, cursor)) as again:
        assert received(again, 2) == rest
    assert all("reward" in pair.telemetry.signals for pair in first + rest)


# On the way


def test_spool_link_and_store_keep_signals_bit_for_bit(tmp_path: Path) -> None:
    sent = kept("nn", two_rows)
    with (
        open_spool(tmp_path, device="rig", epoch=EPOCH) as spool,
        Publisher(LOOPBACK, device="rig", epoch=EPOCH, shelf=spool) as publisher,
    ):
        for pair in sent:
            assert spool.append(pair)
        rows = spool.read(EPOCH, 0, 2, 1 << 20).rows
        assert [from_parts([TOPIC, *row], unexpected) for row in rows] == sent
        with Subscriber([publisher.endpoint], consumer="learner") as source:
            assert received(source, 2) == sent
    assert [unpack(pack(pair)) for pair in sent] == sent
    assert [to_parts(unpack(pack(pair))) for pair in sent] == [to_parts(pair) for pair in sent]


def test_a_subscriber_counts_and_names_a_bad_signal_and_receives_its_pair(caplog: pytest.LogCaptureFixture) -> None:
    pair = paired()
    bad = parts("imu", {PAIR_NS: (float("inf"),)})
    message = forged(pair, [bad, parts("reward", {PAIR_NS: (1.0,)})])
    sick = EncodedPair(pair.header, pair.left, pair.right, header_part=message[1])
    with (
        caplog.at_level(logging.WARNING),
        Publisher(LOOPBACK, device="rig", epoch=pair.header.epoch) as publisher,
        Subscriber([publisher.endpoint]) as source,
    ):
        assert publisher.wait_for_subscriber(WAIT_S)
        publisher.send(sick)
        (got,) = received(source, 1)
        until(lambda: source.stats().malformed.get("signal_finite") == 1, source.stats)
    assert list(got.telemetry.signals) == ["reward"]
    assert to_parts(got) == message
    assert "signal dropped: signal_finite: rig/55555555/0: imu has a value that is not finite" in caplog.text
