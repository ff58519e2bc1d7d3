"""Is the learner correct on a GPU, how fast is it there, and does it learn? One command answers all three questions in minutes.

    python -m benchmarks gpu --minutes 8 --json

Parts run in the order of their importance, each in a process of its own and with a time limit. A part that fails or is stopped
does not change the others, and the results that it already has are kept. Its result is a line of the output, and a file in
`--out`, as soon as it ends. The goals do not decide the exit code: it is 0 where each part has a result.

It needs PyTorch, torchvision, timm, NumPy, OpenCV, scikit-learn, SciPy and safetensors, and none of the other packages.
"""

from __future__ import annotations

import argparse
import json
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import pictures
from benchmarks.gpu.parts import Part, Setup, limits_s, run_part
from benchmarks.gpu.task import finite
from stream.errors import ReportedError
from stream.host.program import ExitCode, Result, Stop, write

PARTS = (
    Part("pictures", "benchmarks.gpu.pictures", 1.0, "renders the simulated walk, where no images are given"),
    Part("correctness", "benchmarks.gpu.correctness", 3.5, "compares every function of the learner with the CPU"),
    Part("step", "benchmarks.gpu.step", 3.5, "times a step at three batch sizes, profiles it, compares others' loops"),
    Part("variants", "benchmarks.gpu.variants", 5.0, "times compiled blocks, CUDA graphs, TF32 and other optimisers"),
    Part("jpeg", "benchmarks.gpu.jpeg", 2.0, "decodes on cores and card, and trains a ViT from JPEG bytes"),
    Part("learning", "benchmarks.gpu.learning", 3.5, "trains with two objectives, k-NN before and after"),
)
ESTIMATE = Part("estimate", "benchmarks.gpu.estimate", 1.0, "counts operations and bytes of a step at full size")
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
        parts = [part for part in PARTS if part.name in flags.parts]
        if flags.minutes <= 0:
            raise ReportedError("--minutes must be above 0")
        if flags.make_pack is not None:
            return _pack(flags.make_pack)
        out = flags.out or Path(tempfile.mkdtemp(prefix="gpu-"))
        out.mkdir(parents=True, exist_ok=True)
        setup = Setup(flags.device, flags.scale, _pictures(flags.images, out), out)
        if flags.dry_run:
            _plan(parts, setup, 60 * flags.minutes, flags.json)
            return Result()
        results = run_parts(parts, setup, 60 * flags.minutes, stop, flags.json)
        return Result(code=ExitCode.DONE if len(results) == len(parts) else ExitCode.FAILED)

    def options(self, _name: str) -> Mapping[str, Sequence[str]]:
        """Return the flags and choices that the shell completes."""
        actions = _flags("")._actions
        return {word: list(map(str, action.choices or ())) for action in actions for word in action.option_strings}


COMMAND = GpuBench()


def run_parts(
    parts: Sequence[Part], setup: Setup, seconds: float, stop: Stop, as_json: bool
) -> dict[str, dict[str, Any]]:
    """Run the parts until all have a result or `stop` is set; returns the results by name. The last line is the goals."""
    end_s, results = time.monotonic() + seconds, {}
    for index, part in enumerate(parts):
        limit_s = limits_s(parts[index:], max(1.0, end_s - time.monotonic()))[0]
        results[part.name] = run_part(part, setup, limit_s, stop)
        _show(results[part.name], as_json)
        if stop.is_set():
            break
    goals = {"part": "goals", "out": str(setup.out), "goals": judged(results)}
    (setup.out / "goals.json").write_text(json.dumps(goals, indent=1) + "\n")
    _show(goals, as_json)
    return results


def judged(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return each goal with the measured figure; None if it was not measured."""

    def figures(part: str) -> Mapping[str, Mapping[str, Any]]:
        found: Mapping[str, Mapping[str, Any]] = results.get(part, {}).get("results", {})
        return found

    def best(key: str, *parts: str) -> float | None:
        values = [
            one[key] for part in parts for one in figures(part).values() if isinstance(one.get(key), (int, float))
        ]
        return max(values, default=None)

    checks = figures("correctness").values()
    all_hold = all(check.get("ok", "skipped" in check) for check in checks)
    is_whole = results.get("correctness", {}).get("status") != "stopped" and all("skipped" not in one for one in checks)
    pace = best("pairs_per_s", "step", "variants")
    reached = (
        float(all_hold) if checks and (is_whole or not all_hold) else None,
        pace,
        pace,
        figures("step").get("dino", {}).get("speedup"),
        figures("step").get("lightly", {}).get("speedup"),
        best("views_per_s", "jpeg"),
    )
    return {
        name: {"goal": goal, "reached": value, "met": value is not None and value >= goal}
        for (name, goal), value in zip(GOALS.items(), reached, strict=True)
    }


def _flags(prog: str) -> argparse.ArgumentParser:
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=kind, allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=8.0, help="of all parts together (default 8)")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="auto: a GPU, if any")
    parser.add_argument("--scale", choices=("full", "rehearsal"), default="full", help="rehearsal: sizes for a CPU")
    names = [part.name for part in PARTS]
    parser.add_argument("--parts", nargs="+", choices=names, default=names, help="in the order of their worth")
    parser.add_argument("--images", type=Path, help="a folder of JPEG files, or a pack, instead of rendered images")
    parser.add_argument(
        "--make-pack", type=Path, metavar="FILE", help="render images into a tar file below 40 MB, and end"
    )
    parser.add_argument("--out", type=Path, help="folder for the results (default: a new one in the temporary folder)")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what each part does and how long it may take, and end"
    )
    parser.add_argument("--json", action="store_true", help="one JSON value for each part, on a line")
    return parser


def _pictures(given: Path | None, out: Path) -> Path:
    """Return the folder of images. Raises ReportedError.

    It is the given folder, or that of the unpacked file, or one in `out` into which the bench renders images.
    """
    if given is None or given.is_dir():
        return given or out / "pictures"
    folder = out / "unpacked"
    try:
        pictures.unpack(given, folder)
    except (OSError, tarfile.TarError) as error:
        raise ReportedError(f"--images {given} is no folder and no pack: {error}") from error
    return folder


def _pack(file: Path) -> Result:
    with tempfile.TemporaryDirectory(prefix="pack-") as folder:
        size = pictures.make_pack(file, Path(folder) / "pictures")
    return Result(f"{file}: {size / 1e6:.1f} MB")


def _plan(parts: Sequence[Part], setup: Setup, seconds: float, as_json: bool) -> None:
    for part, limit_s in zip(parts, limits_s(parts, seconds), strict=True):
        plan = {"part": part.name, "at_most_s": round(limit_s), "does": part.text}
        write(json.dumps(plan) if as_json else f"{part.name:12} {limit_s:4.0f} s  {part.text}")
    if not as_json:
        write("Time that a part does not use goes to the parts behind it.")
    _show(run_part(ESTIMATE, setup, ESTIMATE_LIMIT_S, Stop()), as_json)


def _show(result: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        write(json.dumps(finite(result)))
        return
    results = result.get("results", result.get("goals", {}))
    write(f"{result['part']}: {result.get('status', '')} {result.get('took_s', '')}".rstrip())
    for name, figures in results.items():
        write(f"  {name}: {', '.join(f'{key} {_cell(value)}' for key, value in figures.items())}")
    for line in result.get("log", ()):
        write(f"  | {line}")


def _cell(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
