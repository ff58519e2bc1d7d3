"""The probes measure what they say, against slower statements of the same thing and sets whose answer is known."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from learner.probes.control_sets import ControlSet, load_control, subset
from learner.probes.packed_files import Labels
from learner.probes.probe import ProbeResult, extract, knn_accuracy, linear_accuracy, rotate, run_probe, run_rotations


def pixels(images: Tensor) -> Tensor:
    return images.flatten(1)


def random_features(count: int, width: int, seed: int) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def slow_vote(train: Tensor, labels: Labels, query: Tensor, k: int, temperature: float) -> int:
    cosine = torch.nn.functional.cosine_similarity(train, query[None]).numpy()
    votes: defaultdict[int, float] = defaultdict(float)
    for i in np.argsort(-cosine)[:k]:
        votes[int(labels[i])] += float(np.exp(cosine[i] / temperature))
    return max(sorted(votes), key=lambda label: votes[label])


@settings(max_examples=40)
@given(k=st.integers(1, 60), temperature=st.floats(0.05, 1), seed=st.integers(0, 2**16))
def test_knn_is_the_vote_of_the_nearest_weighted_by_their_similarity(k: int, temperature: float, seed: int) -> None:
    train, test = random_features(40, 5, seed), random_features(20, 5, seed + 1)
    labels = np.random.default_rng(seed).integers(0, 4, 40)
    slow = np.array([slow_vote(train, labels, query, k, temperature) for query in test])
    assert knn_accuracy(train, labels, test, slow, k=k, temperature=temperature) == 1.0


def test_knn_sees_directions_and_not_lengths() -> None:
    train = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    test = torch.tensor([[900.0, 1.0], [1e-6, 1e-3]])
    assert knn_accuracy(train, np.array([0, 1]), test, np.array([0, 1]), k=1) == 1.0


def test_knn_survives_a_temperature_at_which_its_weights_would_overflow() -> None:
    train, labels = random_features(50, 4, 0), np.arange(50) % 3
    assert knn_accuracy(train, labels, train, labels, temperature=1e-4) == 1.0


def test_knn_over_many_chunks_is_knn_at_once() -> None:
    train, test = random_features(30, 6, 0), random_features(2500, 6, 1)
    labels, truth = np.arange(30) % 3, np.arange(2500) % 3
    parts = [knn_accuracy(train, labels, test[i : i + 500], truth[i : i + 500]) for i in range(0, 2500, 500)]
    assert knn_accuracy(train, labels, test, truth) == pytest.approx(np.mean(parts))


def test_the_linear_probe_separates_what_a_line_separates_and_only_guesses_at_noise() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 3000)
    centres = random_features(4, 16, 0) * 3
    features = centres[torch.from_numpy(labels)] + random_features(3000, 16, 1)
    assert linear_accuracy(features[:2000], labels[:2000], features[2000:], labels[2000:]) > 0.99
    noise = linear_accuracy(random_features(2000, 16, 2), labels[:2000], random_features(1000, 16, 3), labels[2000:])
    assert abs(noise - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 1000)


def test_the_linear_probe_does_not_depend_on_the_scale_or_offset_of_a_feature() -> None:
    train, test = random_features(400, 8, 0), random_features(200, 8, 1)
    labels, truth = (np.asarray((x[:, 0] > 0).long()) for x in (train, test))
    scale, offset = torch.logspace(-2, 2, 8), torch.linspace(-9, 9, 8)
    plain = linear_accuracy(train, labels, test, truth)
    assert linear_accuracy(train * scale + offset, labels, test * scale + offset, truth) == pytest.approx(
        plain, abs=0.01
    )


def test_constant_features_are_worth_a_guess_and_no_error() -> None:
    features, labels = torch.ones(60, 4), np.arange(60) % 3
    assert linear_accuracy(features, labels, features, labels) == pytest.approx(1 / 3)
    assert knn_accuracy(features, labels, features, labels) == pytest.approx(1 / 3)


def test_the_encoder_sees_rgb_in_zero_to_one_in_batches_and_in_order() -> None:
    images = np.zeros((5, 2, 2, 3), np.uint8)
    images[..., 0], images[..., 2] = 51, np.arange(5)[:, None, None]  # blue, and red counting
    sizes: list[int] = []

    def encoder(rgb: Tensor) -> Tensor:
        sizes.append(len(rgb))
        assert rgb.dtype == torch.float32
        assert rgb.shape[1:] == (3, 2, 2)
        return rgb.mean(dim=(2, 3))

    features = extract(encoder, images, batch_size=2, device="cpu")
    assert sizes == [2, 2, 1]
    assert torch.allclose(features, torch.tensor([[i / 255, 0.0, 0.2] for i in range(5)]))


class Encoder(nn.Module):
    """Dropout shows whether it was measured in evaluation mode; a frozen part shows whether modes come back."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.frozen = nn.Dropout(0.5), nn.BatchNorm2d(3).eval()

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.drop(self.frozen(images)).flatten(1)
        return features

    def features(self, images: Tensor) -> Tensor:
        return self.forward(images)


@pytest.mark.parametrize("bound", [False, True])
def test_an_encoder_is_measured_in_evaluation_mode_and_every_part_gets_its_mode_back(bound: bool) -> None:
    encoder, images = Encoder(), np.full((4, 4, 4, 3), 255, np.uint8)
    features = extract(encoder.features if bound else encoder, images, device="cpu")
    assert (features > 0.9).all(), "nothing was dropped"
    assert (encoder.training, encoder.drop.training, encoder.frozen.training) == (True, True, False)
    assert not features.requires_grad


def test_modes_come_back_after_an_encoder_that_fails() -> None:
    encoder = Encoder()
    with pytest.raises(RuntimeError):
        extract(encoder, np.zeros((1, 4, 4, 1), np.uint8), device="cpu")
    assert encoder.training


def test_images_turned_by_a_right_angle_are_the_exact_quarter_turn() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 9, 9, 3), dtype=np.uint8)
    assert np.array_equal(rotate(images, 0), images)
    assert np.abs(rotate(images, 90).astype(int) - np.rot90(images, axes=(1, 2)).astype(int)).max() <= 1


def test_turning_there_and_back_returns_the_middle_of_a_smooth_image() -> None:
    ramp = np.linspace(0, 200, 32)
    image = np.repeat((ramp[:, None] / 2 + ramp[None, :] / 2)[None, :, :, None], 3, axis=3).astype(np.uint8)
    back = rotate(rotate(image, 40), -40)
    assert np.abs(back.astype(int) - image.astype(int))[0, 10:22, 10:22].max() <= 3
    assert rotate(image, 40).min() >= image.min(), "the corners are filled from the image"


@pytest.fixture(scope="module")
def digits() -> ControlSet:
    return load_control("digits", size=8)


def test_raw_pixels_of_the_digits_score_as_they_are_known_to(digits: ControlSet) -> None:
    result = run_probe(pixels, digits)
    assert result.knn > 0.95
    assert 0.85 < result.knn_10pct < result.knn
    assert result.linear > 0.9
    assert 1 < result.rankme <= 64
    assert result.alpha > 0


def test_an_encoder_that_says_nothing_scores_a_guess(digits: ControlSet) -> None:
    def blind(images: Tensor) -> Tensor:
        return images.new_ones(len(images), 4)

    result = run_probe(blind, digits)
    assert max(result.knn, result.knn_10pct, result.linear) < 0.2
    assert result.rankme == pytest.approx(1)


def test_a_probe_is_deterministic_and_its_seed_draws_the_small_bank_only(digits: ControlSet) -> None:
    def rounded(result: ProbeResult) -> tuple[float, float]:
        return result.knn, result.linear

    one, same, other = (run_probe(pixels, digits, seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one.knn_10pct != other.knn_10pct
    assert rounded(one) == rounded(other)


def test_accuracy_falls_with_the_angle_for_an_encoder_that_knows_only_upright_digits(digits: ControlSet) -> None:
    scores = [run_probe(pixels, digits, degrees=degrees).knn for degrees in (0, 20, 40)]
    assert scores[0] > scores[1] > scores[2]


def test_rotated_images_are_measured_at_each_angle_on_a_balanced_part_of_the_set(digits: ControlSet) -> None:
    sizes = []

    def counted(rgb: torch.Tensor) -> torch.Tensor:
        sizes.append(len(rgb))
        return pixels(rgb)

    found = run_rotations(counted, digits, train=200, test=100)
    assert found["degrees"] == [0.0, 10.0, 20.0, 30.0, 40.0]
    assert sum(sizes) == 200 + 5 * 100  # upright train images are encoded once
    some = subset(digits, train=200, test=100)
    assert np.bincount(some.test_labels).tolist() == [10] * 10
    probed = run_probe(pixels, some, degrees=20.0)
    assert (found["knn"][2], found["linear"][2]) == (probed.knn, probed.linear)
    assert found["knn"][0] > found["knn"][4]
    assert found == run_rotations(pixels, digits, train=200, test=100)


def test_pixels_of_real_photographs_score_above_chance(shared_data: Path) -> None:
    cifar = load_control(str(shared_data / "control" / "cifar10"), size=16, limit_train=1500, limit_test=500)
    result = run_probe(pixels, cifar)
    standard_error = np.sqrt(0.1 * 0.9 / 500)
    assert min(result.knn, result.knn_10pct, result.linear) > 0.1 + 3 * standard_error
