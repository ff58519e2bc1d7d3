"""Each gauge against its closed form."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from learner.probes.spectrum import alpha_req, rankme


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_spectrum(singular: Tensor, count: int = 500, seed: int = 0) -> Tensor:
    """Centred embeddings [count, D] whose singular values are exactly `singular`, in a random basis."""
    width = len(singular)
    noise = torch.randn(count, width, dtype=torch.float64, generator=generator(seed))
    left = torch.linalg.qr(noise - noise.mean(0)).Q
    right = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=generator(seed + 1))).Q
    embeddings: Tensor = left * singular.double() @ right
    return embeddings


@pytest.mark.parametrize("width", [1, 7, 192])
def test_the_rank_of_embeddings_with_identity_covariance_is_their_width(width: int) -> None:
    assert rankme(with_spectrum(torch.ones(width))) == pytest.approx(width)


def test_the_rank_of_embeddings_on_a_line_is_one() -> None:
    line = torch.randn(200, 1, generator=generator(0)) @ torch.randn(1, 32, generator=generator(1))
    assert rankme(line) == pytest.approx(1, abs=1e-3)


def test_the_rank_of_nothing_is_zero() -> None:
    assert rankme(torch.zeros(10, 4)) == 0.0


@given(singular=st.lists(st.floats(0.01, 10), min_size=1, max_size=12), scale=st.floats(1e-3, 1e3))
def test_the_rank_is_the_perplexity_of_the_singular_values_at_any_scale(singular: list[float], scale: float) -> None:
    share = torch.tensor(singular, dtype=torch.float64)
    share /= share.sum()
    expected = float(torch.exp(-(share * share.log()).sum()))
    assert rankme(with_spectrum(torch.tensor(singular) * scale, count=50)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("width", [8, 96, 384])
def test_a_power_law_spectrum_gives_back_its_exponent(exponent: float, width: int) -> None:
    eigenvalues = torch.arange(1, width + 1).double() ** -exponent
    embeddings = with_spectrum(eigenvalues.sqrt())
    assert alpha_req(embeddings) == pytest.approx(exponent, abs=1e-6)
    assert alpha_req(embeddings * 7 + 100) == pytest.approx(exponent, abs=1e-4), "scale and mean do not matter"


def test_a_sampled_power_law_gives_nearly_its_exponent() -> None:
    scales = torch.arange(1, 65).double() ** -0.5
    embeddings = torch.randn(20_000, 64, dtype=torch.float64, generator=generator(0)) * scales
    assert alpha_req(embeddings) == pytest.approx(1.0, abs=0.05)


def test_a_spectrum_of_too_few_ranks_has_no_exponent() -> None:
    assert math.isnan(alpha_req(torch.ones(20, 8)))
    assert math.isnan(alpha_req(with_spectrum(torch.tensor([1.0, 0.5, 0.2, 0.0, 0.0]))))
    assert math.isnan(alpha_req(torch.randn(3, 64, generator=generator(0))))
