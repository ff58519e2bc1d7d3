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
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu.task import Task
from benchmarks.gpu.workload import Workload, moved, random_batch, relative_error
from benchmarks.step.bare import views_from
from learner.guard import GuardConfig
from learner.memory.slots import Slots
from learner.networks.encoder import Encoder
from learner.runs.checkpoint import load_checkpoint, save_checkpoint
from learner.trainer import Trainer
from learner.views import augment, crops
from learner.weights.export import export_encoder

CPU = torch.device("cpu")
PAIRS = 8
ROOT = Path(__file__).parents[2]


def run(task: Task) -> None:
    """Run all checks; the result of each has a field `ok`. They use float32, except where a check concerns another type."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    work = Workload.of(task).changed(precision="float32")
    for name, objective in work.objectives.items():
        task.attempt(f"step_{name}", partial(step_against_cpu, work.changed(objective=objective)))
    for check in (attention, views, augmentations, bfloat16, gather, export):
        task.attempt(check.__name__, partial(check, work))
    for check in (refused_step, rollback, waits, resume):
        task.attempt(check.__name__, partial(check, Workload.of(task)))


def judged(errors: Mapping[str, float], bounds: Mapping[str, float] | float, **facts: Any) -> dict[str, Any]:
    """Return the errors with their bounds; `ok` is whether each error is within its bound. NaN exceeds every bound."""
    limits = bounds if isinstance(bounds, Mapping) else dict.fromkeys(errors, bounds)
    return {"ok": all(error <= limits[name] for name, error in errors.items()), **errors, "bounds": limits, **facts}


def attention(work: Workload) -> Mapping[str, Any]:
    """Compare the features, and the attention maps that the hook reads in the last block, with the CPU in float64."""
    torch.manual_seed(1)
    encoder, device = Encoder(work.config.encoder).eval(), work.device
    reference, ours = copy.deepcopy(encoder).double(), copy.deepcopy(encoder).to(device)
    rgb = torch.rand(4, 3, work.large, work.large)
    with torch.no_grad():
        features = relative_error(ours(rgb.to(device)), reference(rgb.double()))
    maps = relative_error(ours.attention(rgb.to(device)), reference.attention(rgb.double()))
    return judged({"maps": maps, "features": features}, 1e-4)


def views(work: Workload) -> Mapping[str, Any]:
    """Compare Gaussians, windows and crops with the CPU, for the same attention maps and images."""
    batch, side, device = random_batch(work.config, PAIRS, CPU, seed=2), 8, work.device
    there = moved(batch, device)
    maps = torch.rand(PAIRS, side, side).pow(8)
    maps /= maps.sum((1, 2), keepdim=True)
    gaussian, gaussian_there = crops.fit_gaussian(maps), crops.fit_gaussian(maps.to(device))
    window, window_there = (
        crops.focus_window(*fitted, where.aspect, sigmas=1.5, smallest=0.3)
        for fitted, where in ((gaussian, batch), (gaussian_there, there))
    )
    cut, cut_there = (crops.crop(b.left, w[:, None], 96) for b, w in ((batch, window), (there, window.to(device))))
    small, small_there = (crops.shrink(images, 96).float() for images in (batch.left, there.left))
    levels = (small_there.cpu() - small).abs()
    errors = {
        "gaussian": relative_error(torch.cat(gaussian_there), torch.cat(gaussian)),
        "window": relative_error(window_there, window),
        "crop": relative_error(cut_there, cut),
        "shrunk_levels": float(levels.max()),
    }
    bounds = {"gaussian": 1e-4, "window": 1e-4, "crop": 1e-4, "shrunk_levels": 1}
    return judged(errors, bounds, unequal_levels=float((levels > 0).float().mean()))


def augmentations(work: Workload) -> Mapping[str, Any]:
    """Compare the augmentations with the CPU: with given amounts exactly, with random amounts by the mean over many images."""
    rgb, sigma, turns = torch.rand(PAIRS, 3, 96, 96), torch.rand(PAIRS) + 0.2, torch.rand(PAIRS) - 0.5
    device = work.device
    certain = augment.Augmentation(flip=1, jitter=0, grey=1, blur=0, solarise=1)
    drawn = []
    for where in (device, CPU):
        generator = torch.Generator(where).manual_seed(3)
        image = torch.linspace(0.1, 0.9, 3 * 32 * 32, device=where).view(1, 3, 32, 32)
        many = augment.augment(image.repeat(512, 1, 1, 1), augment.STUDENT_AUGMENTATION, generator).cpu()
        drawn.append(many.mean((2, 3)).double())
        fixed = augment.augment(rgb.to(where), certain, torch.Generator(where)).cpu()
        drawn.append(fixed.double())
    standard_error = ((drawn[0].var(0) + drawn[2].var(0)) / 512).sqrt()
    errors = {
        "blur": relative_error(augment.blur(rgb.to(device), sigma.to(device)), augment.blur(rgb, sigma)),
        "hue": relative_error(augment.hue_matrix(turns.to(device)), augment.hue_matrix(turns.double())),
        "certain": relative_error(drawn[1], drawn[3]),
        "mean_in_standard_errors": float(((drawn[0].mean(0) - drawn[2].mean(0)).abs() / standard_error).max()),
    }
    return judged(errors, {"blur": 1e-5, "hue": 1e-5, "certain": 1e-5, "mean_in_standard_errors": 5})


def step_against_cpu(work: Workload) -> Mapping[str, Any]:
    """Compare one step in float32 with the CPU: loss, priorities, gradient and change of the weights.

    Both begin with the same weights and views.
    """
    ours, theirs = Trainer(work.config, work.device), Trainer(work.config, CPU)
    batch = random_batch(work.config, PAIRS, CPU, seed=4)
    look = theirs.objective.look(batch, theirs.generator)
    steps, changes, gradients = [], [], []
    for trainer in (ours, theirs):
        before = _flat(trainer.objective.trained())
        with views_from(trainer, moved(look, trainer.device)):
            steps.append(trainer.step(moved(batch, trainer.device)))
        changes.append(_flat(trainer.objective.trained()) - before)
        gradients.append(_flat(weight.grad for weight in trainer.objective.trained() if weight.grad is not None))
    (found, expected), cosine = steps, torch.cosine_similarity(changes[0].double(), changes[1].double(), dim=0)
    errors = {
        "loss": abs(found.report.loss / expected.report.loss - 1),
        "priority": relative_error(torch.from_numpy(found.priority), torch.from_numpy(expected.priority)),
        "gradient": relative_error(gradients[0], gradients[1]),
        "change": 1 - float(cosine),
    }
    return judged(errors, {"loss": 1e-3, "priority": 5e-3, "gradient": 1e-2, "change": 2e-2})


def bfloat16(work: Workload) -> Mapping[str, Any]:
    """Compare features and losses of a backbone in bfloat16 with those in float32, on the same device."""
    trainer, batch = work.start(PAIRS, seed=5)
    look = trainer.objective.look(batch, trainer.generator)
    found = []
    for low in (True, False):
        with torch.no_grad(), torch.autocast(work.device.type, torch.bfloat16, enabled=low), views_from(trainer, look):
            features = trainer.objective.encoders()["student"](look.student_views.flatten(0, 1)).float()
            found.append((features, trainer.objective(batch, trainer.generator).losses))
    (low_features, low_losses), (features, losses) = found
    errors = {"features": relative_error(low_features, features), "losses": relative_error(low_losses, losses)}
    return judged(errors, {"features": 2e-2, "losses": 5e-2})


def gather(work: Workload) -> Mapping[str, Any]:
    """Check that batches from memory hold the requested pairs, though the pinned buffers are reused at once."""
    images = random_batch(work.config, 32, CPU, seed=6)
    slots = Slots(32, work.config.memory.canvas)
    slots.left, slots.right, slots.aspect = images.left, images.right, images.aspect
    draws = [torch.randperm(32)[:PAIRS] for _ in range(20)]
    batches = [slots.batch(draw.numpy(), work.device) for draw in draws]
    wrong = sum(
        not (torch.equal(batch.left.cpu(), images.left[draw]) and torch.equal(batch.right.cpu(), images.right[draw]))
        for batch, draw in zip(batches, draws, strict=True)
    )
    return judged({"wrong_batches": wrong}, 0)


def refused_step(work: Workload) -> Mapping[str, Any]:
    """Check that a pair whose views are NaN makes the step a refused one: no weight changes, and the next step is a good one."""
    trainer, batch = work.start(PAIRS, seed=7)
    before = _state(trainer)
    look = trainer.objective.look(batch, trainer.generator)
    look.student_views[3] = torch.nan
    with views_from(trainer, look):
        step = trainer.step(batch)
    unchanged = torch.equal(before, _state(trainer))
    facts = {"refused": step.is_refused, "unchanged": unchanged, "next_is_good": not trainer.step(batch).is_refused}
    return {"ok": all(facts.values()), **facts, "bad_pairs": step.is_bad.nonzero()[0].tolist()}


def rollback(work: Workload) -> Mapping[str, Any]:
    """Check that, after three steps with a sign of collapse, the networks are bit for bit those of the first snapshot."""
    guard = GuardConfig(min_teacher_information=1.0, patience_steps=3)
    trainer, batch = work.changed(guard=guard).start(PAIRS, seed=8)
    start = _state(trainer)
    reports = [trainer.step(batch).report for _ in range(3)]
    same = torch.equal(start, _state(trainer))
    return {"ok": same and bool(reports[-1].rolled_back), "same_weights": same, "why": reports[-1].rolled_back}


def resume(work: Workload) -> Mapping[str, Any]:
    """Check that another trainer, which reads a checkpoint, reaches the same weights; with deterministic kernels, bit for bit."""
    batches = [random_batch(work.config, PAIRS, work.device, seed=10 + number) for number in range(4)]
    found: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in ("deterministic", "as_it_is"):
            torch.use_deterministic_algorithms(name == "deterministic", warn_only=True)
            first, second = (Trainer(work.config, work.device) for _ in range(2))
            for batch in batches[:2]:
                first.step(batch)
            with tempfile.TemporaryDirectory() as folder:
                state = {"trainer": first.state_dict(), "generator": first.generator.get_state()}
                save_checkpoint(Path(folder) / "state", state)
                read = load_checkpoint(Path(folder) / "state")
            second.load_state_dict(read["trainer"], read["generator"])
            for batch in batches[2:]:
                first.step(batch), second.step(batch)
            ends = [_state(trainer) for trainer in (first, second)]
            largest = float((ends[0] - ends[1]).abs().max())
            found[name] = {"same_bits": torch.equal(*ends), "largest_difference": largest}
    torch.use_deterministic_algorithms(False)
    messages = {str(one.message).partition(" does not have")[0] for one in caught}
    without = sorted(message for message in messages if "determin" in message)
    return {"ok": found["deterministic"]["same_bits"], **found, "without_deterministic_kernel": without}


def export(work: Workload) -> Mapping[str, Any]:
    """Check that exported weights give the same features when timm loads them on the CPU."""
    encoder = Trainer(work.config, work.device).objective.encoders()["student"].eval()
    rgb = torch.rand(4, 3, work.large, work.large)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "student.safetensors"
        card = export_encoder(encoder, path, figures={}, settings={})
        theirs = timm.create_model(work.config.encoder.backbone, checkpoint_path=str(path), **card["arguments"]).eval()
        expected = theirs((rgb - encoder.mean.cpu()) / encoder.std.cpu())
        error = relative_error(encoder(rgb.to(work.device)), expected)
    return judged({"features": error}, 1e-4)


def waits(work: Workload) -> Mapping[str, Any]:
    """Count, by line of code, where a step makes the CPU wait for the device to read a number.

    On a GPU, the waits that CUDA itself reports are counted too.
    """
    trainer, batch = work.start(PAIRS, seed=9)
    trainer.step(batch)
    reads = _Reads()
    with reads:
        trainer.step(batch)
    found: dict[str, Any] = {"ok": True, "numbers_read": sum(reads.lines.values()), "by_line": dict(reads.lines)}
    if work.device.type == "cuda":
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            trainer.step(batch)
            torch.cuda.set_sync_debug_mode("default")
        lines = Counter(f"{Path(one.filename).name}:{one.lineno}" for one in caught if "synchroniz" in str(one.message))
        found |= {"cuda_waits": sum(lines.values()), "cuda_by_line": dict(lines)}
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


def _state(trainer: Trainer) -> Tensor:
    return _flat(trainer.objective.state_dict().values())


def _flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.detach().flatten().float().cpu() for tensor in tensors])
