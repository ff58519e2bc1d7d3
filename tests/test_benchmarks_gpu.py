"""The bench on a GPU, rehearsed on the CPU with small sizes, and without the packages that a GPU machine may not have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.gpu import pictures
from benchmarks.gpu.bench import GOALS, PARTS, given_pictures, judged
from benchmarks.gpu.correctness import bounded
from benchmarks.gpu.parts import Part, Task, limits_s
from benchmarks.gpu.step import by_kind
from stream.host.program import Stop

ROOT = Path(__file__).parents[1]
MISSING = (
    *("zmq", "lz4", "msgspec", "tyro", "mcap", "foxglove_schemas_protobuf", "zlib_ng", "zstandard"),
    *("starlette", "uvicorn", "prometheus_client"),
)
"""What a machine with PyTorch need not have."""
ROOMS = ("device/sim", "learner/memory", "learner/networks", "learner/objectives", "learner/probes", "learner/views")
FILES = (
    *("device/camera.py", "learner/config.py", "learner/footprint.py", "learner/guard.py", "learner/trainer.py"),
    *("learner/runs/checkpoint.py", "learner/weights/card.py", "learner/weights/export.py", "stream/host/program.py"),
)
NEEDS_THE_STREAM = {"learner.memory.decoding"}
LONG_S = 300.0
ON_PATH = os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.fixture
def without_packages(tmp_path: Path) -> dict[str, str]:
    """An environment whose processes, and those that they start, cannot import what is MISSING."""
    for name in MISSING:
        (tmp_path / "blocked" / name).mkdir(parents=True)
        (tmp_path / "blocked" / name / "__init__.py").write_text(f"raise ModuleNotFoundError(name={name!r})\n")
    return os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path / 'blocked'}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of a rehearsal."""
    folder = tmp_path_factory.mktemp("gpu") / "pictures"
    pictures.render(pictures.REHEARSAL, folder, time.monotonic() + LONG_S)
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rehearsed(part: str, folder: Path, out: Path) -> dict[str, Any]:
    """The results of a part at rehearsal scale, run in this process."""
    deadline_s = time.monotonic() + LONG_S
    task = Task(device="cpu", scale="rehearsal", pictures=str(folder), out=str(out), part=part, deadline_s=deadline_s)
    import_module(f"benchmarks.gpu.{part}").run(task)
    results = task.results(part)
    assert not [figures["error"] for figures in results.values() if "error" in figures]
    return results


def part_of(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> Part:
    """A part with this code behind a first result."""
    (folder / "little_part.py").write_text(
        f"def run(task):\n    task.report('first', {{'figure': 1}})\n    {code}\n", encoding="utf-8"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return Part("little", "little_part", 1.0, "does little")


def task_of(out: Path) -> Task:
    return Task(device="cpu", scale="rehearsal", pictures=str(out / "pictures"), out=str(out))


class StopAfter(Stop):
    """A request to end that comes as soon as a file has a line."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def is_set(self) -> bool:
        return self.path.exists() and self.path.read_text().endswith("\n")


def test_what_the_bench_uses_is_imported_without_the_packages_of_the_stream_and_the_page(
    without_packages: dict[str, str],
) -> None:
    paths = [path.relative_to(ROOT) for room in (*ROOMS, "benchmarks/gpu") for path in (ROOT / room).rglob("*.py")]
    names = {".".join(path.with_suffix("").parts) for path in (*paths, *map(Path, FILES))} - NEEDS_THE_STREAM
    code = f"import importlib\nfor name in {sorted(names)}: importlib.import_module(name)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=without_packages, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_the_command_runs_parts_without_those_packages_and_writes_each_result(
    without_packages: dict[str, str], tmp_path: Path
) -> None:
    words = (
        "gpu",
        "--device",
        "cpu",
        "--scale",
        "rehearsal",
        "--minutes",
        "9",
        "--json",
        "--out",
        str(tmp_path / "out"),
    )
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words, "--parts", "pictures", "jpeg"],
        capture_output=True,
        text=True,
        env=without_packages | {"OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["part"], line.get("status")) for line in lines] == [
        ("pictures", "done"),
        ("jpeg", "done"),
        ("goals", None),
    ]
    assert lines[0]["results"]["pictures"] == {"pairs": pictures.REHEARSAL.pairs, "has_places": True}
    assert json.loads((tmp_path / "out" / "jpeg.json").read_text()) == lines[1]


def test_a_step_of_every_objective_mixes_no_devices_on_cuda_tensors_without_contents(tmp_path: Path) -> None:
    """Autograd needs a real card, so the gradients are made here."""
    code = """
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from benchmarks.gpu.parts import Task
from benchmarks.gpu.variants import prepared
from benchmarks.gpu.workload import Workload
from learner.objectives.contract import Batch

work, mode = Workload.of(Task(device="cpu", scale="rehearsal", pictures="", out="")), FakeTensorMode()
torch.__future__.set_overwrite_module_params_on_conversion(True)

def there(tensor):
    return torch.empty_like(mode.from_tensor(tensor), device="cuda")

for workload in (*(work.changed(objective=one) for one in work.objectives.values()), work.with_two_views()):
    trainer, batch = workload.start(4)
    with mode:
        trainer.objective._apply(there)
        batch = Batch(there(batch.left), there(batch.right), there(batch.aspect))
        trainer.device = torch.device("cuda")
        prepared(trainer, batch, ("foreach",))
        outcome = trainer.objective(batch, trainer.generator)
        for weight in trainer.objective.trained():
            weight.grad = torch.empty_like(weight)
        norm = torch.nn.utils.clip_grad_norm_(trainer.objective.trained(), 1.0)
        trainer.optimizer.step()
        trainer.objective.after_step()
        assert {one.device.type for one in (outcome.losses, outcome.ranked_by, norm, *outcome.gauges.values())} == {"cuda"}
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=ON_PATH, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_every_check_holds_between_the_cpu_and_itself(folder: Path, tmp_path: Path, one_thread: None) -> None:
    results = rehearsed("correctness", folder, tmp_path)
    assert [name for name, check in results.items() if not check["ok"]] == []
    assert results["refused_step"]["bad_pairs"] == [3]
    assert results["resume"]["as_it_is"]["same_bits"]
    assert any("learner/trainer.py" in line for line in results["waits"]["by_line"])


def test_a_check_that_is_not_a_number_does_not_hold() -> None:
    assert bounded(error=(1e-3, 1e-3))["ok"]
    assert not bounded(error=(float("nan"), 1e-3))["ok"]
    assert not bounded(small=(0.0, 1.0), large=(2.0, 1.0))["ok"]


def test_the_step_has_a_pace_a_share_of_the_peak_a_profile_and_peers(
    folder: Path, tmp_path: Path, one_thread: None
) -> None:
    results = rehearsed("step", folder, tmp_path)
    assert results["batch 8"]["pairs_per_s"] > 0
    assert results["batch 8"]["share_of_peak"] > 0
    assert results["profile"]["by_kind_ms"]["matrix products"] > 0
    assert results["dino"]["speedup"] > 0
    variants = rehearsed("variants", folder, tmp_path)
    assert variants["tf32"]["loss"] > 0
    assert "skipped" in variants["one CUDA graph"]


def test_it_learns_from_the_images_with_both_objectives(
    folder: Path, tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Task, "left_s", lambda _: 0.0)  # enough to begin with each, and for no second step
    results = rehearsed("learning", folder, tmp_path)
    for name in ("babyagent", "original"):
        assert results[name]["steps"] == 1
        assert results[name]["knn_gain"].keys() == {
            f"{set_} {who}" for set_ in ("digits", "places") for who in ("student", "teacher")
        }


def test_a_part_that_raises_is_a_result_with_its_traceback_and_keeps_what_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = part_of(tmp_path, "raise OSError('the card fell out')", monkeypatch)
    result = task_of(tmp_path).run(part, LONG_S, Stop())
    assert result["status"] == "failed"
    assert result["results"] == {"first": {"figure": 1}}
    assert "OSError: the card fell out" in result["log"]
    assert json.loads((tmp_path / "little.json").read_text()) == result


def test_a_measurement_that_raises_leaves_the_others_of_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "task.attempt('bad', lambda: 1 / 0); task.attempt('good', lambda: {'figure': float('nan')})"
    result = task_of(tmp_path).run(part_of(tmp_path, code, monkeypatch), LONG_S, Stop())
    assert (result["status"], result["broken"]) == ("failed", ["bad"])
    assert "ZeroDivisionError" in result["results"]["bad"]["error"]
    assert result["results"]["good"]["figure"] == "nan"


def test_a_part_that_does_not_end_is_stopped_with_its_workers_and_keeps_what_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = "import subprocess; print(subprocess.Popen(['sleep', '1000']).pid, flush=True); task.report('second', {})"
    part = part_of(tmp_path, f"{worker}; import time; time.sleep(1000)", monkeypatch)
    lines = tmp_path / "little-rehearsal-cpu.lines.jsonl"

    class BothReported(StopAfter):
        def is_set(self) -> bool:
            return super().is_set() and "second" in self.path.read_text()

    result = task_of(tmp_path).run(part, LONG_S, BothReported(lines))
    assert result["status"] == "stopped"
    assert result["results"] == {"first": {"figure": 1}, "second": {}}
    state = Path(f"/proc/{int(result['log'][0])}/stat")
    end_s = time.monotonic() + LONG_S
    while state.exists() and ") Z " not in state.read_text():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_a_part_is_stopped_at_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = part_of(tmp_path, "import time; time.sleep(1000)", monkeypatch)
    assert task_of(tmp_path).run(part, 0.0, Stop())["status"] == "stopped"


def test_time_is_shared_out_by_worth_and_the_last_part_takes_all_that_is_left() -> None:
    parts = [Part(name, "", share, "") for name, share in (("a", 1.0), ("b", 3.0))]
    assert limits_s(parts, 40.0) == [10.0, 30.0]
    assert limits_s(parts[1:], 38.0) == [38.0]
    assert limits_s(PARTS[-1:], 7.0) == [7.0]


def test_a_dry_run_says_what_each_part_does_for_how_long_and_what_a_step_costs(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["gpu", "--dry-run", "--json", "--minutes", "8", "--out", str(tmp_path)]) == 0
    *plans, estimate = map(json.loads, capfd.readouterr().out.splitlines())
    assert [plan["part"] for plan in plans] == [part.name for part in PARTS]
    assert sum(plan["at_most_s"] for plan in plans) == pytest.approx(480, abs=len(plans))
    assert estimate["status"] == "done", estimate
    # A forward pass of DeiT-S is 9.2 GFLOP at 224 pixels and 1.7 at 96: two of the teacher, eight with gradient.
    assert estimate["results"]["babyagent"]["gflop_a_pair"] == pytest.approx(2 * 9.2 + 8 * 3 * 1.7, rel=0.15)


def test_goals_are_those_figures_that_were_measured() -> None:
    results: dict[str, Any] = {
        "correctness": {"status": "failed", "results": {"a": {"ok": True}, "b": {"error": "..."}}},
        "step": {"results": {"batch 128": {"pairs_per_s": 3000.0}, "dino": {"speedup": 2.5}}},
        "variants": {"results": {"compiled blocks": {"pairs_per_s": 5000.0}, "graph": {"error": "..."}}},
    }
    found = judged(results)
    assert list(found) == list(GOALS)
    assert [goal["met"] for goal in found.values()] == [False, True, False, True, False, False]
    assert found["pairs/s trained"]["reached"] == 5000.0
    assert found["times lightly's loop"]["reached"] is None
    for status, other in (("stopped", {"ok": True}), ("failed", {"ok": True}), ("done", {"skipped": "no time"})):
        some = {"correctness": {"status": status, "results": {"a": {"ok": True}, "b": other}}}
        assert judged(some)["all checks hold"]["reached"] is None


def test_kernels_are_summed_by_what_they_do() -> None:
    spent = {"flash_fwd_kernel": 1.0, "sm90_xmma_gemm_bf16": 2.0, "nvjet_tst_128x256": 3.0, "unheard of": 0.5}
    spent |= {"upsample_gen2d_aa_out_frame<BilinearFilterFunctor>": 0.25, "sm90_xmma_fprop_implicit_gemm_bf16": 0.75}
    kinds = {"matrix products": 5.0, "attention": 1.0, "convolution": 0.75, "other": 0.5, "sampling of crops": 0.25}
    assert list(by_kind(spent).items()) == list(kinds.items())


def test_a_pack_holds_the_same_images_again(folder: Path, tmp_path: Path) -> None:
    pack = pictures.make_pack(tmp_path / "pack.tar", pictures.REHEARSAL)
    assert pack == str(tmp_path / "pack.tar")
    unpacked = given_pictures(Path(pack), tmp_path, "rehearsal")
    pairs = pictures.pairs_of(unpacked)
    assert len(pairs) == pictures.REHEARSAL.pairs
    assert pictures.has_places(unpacked)
    for found, expected in zip(pairs, pictures.pairs_of(folder), strict=True):
        assert [eye.read_bytes() for eye in found] == [eye.read_bytes() for eye in expected]


def test_a_folder_of_photographs_gives_pairs_of_two_equal_eyes(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    assert pictures.pairs_of(tmp_path) == [(tmp_path / "a.jpg", tmp_path / "a.jpg")]


@pytest.mark.parametrize(
    ("words", "message"), [(("--minutes", "0"), "--minutes"), (("--images", "nowhere.tar"), "nowhere.tar")]
)
def test_settings_that_cannot_be_used_are_refused(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["gpu", *words, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
