"""Is the learner correct on this compute device? It is compared with the CPU, where possible in float64, on the same inputs.

The random generators of two devices differ. So the bench compares functions of given windows and weights, and statistics of
random results. TF32 is off here, also in convolutions, where PyTorch has it on by default.
"""

from __future__ import annotations

import copy
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.gpu.parts import ROOT, Figures, Task
from benchmarks.gpu.workload import Workload, moved, random_batch, relative_error
from benchmarks.step.bare import views_from
from learner.guard import GuardConfig
from learner.memory.slots import Slots
from learner.networks.encoder import Encoder
from learner.objectives.contract import Batch, Views
from learner.runs.checkpoint import load_checkpoint, save_checkpoint
from learner.trainer import Trainer
from learner.views import augment, crops
from learner.weights.export import export_encoder

CPU = torch.device("cpu")
PAIRS = 8
STEP_BOUNDS = {"loss": 1e-4, "priority": 1e-4, "gradient": 1e-3, "change": 2e-2}
"""Bounds of the relative errors of a step in float32: some hundred times those between two orders of summation on a CPU.

The first change by AdamW is little more than the sign of the gradient, also where the gradient is near 0.
"""
CERTAIN = augment.Augmentation(flip=1, jitter=0, grey=1, blur=0, solarise=1)
"""An augmentation without random amounts."""


def run(task: Task) -> None:
    """Run all checks; the result of each has a field `ok`. They use float32, except where a check concerns another type."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    work = Workload.of(task)
    exact = work.changed(precision="float32")
    for name, objective in work.objectives.items():
        task.attempt(f"step_{name}", partial(step_against_cpu, exact.changed(objective=objective)))
    for check in (attention, views, augmentations, bfloat16, gather, export):
        task.attempt(check.__name__, partial(check, exact))
    for check in (refused_step, rollback, waits, resume):
        task.attempt(check.__name__, partial(check, work))


def bounded(**errors: tuple[float, float]) -> dict[str, Any]:
    """Return the errors with their bounds; `ok` is whether each error is within its bound. NaN exceeds every bound."""
    found = {name: error for name, (error, _bound) in errors.items()}
    bounds = {name: bound for name, (_error, bound) in errors.items()}
    return {"ok": all(error <= bound for error, bound in errors.values()), **found, "bounds": bounds}


def error_of(function: Callable[..., Tensor], device: torch.device, *given: Tensor) -> float:
    """Return the relative error of a function on the device, against the same one on the CPU."""
    return relative_error(function(*(tensor.to(device) for tensor in given)), function(*given))


def attention(work: Workload) -> Figures:
    """Compare the features, and the attention maps that the hook reads in the last block, with the CPU in float64."""
    encoder = Encoder(work.config.encoder).eval()
    reference, ours = copy.deepcopy(encoder).double(), encoder.to(work.device)
    rgb = torch.rand(4, 3, work.large, work.large)
    there = rgb.to(work.device)
    with torch.no_grad():
        features = relative_error(ours(there), reference(rgb.double()))
    maps = relative_error(ours.attention(there), reference.attention(rgb.double()))
    return bounded(maps=(maps, 1e-4), features=(features, 1e-4))


def views(work: Workload) -> Figures:
    """Compare Gaussians, windows and crops with the CPU, for the same attention maps and images."""
    batch, maps = random_batch(work.config, PAIRS, CPU, seed=2), torch.rand(PAIRS, 8, 8).pow(8)
    maps /= maps.sum((1, 2), keepdim=True)

    def window(maps: Tensor, aspect: Tensor) -> Tensor:
        return crops.focus_window(*crops.fit_gaussian(maps), aspect, sigmas=1.5, smallest=0.3)

    windows = window(maps, batch.aspect)[:, None]
    small, small_there = (crops.shrink(batch.left.to(where), 96).cpu().float() for where in (CPU, work.device))
    return bounded(
        gaussian=(error_of(lambda maps: torch.cat(crops.fit_gaussian(maps)), work.device, maps), 1e-4),
        window=(error_of(window, work.device, maps, batch.aspect), 1e-4),
        crop=(error_of(partial(crops.crop, size=96), work.device, batch.left, windows), 1e-4),
        shrunk_levels=(float((small_there - small).abs().max()), 1),
    )


def augmentations(work: Workload) -> Figures:
    """Compare the augmentations with the CPU: with given amounts exactly, with random amounts by the mean over many images."""
    rgb, image = torch.rand(PAIRS, 3, 96, 96), torch.linspace(0.1, 0.9, 3 * 32 * 32).view(1, 3, 32, 32)

    def certain(rgb: Tensor) -> Tensor:
        return augment.augment(rgb, CERTAIN, torch.Generator(rgb.device))

    def means(device: torch.device) -> Tensor:
        generator = torch.Generator(device).manual_seed(3)
        many = image.to(device).repeat(512, 1, 1, 1)
        return augment.augment(many, augment.STUDENT_AUGMENTATION, generator).cpu().mean((2, 3)).double()

    ours, theirs = means(work.device), means(CPU)
    standard_error = ((ours.var(0) + theirs.var(0)) / len(ours)).sqrt()
    return bounded(
        blur=(error_of(augment.blur, work.device, rgb, torch.rand(PAIRS) + 0.2), 1e-5),
        hue=(error_of(augment.hue_matrix, work.device, torch.rand(PAIRS) - 0.5), 1e-5),
        certain=(error_of(certain, work.device, rgb), 1e-5),
        mean_in_standard_errors=(float(((ours.mean(0) - theirs.mean(0)).abs() / standard_error).max()), 5),
    )


def step_against_cpu(work: Workload) -> Figures:
    """Compare one step in float32 with the CPU: loss, priorities, gradient and change of the weights.

    Both begin with the same weights and views.
    """
    ours, theirs = Trainer(work.config, work.device), Trainer(work.config, CPU)
    batch = random_batch(work.config, PAIRS, CPU, seed=4)
    seen = theirs.objective.views(batch, theirs.generator)
    found, expected = (_stepped(trainer, batch, seen) for trainer in (ours, theirs))
    return bounded(
        **{name: (relative_error(found[name], expected[name]), bound) for name, bound in STEP_BOUNDS.items()}
    )


def _stepped(trainer: Trainer, batch: Batch, seen: Views) -> dict[str, Tensor]:
    before = _flat(list(trainer.objective.trained()))
    with views_from(trainer, moved(seen, trainer.device)):
        step = trainer.step(moved(batch, trainer.device))
    return {
        "loss": torch.tensor(step.report.loss),
        "priority": torch.from_numpy(step.priority),
        "gradient": _flat([weight.grad for weight in trainer.objective.trained()]),
        "change": _flat(list(trainer.objective.trained())) - before,
    }


def bfloat16(work: Workload) -> Figures:
    """Compare features and losses of a backbone in bfloat16 with those in float32, on the same device."""
    trainer, batch = work.start(PAIRS, seed=5)
    seen = trainer.objective.views(batch, trainer.generator)
    found = []
    for low in (True, False):
        with torch.no_grad(), torch.autocast(work.device.type, torch.bfloat16, enabled=low), views_from(trainer, seen):
            features = trainer.objective.encoders()["student"](seen.small.flatten(0, 1))
            found.append((features, trainer.objective(batch, trainer.generator).losses))
    features_error, losses_error = map(relative_error, *found)
    return bounded(features=(features_error, 2e-2), losses=(losses_error, 5e-2))


def gather(work: Workload) -> Figures:
    """Check that batches from memory hold the requested pairs, though the pinned buffers are reused at once."""
    images = random_batch(work.config, 32, CPU, seed=6)
    slots = Slots(32, work.config.memory.canvas)
    slots.left, slots.right, slots.aspect = images.left, images.right, images.aspect
    draws = [torch.randperm(32)[:PAIRS] for _ in range(20)]
    batches = [slots.batch(draw.numpy(), work.device) for draw in draws]
    drawn, found = torch.cat(draws), [(batch.left.cpu(), batch.right.cpu()) for batch in batches]
    left, right = map(torch.cat, zip(*found, strict=True))
    return {"ok": torch.equal(left, images.left[drawn]) and torch.equal(right, images.right[drawn])}


def refused_step(work: Workload) -> Figures:
    """Check that a pair whose views are NaN makes the step a refused one: no weight changes, and the next step is a good one."""
    trainer, batch = work.start(PAIRS, seed=7)
    before = _flat(trainer.objective.state_dict())
    seen = trainer.objective.views(batch, trainer.generator)
    seen.small[3] = torch.nan
    with views_from(trainer, seen):
        step = trainer.step(batch)
    unchanged = torch.equal(before, _flat(trainer.objective.state_dict()))
    facts = {"refused": step.is_refused, "unchanged": unchanged, "next_is_good": not trainer.step(batch).is_refused}
    return {"ok": all(facts.values()), **facts, "bad_pairs": step.is_bad.nonzero()[0].tolist()}


def rollback(work: Workload) -> Figures:
    """Check that, after three steps with a sign of collapse, the networks are bit for bit those of the first snapshot."""
    guard = GuardConfig(min_teacher_information=1.0, patience_steps=3)
    trainer, batch = work.changed(guard=guard).start(PAIRS, seed=8)
    start = _flat(trainer.objective.state_dict())
    why = [trainer.step(batch).report.rolled_back for _ in range(3)][-1]
    same = torch.equal(start, _flat(trainer.objective.state_dict()))
    return {"ok": same and bool(why), "same_weights": same, "why": why}


def resume(work: Workload) -> Figures:
    """Check that a checkpoint restores every bit of a trainer, and that both trainers then reach the same weights.

    With deterministic kernels they reach them bit for bit. If PyTorch has no such kernel for some function, the changes of the
    weights may differ by rounding, which is far less than the effect of other views.
    """
    found = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in ("deterministic", "as_it_is"):
            torch.use_deterministic_algorithms(name == "deterministic", warn_only=True)
            found[name] = _resumed(work)
    torch.use_deterministic_algorithms(False)
    messages = {str(one.message) for one in caught}
    without = sorted(text.partition(" does not have")[0] for text in messages if "determin" in text)
    certain = found["deterministic"]
    is_same = certain["same_bits"] or (bool(without) and certain["changes_differ"] < 0.1)
    return {"ok": certain["restored"] and is_same, **found, "without_deterministic_kernel": without}


def _resumed(work: Workload) -> dict[str, Any]:
    batches = [random_batch(work.config, PAIRS, work.device, seed=10 + number) for number in range(4)]
    first, second = (Trainer(work.config, work.device) for _ in range(2))
    for batch in batches[:2]:
        first.step(batch)
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(
            Path(folder) / "state", {"trainer": first.state_dict(), "generator": first.generator.get_state()}
        )
        read = load_checkpoint(Path(folder) / "state")
    second.load_state_dict(read["trainer"], read["generator"])
    states = [_flat((trainer.state_dict(), trainer.generator.get_state())) for trainer in (first, second)]
    starts, ends = [], []
    for trainer in (first, second):
        starts.append(_flat(trainer.objective.state_dict()))
        for batch in batches[2:]:
            trainer.step(batch)
        ends.append(_flat(trainer.objective.state_dict()))
    return {
        "restored": torch.equal(*states),
        "same_bits": torch.equal(*ends),
        "changes_differ": relative_error(ends[1] - starts[1], ends[0] - starts[0]),
    }


def export(work: Workload) -> Figures:
    """Check that exported weights give the same features when timm loads them on the CPU."""
    encoder = Trainer(work.config, work.device).objective.encoders()["student"].eval()
    rgb = torch.rand(4, 3, work.large, work.large)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "student.safetensors"
        card = export_encoder(encoder, path, figures={}, settings={})
        theirs = timm.create_model(work.config.encoder.backbone, checkpoint_path=str(path), **card["arguments"]).eval()
        expected = theirs((rgb - encoder.mean.cpu()) / encoder.std.cpu())
        return bounded(features=(relative_error(encoder(rgb.to(work.device)), expected), 1e-4))


def waits(work: Workload) -> Figures:
    """Count, by line of code, where a step makes the CPU wait for the device to read a number.

    On a GPU, the waits that CUDA itself reports are counted too.
    """
    trainer, batch = work.start(PAIRS, seed=9)
    trainer.step(batch)
    with _Reads() as reads:
        trainer.step(batch)
    found: dict[str, Any] = {"ok": True, "numbers_read": reads.lines.total(), "by_line": dict(reads.lines)}
    if work.device.type == "cuda":
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                trainer.step(batch)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        places = (f"{Path(one.filename).name}:{one.lineno}" for one in caught if "called a sync" in str(one.message))
        lines = Counter(places)
        found |= {"cuda_waits": lines.total(), "cuda_by_line": dict(lines)}
    return found


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the numbers that Python reads out of tensors, by the line of our code that reads them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lines: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            ours = [frame for frame in traceback.extract_stack() if "/learner/" in frame.filename]
            self.lines[f"{Path(ours[-1].filename).relative_to(ROOT)}:{ours[-1].lineno}" if ours else "torch"] += 1
        return func(*args, **(kwargs or {}))


def _flat(state: object) -> Tensor:
    """Return all tensors in nested dicts, lists and tuples as one float32 vector on the CPU."""
    leaves = tree_leaves(state)
    return torch.cat([leaf.detach().flatten().float().cpu() for leaf in leaves if isinstance(leaf, Tensor)])
