"""The loss of each objective against its formula in NumPy, one number after the other, from what its networks put out."""

from __future__ import annotations

import dataclasses
import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from every_objective import COUNT, see, seeded, small, some_pairs, trainer
from numpy.typing import NDArray
from seed_formulas import cross_entropy, entropy, repelled_by, softmax, swav
from torch import Tensor

from learner.objectives.babyagent import BabyAgent
from learner.objectives.contract import Outcome, Views
from learner.objectives.contrastive import Contrastive
from learner.objectives.joint.byol import BYOL
from learner.objectives.joint.deepcluster import DeepCluster, DeepClusterConfig
from learner.objectives.joint.dino import DINO, DINOConfig
from learner.objectives.joint.lejepa import LeJEPA, sigreg
from learner.objectives.joint.moco import MoCo
from learner.objectives.joint.mocov3 import MoCoV3, MoCoV3Config
from learner.objectives.joint.simclr import SimCLR
from learner.objectives.joint.simsiam import SimSiam
from learner.objectives.joint.swav import SwAV
from learner.objectives.joint.vicreg import VICReg
from learner.objectives.joint.visreg import VISReg, visreg
from learner.objectives.masked.mae import MAE
from learner.objectives.ntxent import NTXent
from learner.parts.clusters import k_means
from learner.parts.losses import directions
from learner.parts.queue import Queue
from learner.trainer import Trainer
from learner.views.anywhere import MultiConfig, TwoConfig
from learner.views.contract import ViewsConfig
from learner.views.masks import MaskedViews
from learner.views.several import SEVERAL

Array = NDArray[np.float64]
pytestmark = pytest.mark.usefixtures("one_thread")


def numpy(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def unit(rows: Array) -> Array:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))


def made(name: str, *, multi: bool = False, kind: type[ViewsConfig] | None = None) -> tuple[Any, Views, Outcome]:
    """An objective, the views that it sees, and its outcome."""
    kind = MultiConfig if multi else kind
    start = trainer(name) if kind is None else trainer(name, views=kind.for_preset("cpu"))
    views = start.objective.views(some_pairs(), seeded())
    see(start.objective, views)
    return start.objective, views, start.outcome(some_pairs(), seeded())


def each(views: Views) -> list[Tensor]:
    return [*views.large.unbind(1), *views.small.unbind(1)]


def together(network: Any, views: list[Tensor], place: Any = slice(None), then: Any = None) -> list[Array]:
    """What a network says of each of the views, with one batch norm over all of them: [B, D] of each.

    place: of what is meant in what the projector returns. then: a network behind it.
    """
    said = network.project(torch.stack([network.encoder(view) for view in views], 1))[place]
    return [*numpy(said if then is None else then(said)).swapaxes(0, 1)]


def nt_xent(z: Array, temperature: float) -> list[float]:
    """Of each pair, by unit projections [B, V, D]: the mean over two of its views of what the first lacks to find the other."""
    losses = []
    for i in range(len(z)):
        terms = []
        for v in range(z.shape[1]):
            others = [(j, w) for j in range(len(z)) for w in range(z.shape[1]) if (j, w) != (i, v)]
            total = sum(math.exp(z[i, v] @ z[j, w] / temperature) for j, w in others)
            own = [w for w in range(z.shape[1]) if w != v]
            terms += [-math.log(math.exp(z[i, v] @ z[i, w] / temperature) / total) for w in own]
        losses.append(float(np.mean(terms)))
    return losses


@pytest.mark.parametrize("multi", [False, True])
def test_simclr_tells_each_view_of_a_pair_from_all_views_of_the_others(multi: bool) -> None:
    objective, views, outcome = made("simclr", multi=multi)
    assert isinstance(objective, SimCLR)
    z = unit(np.stack(together(objective.student, each(views)), 1))
    assert np.allclose(numpy(outcome.losses), nt_xent(z, objective.config.temperature), rtol=1e-4)


@pytest.mark.parametrize("kind", [None, MultiConfig, TwoConfig])
def test_ntxent_does_so_with_views_that_a_teacher_places_and_one_batch_norm_over_all_of_them(
    kind: type[ViewsConfig] | None,
) -> None:
    objective, views, outcome = made("ntxent", kind=kind)
    assert isinstance(objective, NTXent)
    z = unit(np.stack(together(objective.student, each(views)), 1))
    losses = nt_xent(z, objective.config.temperature)
    assert np.allclose(numpy(outcome.losses), losses, rtol=1e-4)
    least, most = math.log(z.shape[1] - 1), math.log(z.shape[0] * z.shape[1] - 1)
    information = (most - np.mean(losses)) / (most - least)
    assert float(outcome.gauges["student_information"]) == pytest.approx(information, rel=1e-3)


@pytest.mark.parametrize("multi", [False, True])
def test_moco_finds_the_own_key_among_those_of_the_queue(multi: bool) -> None:
    objective, views, outcome = made("moco", multi=multi)
    assert isinstance(objective, MoCo)
    keys, queue = numpy(objective.teacher(views.large[:, 0])), numpy(objective.queue.rows)
    losses = np.zeros(COUNT)
    for view in each(views)[1:]:
        for i, query in enumerate(numpy(objective.student(view))):
            own = math.exp(query @ keys[i] / objective.config.temperature)
            others = sum(math.exp(query @ other / objective.config.temperature) for other in queue)
            losses[i] -= math.log(own / (own + others)) / (len(each(views)) - 1)
    assert np.allclose(numpy(outcome.losses), losses, rtol=1e-4)
    objective.after_step()
    assert np.allclose(numpy(objective.queue.rows)[:COUNT], keys, atol=1e-6)


@pytest.mark.parametrize("multi", [False, True])
def test_mocov3_finds_the_key_of_another_view_by_a_prediction(multi: bool) -> None:
    objective, views, outcome = made("mocov3", kind=MultiConfig if multi else TwoConfig)
    assert isinstance(objective, MoCoV3)
    temperature = objective.config.temperature
    queries = [*map(unit, together(objective.student, each(views), then=objective.predictor))]
    keys = [*map(unit, together(objective.teacher, [*views.large.unbind(1)]))]
    shares = [softmax(q @ k.T / temperature) for v, q in enumerate(queries) for g, k in enumerate(keys) if v != g]
    losses = 2 * temperature * np.mean([-np.log(np.diag(share)) for share in shares], 0)
    assert np.allclose(numpy(outcome.losses), losses, rtol=1e-4)


def test_mocov3_embeds_patches_as_at_the_start_unless_it_is_told_otherwise() -> None:
    names = {name for name, weight in made("mocov3")[0].student.named_parameters() if not weight.requires_grad}
    assert names == {"encoder.backbone.patch_embed.proj.weight", "encoder.backbone.patch_embed.proj.bias"}
    config = MoCoV3Config(hidden=32, projection=16, freeze_patches=False)
    start: Any = Trainer(dataclasses.replace(small("mocov3"), objective=config), torch.device("cpu")).objective
    assert all(weight.requires_grad for weight in start.student.parameters())


@pytest.mark.parametrize("kind", SEVERAL)
def test_contrastive_finds_the_first_view_of_the_pair_whatever_the_views_are(kind: type[ViewsConfig]) -> None:
    objective, views, outcome = made("contrastive", kind=kind)
    assert isinstance(objective, Contrastive)
    keys, losses = numpy(objective.teacher(views.large[:, 0])), np.zeros(COUNT)
    for view in each(views)[1:]:
        for i, query in enumerate(numpy(objective.student(view))):
            weights = [math.exp(query @ key / objective.config.temperature) for key in keys]
            losses[i] -= math.log(weights[i] / sum(weights)) / (len(each(views)) - 1)
    assert np.allclose(numpy(outcome.losses), losses, rtol=1e-4)


@pytest.mark.parametrize("kind", SEVERAL)
def test_babyagent_answers_for_each_other_view_what_the_teacher_says_of_the_first(kind: type[ViewsConfig]) -> None:
    objective, views, outcome = made("babyagent", kind=kind)
    assert isinstance(objective, BabyAgent)
    config, others = objective.config, each(views)[1:]
    targets = swav(numpy(objective.teacher(views.large[:, 0])[1]) / config.teacher_temperature)
    put_out = [tuple(map(numpy, objective.student(view))) for view in others]
    for i in range(COUNT):
        strangers = np.concatenate([np.delete(z, i, 0) for z, _ in put_out])
        answers = [softmax(logits[i] / config.student_temperature) for _, logits in put_out]
        terms = [cross_entropy(targets[i], answer) for answer in answers]
        pushed = repelled_by(np.stack([z[i] for z, _ in put_out]), strangers, config.repulsion_temperature)
        assert float(outcome.losses[i].detach()) == pytest.approx(sum(terms) + config.repulsion * pushed, rel=1e-4)
        assert float(outcome.ranked_by[i]) == pytest.approx(np.mean(terms) - entropy(targets[i]), rel=1e-3, abs=1e-5)


def test_a_queue_forgets_the_oldest_rows_first() -> None:
    queue, rows = Queue(5, 3), torch.nn.functional.normalize(torch.randn(8, 3, generator=seeded()), dim=-1)
    for some in rows.view(4, 2, 3):
        queue.push(some)
        queue.after_step()
    assert {tuple(row) for row in queue.rows.tolist()} == {tuple(row) for row in rows[3:].tolist()}


@pytest.mark.parametrize("multi", [False, True])
def test_byol_guesses_what_the_copy_says_of_another_view(multi: bool) -> None:
    objective, views, outcome = made("byol", multi=multi)
    assert isinstance(objective, BYOL)
    guesses = [*map(unit, together(objective.student, each(views), then=objective.predictor))]
    targets = [*map(unit, together(objective.teacher, [*views.large.unbind(1)]))]
    terms = [2 - 2 * (p * z).sum(-1) for v, p in enumerate(guesses) for g, z in enumerate(targets) if v != g]
    assert np.allclose(numpy(outcome.losses), np.mean(terms, 0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("multi", [False, True])
def test_simsiam_guesses_what_the_network_says_of_another_view(multi: bool) -> None:
    objective, views, outcome = made("simsiam", kind=MultiConfig if multi else TwoConfig)
    assert isinstance(objective, SimSiam)
    z = [*map(unit, together(objective.student, each(views)))]
    p = [*map(unit, together(objective.student, each(views), then=objective.predictor))]
    terms = [1 - (p[v] * z[g]).sum(-1) for v in range(len(p)) for g in range(2) if v != g]
    assert np.allclose(numpy(outcome.losses), np.mean(terms, 0), rtol=1e-4, atol=1e-6)


def guessed(objective: Any, views: Views, targets: list[Array], temperature: float) -> tuple[Array, Array]:
    """What distillation loses over all pairs of a view and another, large one, and the KL that is left to learn: [B]."""
    logs = [np.log(softmax(some / temperature)) for some in together(objective.student, each(views), 1)]
    losses = [-(p * q).sum(1) for v, q in enumerate(logs) for g, p in enumerate(targets) if v != g]
    entropies = [-(p * np.log(p)).sum(1) for p in targets]
    return np.mean(losses, 0), np.mean(losses, 0) - np.mean(entropies, 0)


def test_dino_answers_for_each_view_what_the_copy_says_of_another_behind_its_centre() -> None:
    start = trainer("dino", objective=DINOConfig(hidden=32, bottleneck=16, prototypes=64))
    for seed in (1, 2):
        start.step(some_pairs(seed=seed))
    objective = start.objective
    assert isinstance(objective, DINO)
    views, config, centre = objective.views(some_pairs(), seeded()), objective.config, numpy(objective.centre.mean)
    assert abs(centre).max() > 1e-3
    see(objective, views)
    outcome, said = start.outcome(some_pairs(), seeded()), [numpy(objective.teacher(view)[1]) for view in each(views)]
    targets = [softmax((logits - centre) / config.teacher_temperature) for logits in said[:2]]
    losses, left = guessed(objective, views, targets, config.student_temperature)
    assert np.allclose(numpy(outcome.losses), losses, rtol=1e-4)
    assert np.allclose(numpy(outcome.ranked_by), left, rtol=1e-3, atol=1e-5)
    objective.after_step()
    assert np.allclose(numpy(objective.centre.mean), 0.9 * centre + 0.1 * np.mean(said[:2], (0, 1)), atol=1e-6)


@pytest.mark.parametrize("is_full", [False, True])
def test_swav_answers_for_each_view_the_codes_of_another_and_a_full_queue_has_codes_too(is_full: bool) -> None:
    objective, views, _ = made("swav")
    assert isinstance(objective, SwAV)
    objective.queue.taken.fill_(512 if is_full else 511)
    outcome, config = objective(some_pairs(), seeded()), objective.config
    queue = numpy(objective.queue.rows) @ unit(numpy(objective.student.projector.prototypes)).T
    projections, scores = (together(objective.student, each(views), place)[:2] for place in (0, 1))
    codes = [swav(np.concatenate([s, queue] if is_full else [s]) / config.sharpness)[:COUNT] for s in scores]
    losses, left = guessed(objective, views, codes, config.temperature)
    assert np.allclose(numpy(outcome.losses), losses, rtol=1e-4)
    assert np.allclose(numpy(outcome.ranked_by), left, rtol=1e-3, atol=1e-5)
    objective.after_step()
    pushed = np.stack(projections, 1).reshape(2 * COUNT, -1)
    assert np.allclose(
        numpy(objective.queue.rows)[(np.arange(2 * COUNT) + (0 if is_full else 511)) % 512], pushed, atol=1e-6
    )


def test_vicreg_is_its_three_terms() -> None:
    objective, views, outcome = made("vicreg")
    assert isinstance(objective, VICReg)
    one, other = (numpy(objective.student(view)) for view in each(views))
    assert np.allclose(numpy(outcome.losses), 25 * ((one - other) ** 2).mean(1), rtol=1e-4)
    hinges, covariances = [], []
    for z in (one, other):
        hinges.append(np.maximum(0, 1 - np.sqrt(z.var(0, ddof=1) + 1e-4)).mean())
        matrix = np.cov(z.T)
        covariances.append(((matrix**2).sum() - (np.diag(matrix) ** 2).sum()) / z.shape[1])
    assert outcome.shared is not None
    assert float(outcome.shared.detach()) == pytest.approx(25 * sum(hinges) / 2 + sum(covariances), rel=1e-4)


def projected(objective: Any, views: Views) -> Tensor:
    rows: Tensor = objective.student.project(views.through(objective.student.encoder))
    return rows.detach()


def slices_of(objective: Any) -> Tensor:
    return directions(objective.config.projection, objective.config.directions, seeded(), torch.zeros(()))


def epps_pulley(x: Array) -> float:
    """As the authors of LeJEPA write it: knots of a trapezoid in [0, 3], doubled by symmetry, a window, times the pairs."""
    total = 0.0
    for k in range(17):
        t, dt = 3 * k / 16, 3 / 16
        error = (np.cos(t * x).mean() - math.exp(-(t**2) / 2)) ** 2 + np.sin(t * x).mean() ** 2
        total += (dt if k in (0, 16) else 2 * dt) * math.exp(-(t**2) / 2) * error
    return len(x) * total


@pytest.mark.parametrize("spread", [0.01, 1.0, 5.0])
def test_sigreg_at_fixed_slices_is_that_of_the_authors_to_a_millionth(spread: float) -> None:
    """Their own code at eddffdd was run beside it, in float32: 1.2e-7 apart, and 2.1e-7 in the gradient."""
    rows, slices = torch.randn(32, 3, 16, generator=seeded()).double(), directions(16, 24, seeded(1), torch.zeros(()))
    expected = np.mean([epps_pulley(spread * numpy(rows)[:, v] @ a) for v in range(3) for a in numpy(slices).T])
    assert float(sigreg(spread * rows, slices.double())) == pytest.approx(expected, rel=1e-6)
    assert float(sigreg(spread * rows.float(), slices)) == pytest.approx(expected, rel=1e-5)


def test_lejepa_is_the_distance_from_the_mean_view_and_sigreg() -> None:
    objective, views, outcome = made("lejepa")
    assert isinstance(objective, LeJEPA)
    rows, weight = projected(objective, views), objective.config.weight
    z = numpy(rows)
    losses = [np.mean([(z[i, v] - z[i].mean(0)) ** 2 for v in range(z.shape[1])]) for i in range(COUNT)]
    assert np.allclose(numpy(outcome.losses), (1 - weight) * np.array(losses), rtol=1e-4)
    assert outcome.shared is not None
    assert float(outcome.shared.detach()) == pytest.approx(weight * float(sigreg(rows, slices_of(objective))), rel=1e-4)


def test_visreg_compares_mean_variance_and_sorted_slices_with_a_normal_distribution() -> None:
    objective, views, outcome = made("visreg")
    assert isinstance(objective, VISReg)
    z, slices, weight = numpy(projected(objective, views)), numpy(slices_of(objective)), objective.config.weight
    losses = [np.mean((z[i] - (z[i, 0] + z[i, 1]) / 2) ** 2) for i in range(COUNT)]
    assert np.allclose(numpy(outcome.losses), (1 - weight) * np.array(losses), rtol=1e-4)
    quantiles = np.array([NormalDist().inv_cdf(n / (COUNT + 1)) for n in range(1, COUNT + 1)])
    terms = []
    for view in z.transpose(1, 0, 2):
        mean, deviation = view.mean(0), view.std(0)
        shape = [np.sort((view - mean) / deviation @ a) - quantiles for a in slices.T]
        terms.append((mean**2).mean() + ((deviation - 1) ** 2).mean() + np.square(shape).mean())
    assert outcome.shared is not None
    assert float(outcome.shared.detach()) == pytest.approx(weight * np.mean(terms), rel=1e-4)


def test_visreg_moves_no_deviation_by_the_shape() -> None:
    """The deviation is a constant of that term: for rows at the quantiles nothing but their scale has a gradient."""
    rows = torch.special.ndtri(torch.arange(1, 8).double() / 8)[:, None, None]
    rows = (3 * rows / rows.std(0, correction=0)).requires_grad_()
    (gradient,) = torch.autograd.grad(visreg(rows, torch.ones(1, 1).double()), rows)
    scaled = rows.detach() / 3
    shape = 2 * (scaled - torch.special.ndtri(torch.arange(1, 8).double() / 8)[:, None, None]) / 3 / 7
    assert torch.allclose(gradient, 2 * (3 - 1) * scaled / 7 + shape, atol=1e-5)


def test_all_processes_slice_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    first = torch.randn(4, 3, generator=seeded(9))
    monkeypatch.setattr("learner.distributed.collectives.all_rows", lambda rows: torch.cat([first, rows]))
    found = directions(3, 4, seeded(), torch.zeros(()))
    assert torch.allclose(found, torch.nn.functional.normalize(first, dim=-1).T)


def test_mae_guesses_the_scaled_pixels_of_the_hidden_patches() -> None:
    objective, views, outcome = made("mae")
    assert isinstance(objective, MAE)
    assert isinstance(views, MaskedViews)
    images, hidden, shown = numpy(views.large[:, 0]), views.hidden.numpy(), views.shown.numpy()
    assert [sorted((*one, *other)) for one, other in zip(shown.tolist(), hidden.tolist(), strict=True)] == [
        [*range(16)]
    ] * 6
    assert hidden.shape[1] == 12
    _, tokens = objective.student.encoder.tokens(views.large[:, 0], keep=views.shown)
    guesses = numpy(objective.decoder(tokens, views.shown, views.hidden))
    losses = np.zeros(COUNT)
    for i in range(COUNT):
        for guess, patch in zip(guesses[i], hidden[i], strict=True):
            row, column = divmod(int(patch), 4)
            pixels = images[i, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].reshape(-1)
            scaled = (pixels - pixels.mean()) / np.sqrt(pixels.var(ddof=1) + 1e-6)
            losses[i] += ((guess - scaled) ** 2).mean() / hidden.shape[1]
    assert np.allclose(numpy(outcome.losses), losses, rtol=1e-3)


def test_deepcluster_guesses_the_cluster_of_the_pair() -> None:
    objective, views, outcome = made("deepcluster")
    assert isinstance(objective, DeepCluster)
    z, centres = [*map(unit, together(objective.student, each(views)))], numpy(objective.clusters.centres)
    labels = (unit(np.mean(z, 0)) @ centres.T).argmax(1)
    losses = np.zeros(COUNT)
    for view in z:
        weights = np.exp(view @ centres.T / objective.config.temperature)
        losses -= np.log(weights[np.arange(COUNT), labels] / weights.sum(1)) / len(z)
    assert np.allclose(numpy(outcome.losses), losses, rtol=1e-4)


def test_the_clusters_are_found_as_soon_as_there_are_as_many_rows_and_again_every_so_many_steps() -> None:
    objective = DeepClusterConfig(hidden=32, projection=16, recent=50, every_steps=4, clusters=COUNT + 1)
    made = Trainer(dataclasses.replace(small("deepcluster"), objective=objective), torch.device("cpu"))
    clusters: Any = made.objective.clusters
    for step in range(1, 9):
        start = clusters.centres.clone()
        made.step(some_pairs(seed=step))
        rows = clusters.queue.rows[: COUNT * step]
        found = k_means(rows, start, 10) if step in (2, 4, 8) else start
        assert torch.allclose(clusters.centres, found, atol=1e-6)
        assert torch.equal(clusters.centres, start) is (step not in (2, 4, 8))


def test_k_means_finds_three_heaps_and_leaves_no_centre_without_rows() -> None:
    heaps = torch.eye(3).repeat_interleave(10, 0) + 0.05 * torch.randn(30, 3, generator=seeded())
    rows = torch.nn.functional.normalize(heaps, dim=-1)
    centres = k_means(
        rows, torch.nn.functional.normalize(torch.tensor([[1.0, 0, 0], [1, 0.1, 0], [-1, -1, -1]]), dim=-1), 10
    )
    own = (rows @ centres.T).argmax(1).view(3, 10)
    assert (own == own[:, :1]).all()
    assert len(set(own[:, 0].tolist())) == 3
