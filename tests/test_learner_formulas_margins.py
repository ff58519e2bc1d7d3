"""Objectives with margins, pretexts and hidden blocks against their formulas in NumPy, one number after the other."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from every_objective import COUNT, see, seeded, some_pairs, trainer
from numpy.typing import NDArray
from torch import Tensor

from learner.objectives.contract import Outcome, Views
from learner.objectives.pretext.colours import Rarity, colour_classes, softly
from learner.objectives.pretext.permutations import far_permutations, ranks
from learner.parts.losses import coding_rate
from learner.parts.patches import patches_of
from learner.views.anywhere import MultiConfig, TwoConfig
from learner.views.augment import LUMA
from learner.views.contract import ViewsConfig
from learner.views.lab import to_lab
from learner.views.masks import BlockConfig, MaskedViews
from learner.views.tiles import TiledViews, TilesConfig

Array = NDArray[np.float64]
pytestmark = pytest.mark.usefixtures("one_thread")
BOTH = pytest.mark.parametrize("kind", [TwoConfig, MultiConfig])


def numpy(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def unit(rows: Array) -> Array:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))


def made(name: str, kind: type[ViewsConfig] | None = None) -> tuple[Any, Views, Outcome]:
    start = trainer(name) if kind is None else trainer(name, views=kind.for_preset("cpu"))
    views = start.objective.views(some_pairs(), seeded())
    see(start.objective, views)
    return start.objective, views, start.outcome(some_pairs(), seeded())


def projected(objective: Any, views: Views) -> Array:
    """[B, V, D], one view after the other."""
    every = [*views.large.unbind(1), *views.small.unbind(1)]
    return np.stack([numpy(objective.student(view)) for view in every], 1)


def two_of(z: Array) -> list[tuple[int, int]]:
    return [(v, w) for v in range(z.shape[1]) for w in range(z.shape[1]) if v != w]


def strangers(z: Array, i: int) -> Array:
    return np.delete(z, i, 0).reshape(-1, z.shape[-1])


@BOTH
def test_margin_pulls_the_views_of_a_pair_and_pushes_others_that_are_nearer_than_the_margin(
    kind: type[ViewsConfig],
) -> None:
    objective, views, outcome = made("margin", kind)
    z = unit(projected(objective, views))
    losses = []
    for i in range(COUNT):
        pulled = np.mean([np.sum((z[i, v] - z[i, w]) ** 2) for v, w in two_of(z)])
        far = [float(np.linalg.norm(z[i, v] - other)) for v in range(z.shape[1]) for other in strangers(z, i)]
        losses.append((pulled + np.mean([max(0.0, 1.0 - d) ** 2 for d in far])) / 2)
    assert np.allclose(numpy(outcome.losses), losses, rtol=1e-3, atol=1e-5)


@BOTH
def test_lifted_compares_two_views_of_a_pair_with_all_views_of_the_others(kind: type[ViewsConfig]) -> None:
    objective, views, outcome = made("lifted", kind)
    z = projected(objective, views)
    losses = []
    for i in range(COUNT):
        terms = []
        for v, w in two_of(z):
            raised = sum(math.exp(1.0 - np.linalg.norm(z[i, view] - k)) for view in (v, w) for k in strangers(z, i))
            terms.append(max(0.0, math.log(raised) + float(np.linalg.norm(z[i, v] - z[i, w]))) ** 2 / 2)
        losses.append(np.mean(terms))
    assert np.allclose(numpy(outcome.losses), losses, rtol=1e-3)


@BOTH
def test_npair_finds_a_view_of_its_pair_among_the_same_view_of_all_pairs(kind: type[ViewsConfig]) -> None:
    objective, views, outcome = made("npair", kind)
    z = projected(objective, views)
    losses = []
    for i in range(COUNT):
        terms = []
        for v, w in two_of(z):
            weights = [math.exp(z[i, v] @ z[j, w]) for j in range(COUNT)]
            terms.append(-math.log(weights[i] / sum(weights)))
        losses.append(np.mean(terms) + 0.002 * np.mean((z[i] ** 2).sum(-1)))
    assert np.allclose(numpy(outcome.losses), losses, rtol=1e-3)


@BOTH
def test_exemplar_is_a_triplet_to_the_four_nearest_views_of_other_pairs(kind: type[ViewsConfig]) -> None:
    objective, views, outcome = made("exemplar", kind)
    z = unit(projected(objective, views))
    losses = []
    for i in range(COUNT):
        terms = []
        for v, w in two_of(z):
            wrong = sorted((z[i, v] @ z[j, w] for j in range(COUNT) if j != i), reverse=True)[:4]
            terms.append(np.mean([max(0.0, 0.5 + one - z[i, v] @ z[i, w]) for one in wrong]))
        losses.append(np.mean(terms))
    assert np.allclose(numpy(outcome.losses), losses, rtol=1e-3, atol=1e-6)


def test_empssl_is_the_cosine_to_the_mean_crop_and_the_coding_rate() -> None:
    objective, views, outcome = made("empssl")
    z = unit(projected(objective, views))
    mean = unit(z.mean(1, keepdims=True))
    assert np.allclose(numpy(outcome.losses), 200 * (1 - (z * mean).sum(-1).mean(1)), rtol=1e-4)
    count, width = COUNT, z.shape[-1]
    rates = []
    for v in range(z.shape[1]):
        values = np.linalg.eigvalsh(z[:, v] @ z[:, v].T)  # what is not 0 is that of z^T z too
        rates.append(np.log1p(width / (count * 0.2) * values).sum() / 2)
    assert outcome.shared is not None
    assert float(outcome.shared.detach()) == pytest.approx(-np.mean(rates), rel=1e-3)


def test_the_coding_rate_of_equal_rows_is_that_of_one_direction() -> None:
    rows = torch.tensor([[1.0, 0.0, 0.0]]).repeat(5, 1)
    assert float(coding_rate(rows, 0.2)) == pytest.approx(math.log(1 + 3 / 0.2) / 2)


def cross_entropy(layer: Any, features: Array, label: int) -> float:
    scores = numpy(layer.weight) @ features + numpy(layer.bias)
    return float(np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[label])


@BOTH
def test_rotation_guesses_each_of_the_four_turns_of_each_large_view(kind: type[ViewsConfig]) -> None:
    objective, views, outcome = made("rotation", kind)
    losses = np.zeros(COUNT)
    for v, turns in itertools.product(range(views.large.shape[1]), range(4)):
        turned = np.rot90(views.large[:, v].numpy(), turns, (2, 3)).copy()
        features = numpy(objective.student.encoder(torch.from_numpy(turned)))
        losses += [cross_entropy(objective.classifier.layer, row, turns) for row in features]
    assert np.allclose(numpy(outcome.losses), losses / (4 * views.large.shape[1]), rtol=1e-3)


def test_position_guesses_where_the_second_grey_tile_lies_as_seen_from_the_first() -> None:
    objective, views, outcome = made("position")
    assert isinstance(views, TiledViews)
    luma = torch.tensor(LUMA).view(3, 1, 1)
    grey = [(views.small[:, tile] * luma).sum(1, keepdim=True).repeat(1, 3, 1, 1) for tile in (0, 1)]
    first, second = (numpy(objective.student.encoder(tiles)) for tiles in grey)
    offsets = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    losses = []
    for i, (p, q) in enumerate(views.places[:, :2].tolist()):
        label = offsets.index((q // 2 - p // 2, q % 2 - p % 2))
        losses.append(cross_entropy(objective.classifier.layer, np.concatenate([first[i], second[i]]), label))
    assert np.allclose(numpy(outcome.losses), losses, rtol=1e-3)


def test_jigsaw_guesses_the_permutation_of_scaled_tiles() -> None:
    objective, views, outcome = made("jigsaw")
    assert isinstance(views, TiledViews)
    places, losses = views.places.numpy(), []
    for i in range(COUNT):
        label = sorted(itertools.permutations(range(4))).index(tuple(places[i])) % len(objective.orders)
        features = []
        for cell in objective.orders[label].tolist():
            tile = numpy(views.small[i, list(places[i]).index(cell)])
            scaled = np.clip((tile - tile.mean()) / (4 * tile.std(ddof=1) + 1e-3) + 0.5, 0, 1)
            features.append(numpy(objective.student.encoder(torch.from_numpy(scaled)[None].float()))[0])
        losses.append(cross_entropy(objective.classifier.layer, np.concatenate(features), label))
    assert np.allclose(numpy(outcome.losses), losses, rtol=1e-3)


@pytest.mark.parametrize(("length", "count", "found", "least"), [(4, 100, 24, 2), (9, 30, 30, 7)])
def test_the_permutations_are_all_different_and_as_far_apart_as_can_be(
    length: int, count: int, found: int, least: int
) -> None:
    orders = far_permutations(length, count)
    assert orders.shape == (found, length)
    assert (orders.sort(1).values == torch.arange(length)).all()
    apart = [int((a != b).sum()) for a, b in itertools.combinations(orders, 2)]
    assert min(apart) >= least
    assert torch.equal(orders, far_permutations(length, count))


def test_a_permutation_has_its_number_in_the_order_of_a_dictionary() -> None:
    every = torch.tensor(sorted(itertools.permutations(range(5))))
    assert ranks(every, 1000).tolist() == list(range(120))
    assert ranks(every, 7).tolist() == [number % 7 for number in range(120)]


def test_counting_adds_up_the_tiles_and_differs_from_all_other_pairs() -> None:
    objective, views, outcome = made("counting")
    size = views.small.shape[-1]
    whole = torch.nn.functional.interpolate(views.large[:, 0], (size, size), mode="bilinear", antialias=True)
    count = [np.maximum(0, numpy(objective.student(image))) for image in (whole, *views.small.unbind(1))]
    sums, losses = np.sum(count[1:], 0), []
    for i in range(COUNT):
        apart = [((count[0][k] - sums[i]) ** 2).sum() for k in range(COUNT)]
        losses.append(apart[i] + np.mean([max(0.0, 10 - apart[k]) for k in range(COUNT) if k != i]))
    assert np.allclose(numpy(outcome.losses), losses, rtol=1e-3)


def test_there_is_a_class_for_each_colour_of_a_screen_and_none_that_none_is_near() -> None:
    classes = colour_classes()
    assert len(classes) == 259  # the paper's list has 313, some of which are nearest to no colour of a screen
    ab = to_lab(torch.rand(5000, 3, 1, 1, generator=seeded()))[:, 1:, 0, 0]
    nearest = torch.cdist(ab, classes).min(1).values
    assert float(nearest.max()) <= math.hypot(5, 5) + 1e-3


def test_a_colour_belongs_to_its_five_nearest_classes_by_a_gaussian() -> None:
    classes = colour_classes()
    found = softly(torch.tensor([[12.0, -3.0]]), classes)[0]
    apart = ((classes - torch.tensor([12.0, -3.0])) ** 2).sum(1)
    five = apart.argsort()[:5]
    weights = torch.exp(-apart[five] / 50)
    assert torch.allclose(found[five], weights / weights.sum())
    assert int((found > 0).sum()) == 5


def test_a_rare_colour_weighs_more_and_the_mean_weight_is_one() -> None:
    rarity = Rarity(4, mix=0.5, momentum=0.5)
    rarity.note(torch.tensor([[[1.0, 0.0, 0.0, 0.0]]]))
    assert rarity.shares.tolist() == [0.25] * 4
    rarity.after_step()
    assert rarity.shares.tolist() == [0.625, 0.125, 0.125, 0.125]
    raw = [1 / (0.5 * share + 0.125) for share in rarity.shares.tolist()]
    mean = sum(share * weight for share, weight in zip(rarity.shares.tolist(), raw, strict=True))
    assert rarity.weights().tolist() == pytest.approx([weight / mean for weight in raw])


def patch_means(images: Tensor) -> Array:
    """[B, 16, 3], of patches of 8 pixels."""
    means = numpy(images).reshape(len(images), 3, 4, 8, 4, 8).mean((3, 5))
    return np.asarray(means.reshape(len(images), 3, 16).transpose(0, 2, 1))


def test_colourise_guesses_the_weighted_colour_of_each_patch() -> None:
    objective, views, outcome = made("colourise")
    tokens = numpy(objective.student.encoder.tokens(views.large[:, 0])[1])
    colours = (patch_means(views.large[:, 1])[..., 1:] - 0.5) * 256
    weights, layer = numpy(objective.rarity.weights()), objective.classifier
    for i in range(COUNT):
        terms = []
        for patch in range(16):
            target = numpy(softly(torch.from_numpy(colours[i, patch]).float(), colour_classes()))
            scores = numpy(layer.weight) @ tokens[i, patch] + numpy(layer.bias)
            logs = scores - scores.max() - np.log(np.exp(scores - scores.max()).sum())
            terms.append(-weights[target.argmax()] * (target * logs).sum())
        assert float(outcome.losses[i].detach()) == pytest.approx(np.mean(terms), rel=1e-3)


def test_splitbrain_guesses_colour_from_lightness_and_lightness_from_colour() -> None:
    objective, views, outcome = made("splitbrain")
    grey, coloured = (numpy(objective.student.encoder.tokens(view)[1]) for view in views.large.unbind(1))
    lightness, colours = patch_means(views.large[:, 0])[..., 0], (patch_means(views.large[:, 1])[..., 1:] - 0.5) * 256
    classes = numpy(colour_classes())
    for i in range(COUNT):
        terms = []
        for patch in range(16):
            nearest = int(((classes - colours[i, patch]) ** 2).sum(1).argmin())
            terms.append(cross_entropy(objective.to_colour, grey[i, patch], nearest))
            level = min(99, int(lightness[i, patch] * 100))
            terms.append(cross_entropy(objective.to_lightness, coloured[i, patch], level))
        assert float(outcome.losses[i].detach()) == pytest.approx(np.mean(terms), rel=1e-3)


def pixels(image: Array, patch: int, side: int = 8) -> Array:
    """The values of a patch of an image [3, S, S], channel by channel."""
    row, column = divmod(patch, image.shape[-1] // side)
    return image[:, row * side : (row + 1) * side, column * side : (column + 1) * side].ravel()


@pytest.mark.parametrize("size", [32, 48])
def test_a_hidden_block_is_a_square_of_a_quarter_of_the_crop_anywhere_in_it(size: int) -> None:
    start = trainer("ijepa", views=BlockConfig(size=size))
    views = start.objective.views(some_pairs(64), seeded())
    assert isinstance(views, MaskedViews)
    across, side = size // 8, size // 16
    corners = set()
    for shown, hidden in zip(views.shown.tolist(), views.hidden.tolist(), strict=True):
        assert sorted(shown + hidden) == list(range(across**2))
        rows, columns = zip(*(divmod(patch, across) for patch in hidden), strict=True)
        assert hidden == [(min(rows) + y) * across + min(columns) + x for y in range(side) for x in range(side)]
        corners.add((min(rows), min(columns)))
    assert corners == set(itertools.product(range(across - side + 1), repeat=2))


def test_ijepa_guesses_the_scaled_tokens_of_the_copy_in_the_block() -> None:
    objective, views, outcome = made("ijepa")
    assert isinstance(views, MaskedViews)
    image = views.large[:, 0]
    _, tokens = objective.student.encoder.tokens(image, keep=views.shown)
    guesses = numpy(objective.predictor(tokens, views.shown, views.hidden))
    whole = numpy(objective.teacher.encoder.tokens(image)[1])
    for i in range(COUNT):
        terms = []
        for guess, patch in zip(guesses[i], views.hidden[i].tolist(), strict=True):
            target = (whole[i, patch] - whole[i, patch].mean()) / np.sqrt(whole[i, patch].var() + 1e-5)
            apart = abs(guess - target)
            terms.append(np.where(apart < 1, apart**2 / 2, apart - 0.5).mean())
        assert float(outcome.losses[i].detach()) == pytest.approx(np.mean(terms), rel=1e-3)


def test_context_guesses_pixels_and_its_discriminator_is_trained_against_the_guesses() -> None:
    objective, views, outcome = made("context")
    assert isinstance(views, MaskedViews)
    image = views.large[:, 0]
    _, tokens = objective.student.encoder.tokens(image, keep=views.shown)
    guesses = objective.decoder(tokens, views.shown, views.hidden)
    for i in range(COUNT):
        true = np.stack([pixels(numpy(image[i]), patch) for patch in views.hidden[i].tolist()])
        odds = [
            float(objective.discriminator(one.float()).detach().mean())
            for one in (torch.from_numpy(true), guesses[i].detach())
        ]
        judged = -math.log(1 / (1 + math.exp(-odds[0]))) - math.log(1 - 1 / (1 + math.exp(-odds[1])))
        error = ((numpy(guesses[i]) - true) ** 2).mean()
        assert float(outcome.losses[i].detach()) == pytest.approx(0.999 * error + judged, rel=1e-3)


def test_what_lowers_the_loss_of_the_discriminator_raises_that_of_the_guesses() -> None:
    """The gradient of the guesses is that of the error, less a thousandth of that of being told apart."""
    objective, views, outcome = made("context")
    assert isinstance(views, MaskedViews)
    weight = objective.decoder.leave[1].bias
    (found,) = torch.autograd.grad(outcome.losses.mean(), weight)
    image = views.large[:, 0]
    _, tokens = objective.student.encoder.tokens(image, keep=views.shown)
    guesses = objective.decoder(tokens, views.shown, views.hidden)
    true = patches_of(image, 8).gather(1, views.hidden[..., None].expand_as(guesses))
    error = (guesses - true).square().mean((1, 2)).mean()
    apart = torch.nn.functional.softplus(objective.discriminator(guesses)[..., 0].mean(1)).mean()
    first, second = (torch.autograd.grad(one, weight, retain_graph=True)[0] for one in (error, apart))
    assert torch.allclose(found, 0.999 * first - 0.001 * second, rtol=1e-3, atol=1e-7)


def test_denoise_guesses_each_pixel_of_the_clean_crop_from_the_noisy_one() -> None:
    objective, views, outcome = made("denoise")
    tokens = numpy(objective.student.encoder.tokens(views.large[:, 1])[1])
    weight, bias = numpy(objective.decoder.weight), numpy(objective.decoder.bias)
    for i in range(COUNT):
        errors = [
            (weight @ tokens[i, patch] + bias - pixels(numpy(views.large[i, 0]), patch)) ** 2 for patch in range(16)
        ]
        assert float(outcome.losses[i].detach()) == pytest.approx(np.mean(errors), rel=1e-3)


def test_cpc_finds_the_tiles_below_from_the_rows_above_among_all_tiles() -> None:
    start = trainer("cpc", views=TilesConfig(size=48, grid=3, tile_size=16))
    objective: Any = start.objective
    views = objective.views(some_pairs(), seeded())
    see(objective, views)
    outcome = start.outcome(some_pairs(), seeded())
    assert isinstance(views, TiledViews)
    cells = np.zeros((COUNT, 3, 3, objective.config.projection))
    for tile in range(9):
        rows = numpy(objective.student(views.small[:, tile]))
        for i, place in enumerate(views.places[:, tile].tolist()):
            cells[i, place // 3, place % 3] = rows[i]
    keys = cells.reshape(-1, cells.shape[-1])
    for i in range(COUNT):
        terms = []
        for column in range(3):
            means = np.stack([cells[i, : row + 1, column].mean(0) for row in range(3)])
            read = numpy(objective.context(torch.from_numpy(means).float()))
            for row, k in ((0, 1), (1, 1), (0, 2)):
                layer = objective.guesses[k - 1]
                query = unit(numpy(layer.weight) @ read[row] + numpy(layer.bias))
                weights = np.exp(keys @ query / 0.1)
                terms.append(-math.log(weights[i * 9 + (row + k) * 3 + column] / weights.sum()))
        assert float(outcome.losses[i].detach()) == pytest.approx(np.mean(terms), rel=1e-3)


def test_bigan_judges_images_with_their_codes_and_codes_with_their_images() -> None:
    objective, views, outcome = made("bigan")
    image = views.large[:, 0]
    small = torch.nn.functional.interpolate(image, (16, 16), mode="bilinear", antialias=True).flatten(1)
    codes = torch.randn(COUNT, 50, generator=seeded())
    generated = objective.generator(codes).sigmoid()
    real, false = (
        numpy(objective.discriminator(torch.cat(both, 1)))[:, 0]
        for both in ((small, objective.student(image)), (generated, codes))
    )
    assert np.allclose(numpy(outcome.losses), -np.log(1 / (1 + np.exp(-real))), rtol=1e-3)
    assert outcome.shared is not None
    assert float(outcome.shared.detach()) == pytest.approx(np.mean(-np.log(1 - 1 / (1 + np.exp(-false)))), rel=1e-3)


def test_encoder_and_generator_of_bigan_learn_what_the_discriminator_does_not_want() -> None:
    objective, _, outcome = made("bigan")
    assert outcome.shared is not None
    total = outcome.losses.mean() + outcome.shared
    layers = (objective.generator[-1].bias, objective.student.projector.bias, objective.discriminator[-1].bias)
    found = [float(gradient.norm()) for gradient in torch.autograd.grad(total, layers, retain_graph=True)]
    assert min(found) > 0
    with torch.no_grad():  # a step against its gradient makes what the discriminator loses larger
        for layer, gradient in zip(layers[:2], torch.autograd.grad(total, layers[:2]), strict=True):
            layer -= 0.05 * gradient
    after = objective(some_pairs(), seeded())
    assert float((after.losses.mean() + after.shared).detach()) > float(total.detach())
