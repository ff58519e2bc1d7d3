"""From shots to encoded pairs: numbers, counts, untouched bytes, bad shots, and their metrics."""

from __future__ import annotations

import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from http_client import is_taken, open_descriptors
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from waiting import WAIT_S, until

from benchmarks.shared.machine import free_port
from device.camera import BadShot, CameraSettings, EyeImage, Shot, SimLabels
from device.cameras.recorded.folders import open_folders
from device.capture import capture, paced
from device.dedupe import Dedupe, DedupeConfig
from device.metrics import CaptureCounts, DeviceMetrics
from device.metrics_server import MAX_CONNECTIONS, serving
from device.sim.camera import SimCamera
from stream.codec import decode
from stream.errors import EndOfStream, EndpointTaken
from stream.image import Image
from stream.pair import Codec, EncodedPair
from stream.source import IteratorSource

EPOCH = "0123456789abcdef" * 2
DARK = np.zeros((48, 64, 3), np.uint8)


def view(seed: int) -> Image:
    """A picture that differs for every seed."""
    coarse = np.random.default_rng(seed).integers(30, 220, (6, 8, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, (64, 48), interpolation=cv2.INTER_NEAREST), np.uint8)


def shot(left: Image, right: Image | None = None, at_ns: int = 0, skew_ns: int = 0) -> Shot:
    return Shot(EyeImage(at_ns, pixels=left), EyeImage(at_ns + skew_ns, pixels=left if right is None else right))


def jpeg(image: Image) -> bytes:
    return cv2.imencode(".jpg", image)[1].tobytes()


def captured(
    shots: list[Shot | BadShot], *, codec: Codec = "jpeg", metrics: DeviceMetrics | None = None
) -> list[EncodedPair]:
    dedupe = Dedupe(DedupeConfig(audit_share=0))
    return list(capture(shots, dedupe, device="rig", epoch=EPOCH, codec=codec, metrics=metrics))


def test_kept_pairs_are_numbered_without_holes_and_carry_the_counts_of_pairs_left_out_before_them() -> None:
    a, b, c = view(1), view(2), view(3)
    shots: list[Shot | BadShot] = [shot(a), shot(a), shot(a), shot(DARK), shot(b), BadShot("x"), shot(c), shot(c)]
    headers = [pair.header for pair in captured(shots)]
    assert [(h.seq, h.suppressed, h.junk, h.kept) for h in headers] == [
        (0, 0, 0, "new"),
        (1, 2, 1, "new"),
        (2, 0, 0, "new"),
    ]
    assert {(h.device, h.epoch, h.height, h.width, h.channels) for h in headers} == {("rig", EPOCH, 48, 64, 3)}


def test_left_stays_left_and_each_eye_keeps_its_time() -> None:
    left, right = view(1), view(2)
    (pair,) = captured([shot(left, right, at_ns=10**18, skew_ns=3_000_000)], codec="lz4")
    decoded = decode(pair)
    assert np.array_equal(decoded.left, left)
    assert np.array_equal(decoded.right, right)
    assert (pair.header.left_ns, pair.header.skew_ns) == (10**18, 3_000_000)


def test_a_cameras_own_jpeg_is_forwarded_untouched() -> None:
    left, right = jpeg(view(1)), jpeg(view(2))
    (pair,) = captured([Shot(EyeImage(0, jpeg=left), EyeImage(0, jpeg=right))])
    assert (pair.left, pair.right) == (left, right)


@pytest.mark.parametrize("grey", [False, True])
def test_with_lz4_the_decoded_pixels_of_a_cameras_jpeg_are_sent(grey: bool) -> None:
    image = view(1)[:, :, 0] if grey else view(1)
    data = jpeg(np.ascontiguousarray(image))
    (pair,) = captured([Shot(EyeImage(0, jpeg=data), EyeImage(0, jpeg=data))], codec="lz4")
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR)
    assert np.array_equal(decode(pair).left, np.asarray(expected))
    assert pair.header.channels == (1 if grey else 3)


def test_shots_that_cannot_be_read_are_left_out_and_counted() -> None:
    good = jpeg(view(1))
    metrics = DeviceMetrics()
    shots: list[Shot | BadShot] = [
        Shot(EyeImage(0, jpeg=good), EyeImage(0, jpeg=good)),
        BadShot("a failed grab"),
        Shot(EyeImage(0, jpeg=good), EyeImage(0, jpeg=good[:-40])),  # cut off: OpenCV would fill it with grey
        Shot(EyeImage(0, jpeg=b"\xff\xd8\xff nonsense \xff\xd9"), EyeImage(0, jpeg=good)),
        Shot(EyeImage(0, pixels=view(2)), EyeImage(0, pixels=view(2)[:, :60])),  # sizes that differ later on
        Shot(EyeImage(0), EyeImage(0, jpeg=good)),
        shot(view(3)),
    ]
    assert [pair.header.seq for pair in captured(shots, metrics=metrics)] == [0, 1]
    assert metrics.counts() == CaptureCounts(captured=7, kept=2, suppressed=0, junk=0, bad=5)


def test_everything_captured_is_accounted_for() -> None:
    metrics = DeviceMetrics()
    random = np.random.default_rng(0)
    shots: list[Shot | BadShot] = [
        BadShot("x") if kind == 0 else shot(DARK if kind == 1 else view(int(kind)))
        for kind in random.integers(0, 6, 200)
    ]
    pairs = captured(shots, metrics=metrics)
    tally = metrics.counts()
    assert tally.captured == 200 == tally.kept + tally.suppressed + tally.junk + tally.bad
    assert min(tally.kept, tally.suppressed, tally.junk, tally.bad) > 0
    assert tally.kept == len(pairs)
    assert sum(pair.header.suppressed for pair in pairs) <= tally.suppressed


def test_labels_of_the_simulator_are_never_sent() -> None:
    plain = shot(view(1))
    labelled = Shot(plain.left, plain.right, SimLabels(place=3, objects=(7,)))
    assert captured([plain]) == captured([labelled])


@pytest.mark.parametrize("change", [{"device": "two words"}, {"epoch": "new"}, {"quality": 0}])
def test_settings_that_cannot_be_sent_are_refused(change: dict[str, object]) -> None:
    settings: dict[str, object] = {"device": "rig", "epoch": EPOCH} | change
    with pytest.raises(ValueError, match=r"cannot be sent|quality"):
        next(capture([shot(view(1))], Dedupe(DedupeConfig()), **settings))  # type: ignore[arg-type]


def test_the_simulated_rig_drives_a_learner_in_process_the_same_way_every_time() -> None:
    def source() -> IteratorSource:
        camera = SimCamera(size=(96, 128), places=2, start_ns=0)
        return IteratorSource(capture(islice(camera, 30), Dedupe(DedupeConfig()), device="sim", epoch=EPOCH))

    first, second = source(), source()
    pairs = first.receive(100, 0.0)
    assert pairs == second.receive(100, 0.0)
    assert [pair.header.seq for pair in pairs] == list(range(len(pairs)))
    assert len(pairs) >= 2
    with pytest.raises(EndOfStream):
        first.receive(1, 0.0)


def test_a_truncated_file_among_real_ones_costs_only_itself(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "stereo" / "kitti_colour"
    for eye in ("left", "right"):
        (tmp_path / eye).mkdir()
        for file in sorted((folder / eye).iterdir())[:5]:
            (tmp_path / eye / file.name).write_bytes(file.read_bytes())
    cut = tmp_path / "right" / "000002.jpg"
    cut.write_bytes(cut.read_bytes()[:30_000])
    metrics = DeviceMetrics()
    pairs = captured(
        list(open_folders(tmp_path / "left", tmp_path / "right", CameraSettings(start_ns=0))), metrics=metrics
    )
    assert metrics.counts() == CaptureCounts(captured=5, kept=4, suppressed=0, junk=0, bad=1)
    assert decode(pairs[2]).left.shape == (376, 1241, 3)


class Clock:
    """Time that passes only by sleeping or working."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_shots_are_paced_and_after_a_delay_there_is_no_burst() -> None:
    clock = Clock()
    work_s = iter([0.0, 0.05, 0.35, 0.0, 0.0, 0.0])

    def shots() -> Iterator[Shot | BadShot]:
        for seconds in work_s:
            clock.now_s += seconds
            yield BadShot("x")

    times_s = [clock() for _ in paced(shots(), 10.0, clock, clock.sleep)]
    assert times_s == pytest.approx([0.0, 0.1, 0.45, 0.55, 0.65, 0.75])


def test_metrics_are_served_on_the_loopback_under_their_documented_names() -> None:
    metrics = DeviceMetrics(CollectorRegistry())
    metrics.threshold.set(16)
    captured([shot(view(1)), shot(view(1)), shot(DARK), BadShot("x")], metrics=metrics)
    port = free_port()
    with metrics.served(port), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_S) as answer:
        text = answer.read().decode()
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["babyagent_device_captured_pairs_total",] == 4
    assert samples["babyagent_device_kept_pairs_total", "new"] == 1
    assert samples["babyagent_device_suppressed_pairs_total",] == 1
    assert samples["babyagent_device_junk_pairs_total", "dark"] == 1
    assert samples["babyagent_device_bad_pairs_total",] == 1
    assert samples["babyagent_device_encode_seconds_count",] == 1
    assert samples["babyagent_device_skew_seconds_count",] == 1
    assert samples["babyagent_device_dedupe_threshold_levels",] == 16


def test_a_metrics_port_in_use_is_refused_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = pytest.raises(EndpointTaken, match=f"127.0.0.1:{port}.*metrics-port")
        with said as caught, DeviceMetrics().served(port):
            pass
    assert caught.value.exit_code == 1  # it may pass, so a service is started again


def test_strangers_on_the_metrics_port_neither_use_up_descriptors_nor_keep_a_scraper_waiting() -> None:
    port, before = free_port(), open_descriptors()
    with DeviceMetrics().served(port), ExitStack() as held:
        for number in range(200):
            client = held.enter_context(socket.create_connection(("127.0.0.1", port), WAIT_S))
            client.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
            if number % 50 == 49:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_S) as answer:
                    assert answer.status == 200
                assert open_descriptors() - before - number <= MAX_CONNECTIONS + 8  # this process has both ends


@pytest.mark.parametrize("begin", [b"GET /metrics HTTP/1.1\r\nX: ", b"", b"GET"])
def test_a_request_on_the_metrics_port_that_comes_byte_by_byte_is_cut(begin: bytes) -> None:
    port = free_port()
    with serving(lambda *_: [], port, patience_s=0.1), socket.create_connection(("127.0.0.1", port), WAIT_S) as client:
        client.sendall(begin)
        until(lambda: not is_taken(client, b"a"))


def test_no_metrics_port_means_no_server() -> None:
    before = threading.active_count()
    with DeviceMetrics().served(None), DeviceMetrics().served(0):
        assert threading.active_count() == before
