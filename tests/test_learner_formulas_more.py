"""As test_learner_formulas: banks, subjects, pseudo-labels, nested prototypes, blocks and prefixes against NumPy."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from every_objective import COUNT, see, seeded, some_pairs, trainer
from numpy.typing import NDArray
from seed_formulas import softmax
from torch import Tensor

from learner.objectives.contract import Batch, Outcome, Views
from learner.parts.clusters import Pseudolabels
from learner.parts.patches import PlaceRemoval
from learner.parts.queue import Bank
from learner.views.anywhere import MultiConfig, TwoConfig
from learner.views.contract import ViewsConfig
from learner.views.masks import MaskedViews

Array = NDArray[np.float64]
pytestmark = pytest.mark.usefixtures("one_thread")


def numpy(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def unit(rows: Array) -> Array:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))


def made(name: str, kind: type[ViewsConfig] | None = None, **changes: Any) -> tuple[Any, Any]:
    """An objective past its random start, with other settings, and the views that it sees."""
    objective: Any = (trainer(name) if kind is None else trainer(name, views=kind.for_preset("cpu"))).objective
    objective.config = dataclasses.replace(objective.config, **changes)
    views = objective.views(some_pairs(), seeded())
    see(objective, views)
    return objective, views


def outcome_of(objective: Any, batch: Batch | None = None, seed: int = 0) -> Outcome:
    found: Outcome = objective(some_pairs() if batch is None else batch, seeded(seed))
    return found


def said(network: Any, views: Views) -> Array:
    """What a network says of each view, the large ones first: [B, V, D]."""
    return numpy(views.through(network))


def own_among(query: Array, own: Array, others: Array, temperature: float) -> float:
    """-log of the share of the own key among it and the others."""
    scores = [math.exp(query @ key / temperature) for key in (own, *others)]
    return -math.log(scores[0] / sum(scores))


@pytest.mark.parametrize("kind", [TwoConfig, MultiConfig])
def test_mocov1_finds_the_own_key_of_a_linear_layer_at_a_lower_temperature(kind: type[ViewsConfig]) -> None:
    objective, views = made("mocov1", kind)
    assert (objective.config.temperature, len(objective.student.projector.mlp)) == (0.07, 1)
    queries, keys, queue = (
        said(objective.student, views.rest),
        said(objective.teacher, views),
        numpy(objective.queue.rows),
    )
    expected = [np.mean([own_among(q, keys[i, 0], queue, 0.07) for q in queries[i]]) for i in range(COUNT)]
    assert numpy(outcome_of(objective).losses) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("proximal", [0.0, 2.0])
def test_instance_finds_the_row_of_its_pair_in_the_bank_and_a_new_pair_its_own_mean(proximal: float) -> None:
    objective, views = made("instance", MultiConfig, proximal=proximal)
    bank, batch = objective.bank, some_pairs()
    held = {0: 5, 2: 7}  # pairs that hold a row, with a key beyond the size of the bank
    keys = torch.tensor([len(bank.rows) + held[i] if i in held else 20 + i for i in range(COUNT)])
    for place in held.values():
        bank.owners[place] = len(bank.rows) + place
    z, rows = said(objective.student, views), numpy(bank.rows)
    expected = []
    for i in range(COUNT):
        own = rows[held[i]] if i in held else unit(z[i].mean(0))
        others = np.delete(rows, held[i], 0) if i in held else rows
        terms = [own_among(q, own, others, 0.07) + proximal * float(((q - own) ** 2).sum()) for q in z[i]]
        expected.append(np.mean(terms))
    found = outcome_of(objective, dataclasses.replace(batch, keys=keys))
    assert numpy(found.losses) == pytest.approx(expected, rel=1e-4)
    assert float(found.gauges["held"]) == pytest.approx(2 / COUNT)


def test_a_bank_moves_what_is_held_and_gives_a_row_to_the_pair_that_came_last() -> None:
    bank = Bank(4, 3, momentum=0.5)
    first, second, third = torch.nn.functional.normalize(torch.randn(3, 3, generator=seeded()), dim=-1)
    bank.note(torch.tensor([1, 6]), torch.stack([first, second]))
    assert not bank.places(torch.tensor([1, 6]))[1].any()
    bank.after_step()
    assert bank.owners.tolist() == [-1, 1, 6, -1]
    assert torch.equal(bank.rows[[1, 2]], torch.stack([first, second]))
    bank.note(torch.tensor([1, 2, 6, 10]), torch.stack([second, first, second, third]))
    bank.after_step()
    assert bank.owners.tolist() == [-1, 1, 10, -1]
    assert np.allclose(numpy(bank.rows[1]), unit(numpy(first + second)))
    assert torch.equal(bank.rows[2], third)


def hinge(rows: Array) -> float:
    return float(np.mean([max(0, 1 - math.sqrt(column.var(ddof=1) + 1e-4)) for column in rows.T]))


def covariances(rows: Array) -> float:
    matrix = np.cov(rows.T)
    return float(((matrix**2).sum() - (np.diag(matrix) ** 2).sum()) / rows.shape[1])


@pytest.mark.parametrize("who", [[7, 7, 7, 7, 7, 7], [1, 2, 1, 2, 2, 9]])
def test_fairvicreg_varies_within_each_subject_and_brings_subjects_together(who: list[int]) -> None:
    objective, views = made("fairvicreg", variance=3.0, subjects=5.0, covariance=2.0, invariance=7.0)
    z = said(objective.student, views)
    groups = [z[np.array(who) == one] for one in sorted(set(who))]
    varied = np.mean([hinge(some[:, v]) for some in groups if len(some) > 1 for v in range(2)])
    means = [some.reshape(-1, z.shape[-1]).mean(0) for some in groups]
    apart = [((one - other) ** 2).mean() for i, one in enumerate(means) for j, other in enumerate(means) if i != j]
    repeated = 2 * np.mean([covariances(z[:, v]) for v in range(2)])
    found = outcome_of(objective, dataclasses.replace(some_pairs(), subjects=torch.tensor(who)))
    assert found.shared is not None
    shared = 3 * varied + 2 * repeated + 5 * (np.mean(apart) if apart else 0)
    assert float(found.shared.detach()) == pytest.approx(shared, rel=1e-4)
    assert numpy(found.losses) == pytest.approx([7 * ((pair[0] - pair[1]) ** 2).mean() for pair in z], rel=1e-4)


def test_with_one_subject_fairvicreg_is_vicreg() -> None:
    fair, views = made("fairvicreg")
    plain, _ = made("vicreg")
    plain.load_state_dict(fair.state_dict())
    see(plain, views)
    alone = dataclasses.replace(some_pairs(), subjects=None)
    one, other = outcome_of(fair, alone), outcome_of(plain, alone)
    assert one.shared is not None
    assert other.shared is not None
    assert torch.allclose(one.losses, other.losses)
    assert torch.allclose(one.shared, other.shared)


def test_deepclusterv1_guesses_the_whitened_cluster_and_rare_clusters_weigh_more() -> None:
    objective, views = made("deepclusterv1")
    clusters = objective.clusters
    clusters.mean.copy_(torch.randn(clusters.mean.shape, generator=seeded(1)))
    clusters.whitening.copy_(torch.randn(clusters.whitening.shape, generator=seeded(2)))
    clusters.weights.copy_(torch.rand(clusters.weights.shape, generator=seeded(3)) + 0.5)
    features, layer = said(objective.student.encoder, views), clusters.classifier
    expected = []
    for some in features:
        white = unit((some.mean(0) - numpy(clusters.mean)) @ numpy(clusters.whitening))
        label = int(np.argmax(numpy(clusters.centres) @ white))
        shares = [softmax(numpy(layer.weight) @ one + numpy(layer.bias)) for one in some]
        expected.append(numpy(clusters.weights)[label] * np.mean([-math.log(share[label]) for share in shares]))
    assert numpy(outcome_of(objective).losses) == pytest.approx(expected, rel=1e-4)


def test_pseudolabels_are_clusters_of_whitened_rows_and_their_classifier_begins_again() -> None:
    heaps = torch.eye(3).repeat_interleave(torch.tensor([10, 10, 20]), 0) @ torch.randn(3, 5, generator=seeded(4))
    rows = heaps * torch.tensor([100.0, 1, 1, 1, 1]) + 0.01 * torch.randn(40, 5, generator=seeded(5))
    first, second = (Pseudolabels(5, 3, 2, recent=40, every_steps=2) for _ in range(2))
    for part in (first, second):
        part.queue.rows.copy_(rows)
        part.queue.taken.fill_(40)
        before = part.classifier.weight.clone()
        part.after_step()
        assert torch.equal(part.classifier.weight, before)
        part.after_step()
        assert not torch.equal(part.classifier.weight, before)
    labels = first.of(rows)
    assert len({int(label) for label in labels}) == 3
    assert all(len(set(some.tolist())) == 1 for some in (labels[:10], labels[10:20], labels[20:]))
    assert first.weights[labels[[0, 10, 20]]].tolist() == pytest.approx([40 / 30, 40 / 30, 40 / 60])
    white = (numpy(rows) - numpy(rows).mean(0)) @ numpy(first.whitening)
    assert np.cov(white.T, ddof=0) == pytest.approx(np.eye(2), abs=0.02)
    assert torch.equal(first.classifier.weight, second.classifier.weight)


def scaled_patches(image: Array, patch: int) -> Array:
    side = image.shape[-1] // patch
    cut = [image[:, r * patch :, c * patch :][:, :patch, :patch].ravel() for r in range(side) for c in range(side)]
    return np.stack([(one - one.mean()) / math.sqrt(one.var(ddof=1) + 1e-6) for one in cut])


def test_aim_guesses_each_patch_behind_the_prefix_from_those_before_it() -> None:
    objective, views = made("aim")
    encoder, prefix = objective.student.encoder, int(torch.randint(1, 16, (1,), generator=seeded(2)))
    assert 1 < prefix < 14
    expected = np.zeros(COUNT)
    for i, v in np.ndindex(COUNT, 2):
        image = views.large[i, v]
        wanted = scaled_patches(numpy(image), 8)
        mask = np.array([[k <= row or k < 1 + prefix for k in range(17)] for row in range(17)])
        _, tokens = encoder.tokens(image[None], mask=torch.from_numpy(mask))
        guesses = numpy(objective.decoder(tokens[0]))
        expected[i] += np.mean([((guesses[p - 1] - wanted[p]) ** 2).mean() for p in range(prefix, 16)]) / 2
    assert numpy(outcome_of(objective, seed=2).losses) == pytest.approx(expected, rel=1e-4)


def test_a_patch_behind_the_prefix_sees_none_after_itself() -> None:
    objective, views = made("aim")
    image, prefix = views.large[:1, 0].clone(), 6
    image.requires_grad_()
    seen = torch.arange(17)
    _, tokens = objective.student.encoder.tokens(image, mask=(seen <= seen[:, None]) | (seen < 1 + prefix))
    torch.autograd.backward(tokens[0, prefix + 1, 0])
    assert image.grad is not None
    reached = image.grad.abs().sum((0, 1)).view(4, 8, 4, 8).sum((1, 3)).flatten() > 0
    assert reached.tolist() == [number <= prefix + 1 for number in range(16)]


def test_stacked_guesses_in_each_block_the_input_without_noise() -> None:
    objective, views = made("stacked")
    encoder = objective.student.encoder
    blocks, pixels = encoder.backbone.blocks, numpy(views.large[:, 0])
    kept = (torch.rand(2, 32, generator=seeded()) >= 0.25).float()

    def into_first_block(rgb: Tensor) -> Tensor:
        backbone = encoder.backbone
        found: Tensor = backbone.norm_pre(backbone._pos_embed(backbone.patch_embed((rgb - encoder.mean) / encoder.std)))
        return found

    with torch.no_grad():
        clean = blocks[0](into_first_block(views.large[:, 0]))
        first = numpy(objective.decoders[0](blocks[0](into_first_block(views.large[:, 1]))[:, 1:]))
        second = numpy(objective.decoders[1](encoder.backbone.norm(blocks[1](clean * kept[1]))[:, 1:]))
    true = numpy(clean)[:, 1:]
    true = (true - true.mean(-1, keepdims=True)) / np.sqrt(true.var(-1, keepdims=True) + 1e-5)
    cut = pixels.reshape(COUNT, 3, 4, 8, 4, 8).transpose(0, 2, 4, 1, 3, 5).reshape(COUNT, 16, -1)
    expected = (((first - cut) ** 2).mean((1, 2)) + ((second - true) ** 2).mean((1, 2))) / 2
    assert numpy(outcome_of(objective).losses) == pytest.approx(expected, rel=1e-4)


def sinkhorn(scores: Array) -> Array:
    mass = np.exp(scores - scores.max())
    for _ in range(3):
        mass /= mass.sum(0)
        mass /= mass.sum(1, keepdims=True)
    return np.asarray(mass)


def cleaned(layers: Any, tokens: Array, places: Array) -> tuple[Array, Array]:
    """Tokens [B, n, D] without the directions of each round by Gram-Schmidt, and the error of the places [B]."""
    errors = []
    for layer in layers:
        row, column = numpy(layer.weight)
        guesses = 1 / (1 + np.exp(-tokens @ np.stack([row, column], 1)))
        errors.append(((guesses - places) ** 2).mean((1, 2)))
        row = unit(row)
        column = unit(column - (column @ row) * row)
        tokens = tokens - (tokens @ row)[..., None] * row - (tokens @ column)[..., None] * column
    return tokens, np.mean(errors, 0)


def test_franca_guesses_on_each_level_the_codes_of_features_and_of_tokens_without_their_places() -> None:
    objective, views = made("franca")
    assert isinstance(views, MaskedViews)
    crop, shown = views.large[:, 0], views.shown.numpy()
    places = np.stack([shown // 4, shown % 4], -1) / 3
    with torch.no_grad():
        own, tokens = objective.student.encoder.tokens(crop, keep=views.shown)
        whole, all_tokens = objective.teacher.encoder.tokens(crop)
    seen = np.stack([numpy(all_tokens)[i, shown[i]] for i in range(COUNT)])
    mine, errors = cleaned(objective.places.layers, numpy(tokens), places)
    theirs, _ = cleaned(objective.places.layers, seen, places)
    rows, targets = (np.concatenate([numpy(f)[:, None], t], 1) for f, t in ((own, mine), (whole, theirs)))
    expected = errors.copy()
    for width, student, teacher in zip(
        (8, 16, 32), objective.student.projector.levels, objective.teacher.projector.levels, strict=True
    ):
        assert len(student.prototypes) == 256 * width // 32
        one, other = (
            numpy(network(torch.from_numpy(some[..., :width]).float())[1])
            for network, some in ((student, rows), (teacher, targets))
        )
        codes = np.concatenate(
            [
                sinkhorn(some.reshape(-1, some.shape[-1]) / 0.04).reshape(some.shape)
                for some in (other[:, :1], other[:, 1:])
            ],
            1,
        )
        shares = np.exp(one / 0.1) / np.exp(one / 0.1).sum(-1, keepdims=True)
        terms = -(codes * np.log(shares)).sum(-1)
        expected += terms[:, 0] + terms[:, 1:].mean(1)
    assert numpy(outcome_of(objective).losses) == pytest.approx(expected, rel=1e-3)


def test_what_is_read_of_a_place_is_no_longer_in_the_tokens_and_only_the_reader_learns() -> None:
    numbers = torch.arange(16).expand(64, 16)
    places = torch.stack([numbers // 4, numbers % 4], -1) / 3
    base = torch.randn(64, 16, 8, generator=seeded())
    tokens = (base + torch.cat([4 * places, torch.zeros(64, 16, 6)], -1)).requires_grad_()
    removal = PlaceRemoval(8, 2)
    optimizer = torch.optim.Adam(removal.parameters(), lr=0.03)

    def linear_error(of: Tensor) -> float:
        rows = numpy(torch.cat([of.flatten(0, 1), torch.ones(64 * 16, 1)], 1))
        wanted = numpy(places.flatten(0, 1))
        return float(((rows @ np.linalg.lstsq(rows, wanted, rcond=None)[0] - wanted) ** 2).mean())

    for _ in range(300):
        optimizer.zero_grad()
        torch.autograd.backward(removal(tokens, numbers, 4)[1].mean())
        optimizer.step()
    assert tokens.grad is None
    left, _ = removal(tokens, numbers, 4)
    assert linear_error(tokens) < 0.05
    assert linear_error(left) > 0.8 * float(places.var((0, 1), correction=0).mean())
    assert left.requires_grad
