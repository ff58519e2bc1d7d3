"""The examples, run as a person runs them: each is a process of its own, with small arguments.

Those that end by themselves are forked from one process that has loaded torch, which takes longer than most of them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from every_objective import CPU, small, some_pairs
from recorded import made, recorded
from waiting import WAIT_S

from learner.objectives.foreign import objective_named
from learner.trainer import Trainer
from stream.errors import EndOfStream
from stream.live.subscriber import Subscriber
from stream.pair import EncodedPair
from stream.source import Source

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
MAX_LINES = 40
NURSERY = """
import json, os, runpy, sys, traceback
import learner.cli.compose  # all that an example would load

for line in sys.stdin:
    words, variables = json.loads(line)
    pid = os.fork()
    if not pid:
        code, said = 1, os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.environ.update(variables)
        sys.argv, sys.path[0] = words, "examples"
        try:
            runpy.run_path(words[0], run_name="__main__")
            code = 0
        except SystemExit as ended:
            code = 0 if ended.code is None else ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def start(name: str, *words: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, f"examples/{name}.py", *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


Output = Callable[..., str]
"""What an example of this name prints, with these words and with these variables of its environment."""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Output]:
    said = tmp_path_factory.mktemp("said") / "said"
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY, str(said)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as nursery:
        tasks, codes = nursery.stdin, nursery.stdout
        assert tasks is not None
        assert codes is not None

        def printed(name: str, *words: str, **variables: str) -> str:
            tasks.write(json.dumps([[f"examples/{name}.py", *words], variables]) + "\n")
            tasks.flush()
            assert codes.readline() == "0\n", said.read_text()
            return said.read_text()

        yield printed
        tasks.close()


def to_the_end(source: Source) -> list[EncodedPair]:
    pairs: list[EncodedPair] = []
    try:
        while True:
            pairs += source.receive(16, WAIT_S)
    except EndOfStream:
        return pairs


def picture(number: int, *, width: int = 64) -> np.ndarray:
    """An image that no other number has: uint8 [48, width, 3]."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (width, 48), interpolation=cv2.INTER_NEAREST), np.uint8)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("recording") / "walk.mcap", [made(seq) for seq in range(12)])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("folders")
    for side, first in (("left", 0), ("right", 100)):
        (root / side).mkdir()
        for number in range(10):
            cv2.imwrite(str(root / side / f"{number:02}.png"), picture(first + number))
    return root / "left", root / "right"


@pytest.fixture(scope="module")
def learned(output: Output, folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What `learn_from_folders` printed, and the weights it exported."""
    weights = tmp_path_factory.mktemp("export") / "student.safetensors"
    return output("learn_from_folders", *map(str, folders), "--out", str(weights), "--batch-size", "8"), weights


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_what_it_shows_and_how_it_is_run(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < MAX_LINES
    ways = (f"Run it with: python examples/{path.name} ", f"python examples/{path.name} walk", f"examples.{path.stem}:")
    assert any(way in text for way in ways)
    assert f"def test_{path.stem}" in Path(__file__).read_text(encoding="utf-8"), (
        "each example has a test of its name here"
    )


def test_learn_from_recording_trains_and_measures_before_and_after(output: Output, recording: Path) -> None:
    printed = output("learn_from_recording", str(recording), "--steps", "2", "--batch-size", "8")
    assert re.findall(r"^step (\d+) +pairs 8 +loss [\d.]+$", printed, re.MULTILINE) == ["1", "2"]
    assert len(re.findall(r"k-NN on digits .*: 0\.\d+$", printed, re.MULTILINE)) == 2


def test_learn_from_folders_trains_on_every_pair_and_exports(learned: tuple[str, Path]) -> None:
    printed, weights = learned
    assert "10 pairs, 20 steps; load the weights with: timm.create_model(" in printed
    assert {path.suffix for path in weights.parent.iterdir()} == {".safetensors", ".json", ".md"}


def test_use_weights_compares_images_with_each_other(
    output: Output, learned: tuple[str, Path], folders: tuple[Path, Path]
) -> None:
    images = [str(path) for path in sorted(folders[0].iterdir())[:3]]
    rows = [line.split() for line in output("use_weights", str(learned[1]), *images, "--side", "32").splitlines()]
    assert [row[0] for row in rows] == ["00.png", "01.png", "02.png"]
    table = np.array([[float(cell) for cell in row[1:]] for row in rows])
    assert np.allclose(np.diag(table), 1.0)
    assert np.allclose(table, table.T)


def test_goal_picture_gives_the_highest_reward_to_the_goal_itself(
    output: Output, learned: tuple[str, Path], folders: tuple[Path, Path]
) -> None:
    images = [str(path) for path in sorted(folders[0].iterdir())[:3]]
    rows = [
        line.split()
        for line in output("goal_picture", str(learned[1]), images[1], *images, "--side", "32").splitlines()
    ]
    assert [row[0] for row in rows] == ["00.png", "01.png", "02.png"]
    for column in (2, 4):
        rewards = [float(row[column]) for row in rows]
        assert max(rewards) == rewards[1] > min(rewards)


def test_own_camera_publishes_what_a_subscriber_receives(tmp_path: Path) -> None:
    film = str(tmp_path / "both.avi")
    video = cv2.VideoWriter(film, cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (128, 48))
    for number in range(6):
        video.write(picture(number, width=128))
    video.release()
    with start("own_camera", film, "--bind", "tcp://127.0.0.1:0") as process:
        assert process.stdout is not None
        endpoint = process.stdout.readline().split()[-1]
        with Subscriber([endpoint], end_on_bye=True) as subscriber:
            pairs = to_the_end(subscriber)
        printed = process.stdout.read()
        assert process.wait(WAIT_S) == 0, printed
    assert [pair.header.seq for pair in pairs] == list(range(6))
    assert {(pair.header.device, pair.header.width, pair.header.height) for pair in pairs} == {("mine", 64, 48)}
    assert printed.count("sent True") == 6


def test_own_signals_publishes_an_imu_with_every_pair() -> None:
    with start("own_signals", "--count", "30", "--bind", "tcp://127.0.0.1:0") as process:
        assert process.stdout is not None
        endpoint = process.stdout.readline().split()[-1]
        with Subscriber([endpoint], end_on_bye=True) as subscriber:
            pairs = to_the_end(subscriber)
        assert process.wait(WAIT_S) == 0
    for pair in pairs:
        imu = pair.telemetry.signals["acceleration"]
        assert imu.width == 3
        assert np.diff(imu.times_ns).min() >= 5_000_000
    assert len(pairs) >= 2
    assert "action" in pairs[1].telemetry.signals  # the simulator's own


def test_read_recording_lists_the_topics_and_saves_the_first_pair(
    output: Output, recording: Path, tmp_path: Path
) -> None:
    printed = output("read_recording", str(recording), "--out", str(tmp_path))
    for topic in ("/stereo/meta", "/stereo/left/image", "/stereo/right/image"):
        assert re.search(rf"^{topic} +12 messages$", printed, re.MULTILINE)
    assert printed.count("2023-11-14 22:13:20+00:00") == 2
    first = made(0)
    assert ((tmp_path / "left.jpeg").read_bytes(), (tmp_path / "right.jpeg").read_bytes()) == (first.left, first.right)


def test_own_source_learns_from_arrays_of_one_camera(output: Output, tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", left=np.stack([picture(number) for number in range(10)]))
    printed = output("own_source", str(tmp_path / "images.npz"), "--batch-size", "8")
    assert re.findall(r"^step (\d+) +pairs \d+ +loss [\d.]+$", printed, re.MULTILINE) == [str(n) for n in range(1, 21)]


def test_own_policy_keeps_the_first_and_the_last_pairs(output: Output, recording: Path) -> None:
    printed = output("own_policy", str(recording), "--capacity", "6", "--batch-size", "4").splitlines()
    assert printed[-1].endswith("kept [0, 1, 2, 9, 10, 11]")


def test_notebook_loop_learns_and_measures(output: Output, tmp_path: Path) -> None:
    for number in range(20):
        cv2.imwrite(str(tmp_path / f"{number:02}.png"), picture(number))
    printed = output("notebook_loop", CAMERA=f"dir:{tmp_path}", STEPS="3")
    assert re.search(r"^3 steps on \d+ pairs: loss [\d.]+ -> [\d.]+$", printed, re.MULTILINE)
    assert re.search(r"^k-NN on digits 0\.\d+ -> 0\.\d+$", printed, re.MULTILINE)


def test_own_objective() -> None:
    """`tests/test_learner_choices.py` trains it through the command; here it learns something, and has its own settings."""
    learner = Trainer(
        replace(small("simclr"), objective=objective_named("examples.own_objective:Rotation").settings()), CPU
    )
    losses = [learner.step(some_pairs(seed=step % 2)).report.loss for step in range(30)]
    assert sum(losses[-6:]) < sum(losses[:6])
    assert learner.config.objective.name == "examples.own_objective:Rotation"
