"""Is the learner correct on a GPU, how fast is it there, and does it learn? One command answers all three questions in minutes.

    python -m benchmarks gpu --minutes 8 --json

Parts run in the order of their importance, each in a process of its own and with a time limit. A part that fails or is stopped
does not change the others, and the results that it already has are kept. Its result is printed, and a file in `--out`, as soon as
it ends. The goals do not decide the exit code: it is 0 where each part has a result.

It needs PyTorch, torchvision, timm, NumPy, OpenCV, scikit-learn, SciPy and safetensors, and none of the other packages.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import pictures
from benchmarks.gpu.parts import Part, Task, limits_s
from stream.errors import ReportedError
from stream.host.program import ExitCode, Result, Stop, write

PARTS = (
    Part("pictures", "benchmarks.gpu.pictures", 1.5, "renders the simulated walk, where no images are given"),
    Part("correctness", "benchmarks.gpu.correctness", 3.5, "compares every function of the learner with the CPU"),
    Part("step", "benchmarks.gpu.step", 3.5, "times a step at three batch sizes, profiles it, compares others' loops"),
    Part("variants", "benchmarks.gpu.variants", 5.0, "times compiled blocks, CUDA graphs, TF32 and other optimisers"),
    Part("jpeg", "benchmarks.gpu.jpeg", 2.0, "decodes on cores and card, and trains a ViT from JPEG bytes"),
    Part("learning", "benchmarks.gpu.learning", 3.5, "trains with two objectives, k-NN before and after"),
)
ESTIMATE = Part("estimate", "benchmarks.gpu.workload", 1.0, "counts operations and bytes of a step at full size")
ESTIMATE_LIMIT_S = 300.0
GOALS = {
    "all checks hold": 1.0,
    "pairs/s trained": 4000.0,
    "pairs/s trained, stretch": 7000.0,
    "times the reference DINO loop": 2.0,
    "times lightly's loop": 2.0,
    "views/s of two views from JPEG bytes": 5000.0,
}
"""The figures that an H100 or H200 should reach at least, at full scale."""


class GpuBench:
    """The command, see `stream.host.command`; its flags are parsed without tyro, which a machine with a card may not have."""

    def execute(self, words: Sequence[str], prog: str, stop: Stop) -> Result:
        """Run the parts, one after the other. Raises ReportedError for settings that cannot be used."""
        flags = _flags(prog).parse_args(list(words))
        if flags.minutes <= 0:
            raise ReportedError("--minutes must be above 0")
        if flags.make_pack is not None:
            return Result(pictures.make_pack(flags.make_pack))
        out = flags.out or Path(tempfile.mkdtemp(prefix="gpu-"))
        out.mkdir(parents=True, exist_ok=True)
        task = Task(
            device=flags.device,
            scale=flags.scale,
            pictures=str(given_pictures(flags.images, out, flags.scale)),
            out=str(out),
        )
        parts, indent = [part for part in PARTS if part.name in flags.parts], None if flags.json else 1
        if flags.dry_run:
            for part, limit_s in zip(parts, limits_s(parts, 60 * flags.minutes), strict=True):
                write(json.dumps({"part": part.name, "at_most_s": round(limit_s), "does": part.text}, indent=indent))
            write(json.dumps(task.run(ESTIMATE, ESTIMATE_LIMIT_S, stop), indent=indent))
            return Result()
        results = run_parts(parts, task, 60 * flags.minutes, stop, indent)
        return Result(code=ExitCode.DONE if len(results) == len(parts) else ExitCode.FAILED)

    def options(self, _name: str) -> Mapping[str, Sequence[str]]:
        """Return the flags and choices that the shell completes."""
        actions = _flags("")._actions
        return {word: list(map(str, action.choices or ())) for action in actions for word in action.option_strings}


COMMAND = GpuBench()


def run_parts(
    parts: Sequence[Part], task: Task, seconds: float, stop: Stop, indent: int | None
) -> dict[str, dict[str, Any]]:
    """Run the parts until all have a result or `stop` is set; returns the results by name. The last line is the goals."""
    end_s, results = time.monotonic() + seconds, {}
    for index, part in enumerate(parts):
        limit_s = limits_s(parts[index:], max(1.0, end_s - time.monotonic()))[0]
        results[part.name] = task.run(part, limit_s, stop)
        write(json.dumps(results[part.name], indent=indent))
        if stop.is_set():
            break
    goals = {"part": "goals", "out": task.out, "goals": judged(results)}
    Path(task.out, "goals.json").write_text(json.dumps(goals, indent=1) + "\n")
    write(json.dumps(goals, indent=indent))
    return results


def judged(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return each goal with the measured figure; None if it was not measured."""
    found = {part: result["results"] for part, result in results.items()}

    def best(key: str, *parts: str) -> float | None:
        return max((one[key] for part in parts for one in found.get(part, {}).values() if key in one), default=None)

    checks = found.get("correctness", {}).values()
    all_hold = all(check.get("ok", "skipped" in check) for check in checks)
    is_whole = bool(checks) and not any("skipped" in check for check in checks)
    is_whole = is_whole and results["correctness"]["status"] == "done"
    pace, peers = best("pairs_per_s", "step", "variants"), found.get("step", {})
    reached = (
        float(all_hold) if is_whole or not all_hold else None,
        pace,
        pace,
        peers.get("dino", {}).get("speedup"),
        peers.get("lightly", {}).get("speedup"),
        best("views_per_s", "jpeg"),
    )
    return {
        name: {"goal": goal, "reached": value, "met": value is not None and value >= goal}
        for (name, goal), value in zip(GOALS.items(), reached, strict=True)
    }


def _flags(prog: str) -> argparse.ArgumentParser:
    kind = argparse.RawDescriptionHelpFormatter
    flags = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=kind, allow_abbrev=False)
    names = [part.name for part in PARTS]
    flags.add_argument("--minutes", type=float, default=8.0, help="of all parts together (default 8)")
    flags.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: for a rehearsal")
    flags.add_argument("--scale", choices=("full", "rehearsal"), default="full", help="rehearsal: sizes for a CPU")
    flags.add_argument("--parts", nargs="+", choices=names, default=names, help="in the order of their worth")
    flags.add_argument("--images", type=Path, help="a folder of JPEG files, or a pack, instead of rendered images")
    flags.add_argument(
        "--make-pack", type=Path, metavar="FILE", help="render images into a tar file below 40 MB, and end"
    )
    flags.add_argument("--out", type=Path, help="folder for the results (default: a new one in the temporary folder)")
    flags.add_argument(
        "--dry-run", action="store_true", help="say what each part does and how long it may take, and end"
    )
    flags.add_argument("--json", action="store_true", help="each result as JSON on one line")
    return flags


def given_pictures(given: Path | None, out: Path, scale: str) -> Path:
    """Return the folder of images. Raises ReportedError.

    It is the given folder, or that of the unpacked file, or one in `out` into which the bench renders images.
    """
    if given is None or given.is_dir():
        return given or out / f"pictures-{scale}"
    folder = out / "unpacked"
    try:
        shutil.unpack_archive(given, folder, "tar", filter="data")
    except OSError as error:
        raise ReportedError(f"--images {given} is no folder and no pack: {error}") from error
    return folder
