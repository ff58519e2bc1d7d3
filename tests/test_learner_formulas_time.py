"""The losses of the objectives that learn from time, each against its formula in NumPy over the windows of made-up clips."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import re
from typing import Any

import numpy as np
import pytest
import torch
from every_objective import CLIPS, CPU, LENGTH, see, seeded, small, some_clips, some_pairs, trainer
from numpy.typing import NDArray
from torch import Tensor, nn

from learner.config import to_plain
from learner.errors import SettingsError
from learner.objectives.contract import Batch, Outcome
from learner.objectives.pretext.colours import softly
from learner.objectives.temporal.oddone import shuffled
from learner.objectives.temporal.order import lively, motion_of
from learner.objectives.temporal.triplets import apart, drawn
from learner.parts.pointing import carried
from learner.parts.windows import spread
from learner.runs.settings import from_plain
from learner.trainer import Trainer
from learner.views.lab import to_lab

Array = NDArray[np.float64]
Rows = list[int]
TEMPORAL = ("tct", "mftcn", "timecpc", "shuffle", "oddone", "arrow", "tracking", "pointing")
COUNT = CLIPS * LENGTH
pytestmark = pytest.mark.usefixtures("one_thread")


def numpy(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def made(name: str, batch: Batch, **numbers: Any) -> tuple[Any, Any, Outcome]:
    """The objective, its views of the batch, and what it makes of them."""
    start: Any = trainer(name)
    start.objective.config = dataclasses.replace(start.objective.config, **numbers)
    views = start.objective.views(batch, seeded())
    see(start.objective, views)
    return start.objective, views, start.outcome(batch, seeded())


def windows(count: int) -> list[Rows]:
    """The rows of all runs of so many pairs in the clips of `some_clips()`."""
    return [
        list(range(first, first + count))
        for clip in range(CLIPS)
        for first in range(clip * LENGTH, (clip + 1) * LENGTH - count + 1)
    ]


def by_pair(terms: list[tuple[Rows, float]]) -> Array:
    """What each pair has of the losses of windows, so that the mean is that over the windows."""
    losses = np.zeros(COUNT)
    for rows, term in terms:
        losses[rows] += term / len(rows)
    return losses * COUNT / len(terms)


def layers(module: nn.Module, rows: Array) -> Array:
    """Linear layers, layer norms and GELUs one after the other."""
    for layer in module.children():
        if isinstance(layer, nn.Linear):
            rows = rows @ numpy(layer.weight).T + numpy(layer.bias)
        elif isinstance(layer, nn.LayerNorm):
            rows = (rows - rows.mean(-1, keepdims=True)) / np.sqrt(rows.var(-1, keepdims=True) + layer.eps)
            rows = rows * numpy(layer.weight) + numpy(layer.bias)
        else:
            assert isinstance(layer, nn.GELU)
            rows = rows * 0.5 * (1 + np.vectorize(math.erf)(rows / math.sqrt(2)))
    return rows


def cross_entropy(scores: Array, label: int) -> float:
    return float(np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[label])


def judged(judge: Any, features: Array, label: int) -> float:
    """The cross-entropy of an answer about the features of some pictures, [k, dim]."""
    hidden = layers(judge.joined, features.reshape(1, -1))
    return cross_entropy(layers(judge.classifier, hidden)[0], label)


def same(outcome: Outcome, losses: Array) -> bool:
    assert losses.any()
    return np.allclose(numpy(outcome.losses), losses, rtol=2e-4, atol=1e-5)


# Triplets


def walk() -> Batch:
    """Two epochs of three clips, a pause between two clips, and steps of different length in each clip."""
    rows = torch.arange(COUNT)
    times_s = rows % (3 * LENGTH) * 0.1 * (1 + rows // LENGTH % 3) + 2.0 * (rows // LENGTH % 3)
    return dataclasses.replace(some_clips(), epochs=rows // (3 * LENGTH), times_s=times_s.double())


@pytest.mark.parametrize("positive", ["time", "eye"])
@pytest.mark.parametrize(("unit", "near", "far"), [("frames", 2.0, 3.0), ("seconds", 0.25, 0.35)])
def test_tct_pulls_what_is_near_in_time_and_pushes_what_is_far(
    positive: str, unit: str, near: float, far: float
) -> None:
    batch = walk()
    objective, views, outcome = made("tct", batch, positive=positive, unit=unit, near=near, far=far)
    left, right = (10 * numpy(objective.student(views.large[:, eye])) for eye in (0, 1))
    assert np.allclose(np.linalg.norm(left, axis=1), 10)
    assert batch.times_s is not None
    times = numpy(batch.times_s)
    terms, right_ones, by_margin = [], [], []
    for a in range(COUNT):
        clip = [row for row in range(COUNT) if row // LENGTH == a // LENGTH]
        step = sum(abs(times[row] - times[a]) for row in clip) / sum(abs(row - a) for row in clip)

        def away(b: int, a: int = a, clip: Rows = clip, step: float = step) -> float:
            seconds = abs(times[b] - times[a])
            return seconds if unit == "seconds" else abs(b - a) if b in clip else seconds / step

        negatives = [n for n in range(COUNT) if n // (3 * LENGTH) == a // (3 * LENGTH) and away(n) > far]
        positives = [p for p in clip if p != a and away(p) <= near]
        if negatives and (positives or positive == "eye"):
            chance = float(views.chances[a, 0])
            p = right[a] if positive == "eye" else left[positives[int(chance * len(positives))]]
            to_p, to_n = ((left[a] - p) ** 2).sum(), ((left[a] - left[negatives]) ** 2).sum(1)
            terms.append(([a], float(np.maximum(0, 2 + to_p - to_n).mean())))
            right_ones.append((to_p < to_n).mean())
            by_margin.append((to_p + 2 < to_n).mean())
    assert same(outcome, by_pair(terms))
    assert float(outcome.gauges["right"]) == pytest.approx(np.mean(right_ones))
    assert float(outcome.gauges["right_by_margin"]) == pytest.approx(np.mean(by_margin))
    assert float(outcome.gauges["usable"]) == pytest.approx(len(terms) / COUNT)


def test_pairs_of_two_epochs_are_not_apart_and_two_clips_of_one_are_by_seconds() -> None:
    time, within = apart(walk(), "frames")
    assert time[0, 1:LENGTH].tolist() == [1, 2, 3, 4, 5]
    assert within[0].tolist() == [row < LENGTH for row in range(COUNT)]
    assert time[0, LENGTH].item() == pytest.approx((0.1 * 6 * 2 + 2.0) / 0.1)
    assert time[0, 3 * LENGTH :].isnan().all()
    assert apart(some_pairs(), "seconds").time.isnan().all()


def test_pairs_of_one_moment_tell_nothing_of_how_many_frames_lie_between_clips() -> None:
    batch = dataclasses.replace(walk(), epochs=torch.zeros(COUNT, dtype=torch.int64))
    assert batch.times_s is not None
    batch.times_s[:LENGTH] = 1.0
    frames, seconds = apart(batch, "frames").time, apart(batch, "seconds").time
    assert frames[0, :LENGTH].tolist() == [0, 1, 2, 3, 4, 5]
    assert frames[0, LENGTH:].isnan().all()
    assert frames[LENGTH].isfinite().all()
    assert seconds.isfinite().all()


def test_one_of_the_chosen_is_drawn_evenly_and_of_none_there_is_none() -> None:
    chosen = torch.tensor([[False, True, False, True, True]]).expand(9999, -1).clone()
    chosen[-1] = False
    number, is_there = drawn(chosen, torch.linspace(0, 1 - 1e-6, 9999))
    assert torch.bincount(number[:-1]).tolist() == pytest.approx([0, 3333, 0, 3333, 3333], abs=2)
    assert is_there.tolist() == [True] * 9998 + [False]


# Windows


def test_mftcn_finds_what_the_right_eye_has_seen_meanwhile() -> None:
    objective, views, outcome = made("mftcn", some_clips())
    features = [numpy(objective.student.encoder(views.large[:, eye])) for eye in (0, 1)]
    ends = windows(4)
    left, right = (
        layers(objective.student.projector, np.stack([eye[rows].ravel() for rows in ends])) for eye in features
    )
    terms = []
    for i, rows in enumerate(ends):
        told_apart = [
            j
            for j, other in enumerate(ends)
            if i == j or rows[0] // LENGTH != other[0] // LENGTH or abs(rows[0] - other[0]) >= 4
        ]
        squares = (left[i] @ left[i] + right[i] @ right[i]) / 4
        terms.append((rows, cross_entropy(left[i] @ right[told_apart].T, told_apart.index(i)) + 0.002 * squares))
    assert same(outcome, by_pair(terms))


def test_timecpc_finds_the_next_pictures_from_what_a_gru_has_read() -> None:
    objective, views, outcome = made("timecpc", some_clips())
    z = numpy(objective.student(views.large[:, 0]))
    cell = {key: numpy(value) for key, value in objective.context.named_parameters()}

    def sigmoid(x: Array) -> Array:
        return np.asarray(1 / (1 + np.exp(-x)))

    terms = []
    for rows in windows(5):
        c = np.zeros(z.shape[1])
        for row in rows[:3]:
            given = np.split(cell["weight_ih"] @ z[row] + cell["bias_ih"], 3)
            kept = np.split(cell["weight_hh"] @ c + cell["bias_hh"], 3)
            reset, update = sigmoid(given[0] + kept[0]), sigmoid(given[1] + kept[1])
            c = (1 - update) * np.tanh(given[2] + reset * kept[2]) + update * c
        losses = []
        for guess, row in zip(objective.guesses, rows[3:], strict=True):
            asked = numpy(guess.weight) @ c + numpy(guess.bias)
            losses.append(cross_entropy(z @ asked / np.linalg.norm(asked) / 0.1, row))
        terms.append((rows, float(np.mean(losses))))
    assert same(outcome, by_pair(terms))


def test_shuffle_judges_a_right_and_two_wrong_triples_of_a_lively_window_of_each_clip() -> None:
    objective, views, outcome = made("shuffle", some_clips())
    features, chances = numpy(objective.student.encoder(views.large[:, 0])), numpy(views.chances)
    small = nn.functional.adaptive_avg_pool2d(views.large[:, 0], 16).double().numpy()
    terms = []
    for clip in range(CLIPS):
        inside = [rows for rows in windows(5) if rows[0] // LENGTH == clip]
        motion = [np.mean([np.abs(small[row + 1] - small[row]).mean() for row in rows[:-1]]) for rows in inside]
        scores = [
            math.log(one) - math.log(-math.log(chances[rows[0], 0])) for one, rows in zip(motion, inside, strict=True)
        ]
        a, b, c, d, e = rows = inside[int(np.argmax(scores))]
        turn = 1 if chances[a, 1] < 0.5 else -1
        asked = [((b, c, d), 0), ((b, a, d), 1), ((b, e, d), 1)]
        terms.append(
            (
                rows,
                float(np.mean([judged(objective.judge, features[list(some[::turn])], label) for some, label in asked])),
            )
        )
    assert same(outcome, by_pair(terms))


def test_a_window_is_drawn_in_proportion_to_its_motion() -> None:
    times = 6000
    clips = torch.arange(times).repeat_interleave(3)
    chosen = lively(clips, torch.tensor([1.0, 2.0, 5.0]).repeat(times), torch.rand(3 * times, generator=seeded()))
    assert chosen.view(times, 3).sum(1).eq(1).all()
    assert chosen.view(times, 3).float().mean(0).tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.02)
    still = lively(clips, torch.zeros(3 * times), torch.rand(3 * times, generator=seeded()))
    assert still.view(times, 3).sum(1).eq(1).all()


def test_motion_is_the_mean_difference_from_picture_to_picture() -> None:
    pictures = torch.tensor([0.0, 0.25, 0.75])[:, None, None, None].expand(-1, 3, 32, 32)
    assert motion_of(pictures, torch.tensor([[0, 1, 2], [1, 1, 1]])).tolist() == pytest.approx([0.375, 0])


def test_oddone_finds_the_run_whose_pictures_are_shuffled() -> None:
    objective, views, outcome = made("oddone", some_clips())
    features, chances = numpy(objective.student.encoder(views.large[:, 0])), numpy(views.chances)
    terms = []
    for rows in windows(6):
        odd = int(chances[rows[0], 0] * 3)
        runs = [rows[first : first + 4] for first in range(3)]
        runs[odd] = shuffled(torch.tensor(runs[odd])[None], views.chances[:, 1])[0].tolist()
        codes = layers(objective.student.projector, np.stack([features[run].ravel() for run in runs]))
        terms.append((rows, judged(objective.judge, codes, odd)))
    assert same(outcome, by_pair(terms))


def test_a_shuffled_run_has_the_same_pictures_in_another_order() -> None:
    runs = torch.arange(4 * 500).view(500, 4)
    found = shuffled(runs, torch.rand(runs.numel(), generator=seeded()))
    assert found.sort(1).values.equal(runs)
    assert (found != runs).any(1).all()
    assert len(torch.unique((found - runs[:, :1]), dim=0)) == 23  # all permutations of four but the old order


def test_arrow_tells_each_window_from_the_same_one_backwards() -> None:
    objective, views, outcome = made("arrow", some_clips())
    features = numpy(objective.student.encoder(views.large[:, 0]))
    terms = [
        (rows, (judged(objective.judge, features[rows], 0) + judged(objective.judge, features[rows[::-1]], 1)) / 2)
        for rows in windows(4)
    ]
    assert same(outcome, by_pair(terms))


def test_tracking_is_a_triplet_of_a_patch_its_later_self_and_the_nearest_others() -> None:
    objective, views, outcome = made("tracking", some_clips())
    first, later = (numpy(objective.student(views.large[:, view])) for view in (0, 1))
    starts = [clip * LENGTH for clip in range(CLIPS)]
    assert views.is_followed.nonzero().flatten().tolist() == starts
    terms = []
    for start in starts:
        wrong = sorted((float(first[start] @ later[other]) for other in starts if other != start), reverse=True)[:4]
        right = float(first[start] @ later[start])
        terms.append((list(range(start, start + 6)), float(np.mean([max(0, 0.5 + one - right) for one in wrong]))))
    assert same(outcome, by_pair(terms))


def test_pointing_copies_the_colours_of_the_three_pictures_before() -> None:
    objective, views, outcome = made("pointing", some_clips())
    lab = to_lab(views.large[:, 0])
    grey = (lab[:, :1] / 100).expand_as(lab).clamp(0, 1)
    _, tokens = objective.student.encoder.tokens(grey)
    f = numpy(objective.student.project(tokens))
    means = nn.functional.avg_pool2d(lab[:, 1:], objective.student.encoder.patch_size).flatten(2).mT
    colours = numpy(softly(means, objective.classes))
    terms = []
    for rows in windows(4):
        shown, values = np.concatenate(f[rows[:3]]), np.concatenate(colours[rows[:3]])
        losses = []
        for j, asking in enumerate(f[rows[3]]):
            weights = np.exp(shown @ asking - (shown @ asking).max())
            copied = weights / weights.sum() @ values
            losses.append(-(colours[rows[3], j] * np.log(np.maximum(copied, 1e-6))).sum())
        terms.append((rows, float(np.mean(losses))))
    assert same(outcome, by_pair(terms))


def test_labels_are_carried_along_with_what_they_lie_on() -> None:
    things = torch.eye(9) * 9
    rows = torch.stack([things.roll(step, 0) for step in range(5)])
    labels = torch.zeros(9, 2)
    labels[2, 1] = labels[[0, 1, 3, 4, 5, 6, 7, 8], 0] = 1
    found = carried(rows, labels, references=2)
    assert found.shape == (5, 9, 2)
    assert found[..., 1].argmax(1).tolist() == [2, 3, 4, 5, 6]
    assert found.sum(-1).allclose(torch.ones(5, 9))


# Batches without windows


def test_losses_of_windows_keep_their_mean_and_pairs_outside_have_none() -> None:
    features = torch.ones(7, 2, requires_grad=True)
    losses, gauges = spread(torch.tensor([3.0, 5.0]), torch.tensor([[0, 1], [1, 2]]), features)
    assert losses.requires_grad
    assert losses.mean().item() == pytest.approx(4)
    assert losses.tolist() == pytest.approx([7 / 2 * 1.5, 7 / 2 * 4, 7 / 2 * 2.5, 0, 0, 0, 0])
    assert float(gauges["usable"]) == pytest.approx(3 / 7)


@pytest.mark.parametrize(
    ("name", "changes", "window"),
    [
        ("mftcn", {"objective.frames": 9}, 9),
        ("timecpc", {"objective.past": 7, "objective.steps": 2}, 9),
        ("shuffle", {"objective.stride": 2}, 9),
        ("oddone", {"objective.questions": 5, "objective.frames": 5}, 9),
        ("arrow", {"objective.frames": 9}, 9),
        ("tracking", {"views.span": 8}, 9),
        ("pointing", {"objective.references": 8}, 9),
        ("ntxent+arrow", {"objective.second.frames": 9}, 9),
    ],
)
def test_a_window_that_no_clip_can_hold_is_refused_in_one_line(name: str, changes: dict[str, int], window: int) -> None:
    plain = to_plain(small(name))
    for key, value in changes.items():
        *path, last = key.split(".")
        functools.reduce(operator.getitem, path, plain)[last] = value
    said = rf"objective {re.escape(name)} looks at {window} consecutive pairs, and memory keeps 8 together: --memory.clip 9"
    with pytest.raises(SettingsError, match=f"^{said}$"):
        Trainer(from_plain(plain), CPU)
    plain["memory"] |= {"clip": 9, "fresh_capacity": 32}
    plain["pacing"]["batch_size"] = 9
    assert Trainer(from_plain(plain), CPU).objective.window == window


@pytest.mark.parametrize("name", TEMPORAL)
def test_without_any_clip_the_losses_are_0_and_the_step_is_not_refused(name: str) -> None:
    made_of = trainer(name)
    outcome = made_of.outcome(some_pairs(), seeded())
    assert not outcome.losses.any()
    assert float(outcome.gauges["usable"]) == 0
    step = made_of.step(some_pairs())
    assert not step.is_refused
    assert step.report.grad_norm == 0
    assert float(made_of.outcome(some_clips(), seeded()).gauges["usable"]) > 0.5
