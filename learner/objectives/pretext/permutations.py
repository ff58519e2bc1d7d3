"""Permutations that are far from each other."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Generator, Tensor

CANDIDATES = 2000
"""Permutations among which each next one is looked for, where there are more than so many."""


def far_permutations(length: int, count: int) -> Tensor:
    """Return at most `count` permutations of 0 ... length - 1, int64 [n, length], always the same ones.

    Each differs from those before it in as many places as possible (Noroozi and Favaro 2016).
    """
    if math.factorial(length) <= CANDIDATES:
        candidates = torch.tensor(list(itertools.permutations(range(length))))
    else:
        generator = Generator().manual_seed(0)
        candidates = torch.stack([torch.randperm(length, generator=generator) for _ in range(max(CANDIDATES, count))])
    chosen = [0]
    least = torch.full((len(candidates),), length)
    for _ in range(min(count, len(candidates)) - 1):
        least = torch.minimum(least, (candidates != candidates[chosen[-1]]).sum(1))
        chosen.append(int(least.argmax()))
    return candidates[chosen]


def ranks(permutations: Tensor, modulus: int) -> Tensor:
    """Return the number of each permutation, int [B, n], in the order of a dictionary of all of them, modulo `modulus`."""
    later_smaller = (permutations[:, :, None] > permutations[:, None]).triu(1).sum(2)
    found = torch.zeros_like(later_smaller[:, 0])
    for left, digit in zip(range(permutations.shape[1], 0, -1), later_smaller.unbind(1), strict=True):
        found = (found * left + digit) % modulus
    return found
