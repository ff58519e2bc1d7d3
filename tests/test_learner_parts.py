"""Parts of objectives against their formulas in NumPy, one number after the other: centre, classifier, triplets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from learner import legacy
from learner.parts.centre import Centre, CentringConfig
from learner.parts.heads import Classifier
from learner.parts.losses import triplet

Array = NDArray[np.float64]
pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numpy(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def units(*shape: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(shape, generator=seeded(seed)), dim=-1)


# Centre


def test_targets_are_centred_and_sharpened_and_the_centre_follows_after_each_step() -> None:
    centre = Centre(5, CentringConfig(teacher_temperature=0.5, centre_momentum=0.8))
    expected = np.zeros(5)
    for step in range(3):
        logits = torch.randn(4, 5, generator=seeded(step)).requires_grad_()
        targets = centre.targets(logits)
        assert not targets.requires_grad
        for row, target in zip(numpy(logits), numpy(targets), strict=True):
            weights = [math.exp((row[k] - expected[k]) / 0.5) for k in range(5)]
            assert np.allclose(target, np.array(weights) / sum(weights), rtol=1e-5)
        assert np.allclose(numpy(centre.mean), expected, atol=1e-6), "only a step moves it"
        centre.after_step()
        expected = 0.8 * expected + 0.2 * numpy(logits).mean(0)
    assert np.allclose(numpy(centre.mean), expected, atol=1e-6)
    assert list(centre.state_dict()) == ["mean"]


def test_the_centre_of_an_older_run_is_found_again_and_that_of_somebody_elses_objective_left_alone() -> None:
    ours = {"student.head.prototypes": torch.ones(3, 2), "centre": torch.ones(3)}
    theirs = {"student.projector.weight": torch.ones(3, 2), "centre": torch.ones(3)}
    saved = legacy.state({"objective": ours, "snapshots": [{"step": 1, "objective": ours}]})
    for found in (saved["objective"], saved["snapshots"][0]["objective"]):
        assert set(found) == {"student.projector.prototypes", "centre.mean"}
    assert legacy.state({"objective": theirs})["objective"] == theirs


# Classifier


@pytest.mark.parametrize("views", [1, 3])
def test_a_classifier_is_a_linear_layer_and_its_cross_entropy(views: int) -> None:
    classifier, labels = Classifier(6, 4, views), torch.tensor([0, 3, 1, 2, 2])
    features = torch.randn((5, views, 6) if views > 1 else (5, 6), generator=seeded())
    losses, is_right = classifier(features, labels)
    weight, bias = numpy(classifier.layer.weight), numpy(classifier.layer.bias)
    for row, label, loss, right in zip(
        numpy(features), labels.tolist(), losses.tolist(), is_right.tolist(), strict=True
    ):
        scores = [sum(weight[c] * row.reshape(-1)) + bias[c] for c in range(4)]
        assert loss == pytest.approx(-math.log(math.exp(scores[label]) / sum(map(math.exp, scores))), rel=1e-4)
        assert right is (max(range(4), key=scores.__getitem__) == label)


def test_a_classifier_guesses_in_float32_whatever_the_backbone_computes_in() -> None:
    classifier, features, labels = Classifier(6, 4), torch.randn(5, 6, generator=seeded()), torch.zeros(5).long()
    exact, _ = classifier(features, labels)
    with torch.autocast("cpu", torch.bfloat16):
        rough, _ = classifier(features, labels)
    assert torch.equal(rough, exact)


# Triplets


def triplets(queries: Array, keys: Array, own: list[int], margin: float, hardest: int) -> list[float]:
    """max(0, margin + (1 - cos(query, own key)) - (1 - cos(query, wrong key))), the mean over the nearest wrong keys."""
    losses = []
    for query, right in zip(queries, own, strict=True):
        far = [1 - float(query @ key) for key in keys]
        wrong = sorted(far[j] for j in range(len(keys)) if j != right)[:hardest]
        terms = [max(0.0, margin + far[right] - other) for other in wrong]
        losses.append(sum(terms) / max(1, len(terms)))
    return losses


@given(
    st.integers(1, 6), st.integers(1, 8), st.integers(1, 4), st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.integers(0, 99)
)
def test_a_triplet_is_the_margin_to_the_nearest_wrong_keys(
    queries: int, keys: int, hardest: int, margin: float, seed: int
) -> None:
    some, others = units(queries, 4, seed=seed), units(keys, 4, seed=seed + 1)
    own = torch.arange(queries) % keys
    found = triplet(some, others, own, margin, hardest)
    assert np.allclose(found, triplets(numpy(some), numpy(others), own.tolist(), margin, hardest), atol=1e-5)


def test_a_key_that_is_not_finite_spoils_the_triplet_of_its_own_query_only() -> None:
    queries, keys, own = units(4, 3), units(4, 3, seed=1), torch.arange(4)
    sound = torch.tensor([0, 1, 3])
    keys[2] = torch.nan
    found = triplet(queries, keys, own, 0.5, 2)
    assert found.isnan().tolist() == [False, False, True, False]
    assert torch.allclose(found[sound], triplet(queries[sound], keys[sound], torch.arange(3), 0.5, 2))


def test_the_gradient_of_a_triplet_pulls_to_the_own_key_and_away_from_the_wrong_one() -> None:
    query = torch.tensor([[1.0, 0.0]], requires_grad=True)
    keys = torch.tensor([[0.0, 1.0], [0.6, 0.8]])
    torch.autograd.backward(triplet(query, keys, torch.tensor([0]), 0.5).sum())
    assert query.grad is not None
    assert np.allclose(query.grad, keys[1] - keys[0])
