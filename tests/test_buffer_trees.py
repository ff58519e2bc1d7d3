"""The structures under the reservoir: trees against sorting and running sums, whatever their depth; counted random numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from buffer import trees
from buffer.scoring import Cuts, uniforms
from buffer.trees import MinTree, SumTree


def arange(count: int) -> NDArray[np.int64]:
    return np.arange(count)


def test_uniforms_are_uniform_and_a_pure_function_of_their_number() -> None:
    row = uniforms(9, 0, 0, 20_000)
    assert abs(np.bincount((row * 100).astype(int)) - 200).max() < 5 * math.sqrt(200)
    assert abs(np.corrcoef(row[1:], row[:-1])[0, 1]) < 4 / math.sqrt(20_000)
    assert np.array_equal(row[777:800], uniforms(9, 0, 777, 23))
    assert not np.isin(row[:100], uniforms(9, 1, 0, 100)).any()
    assert not np.isin(row[:100], uniforms(10, 0, 0, 100)).any()


def test_every_so_manieth_uniform_is_that_of_the_whole_row() -> None:
    assert np.array_equal(uniforms(9, 0, 7, 100, 3), uniforms(9, 0, 0, 307)[7::3])


@pytest.mark.usefixtures("any_depth")
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(-5, 5)), max_size=60), st.integers(0, 21))
def test_the_smallest_leaves_of_a_min_tree_are_those_that_a_sort_finds(
    writes: list[tuple[int, int]], count: int
) -> None:
    tree, model = MinTree(21, np.float64), dict.fromkeys(range(21), 9)
    tree[arange(21)] = np.full(21, 9.0)
    for start in range(0, len(writes), 7):
        batch = writes[start : start + 7]
        slots, values = zip(*batch, strict=True)
        tree[np.array(slots)] = np.array(values, np.float64)
        model.update(batch)
    found = tree.smallest(count)
    assert len(set(found.tolist())) == count
    assert tree[found].tolist() == sorted(model.values())[:count]
    assert tree.root == min(model.values())


@pytest.mark.usefixtures("any_depth")
@given(st.lists(st.integers(0, 3), min_size=1, max_size=150), st.data())
def test_of_equal_leaves_the_lowest_slots_are_the_smallest(values: list[int], data: st.DataObject) -> None:
    tree = MinTree(len(values), np.float64)
    tree[arange(len(values))] = np.array(values, np.float64)
    count = data.draw(st.integers(0, len(values)))
    assert tree.smallest(count).tolist() == np.argsort(values, kind="stable")[:count].tolist()


@pytest.mark.usefixtures("any_depth")
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=150), st.data())
def test_complex_leaves_are_ordered_by_real_then_imaginary_part(
    pairs: list[tuple[int, int]], data: st.DataObject
) -> None:
    tree = MinTree(len(pairs), np.complex128)
    tree[arange(len(pairs))] = np.array([complex(*pair) for pair in pairs])
    count = data.draw(st.integers(0, len(pairs)))
    assert tree.smallest(count).tolist() == sorted(range(len(pairs)), key=lambda slot: pairs[slot])[:count]
    assert tree.root == complex(*min(pairs))


@pytest.mark.usefixtures("any_depth")
@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=40), st.floats(0, 1), st.integers(0, 2**32))
def test_a_sum_tree_finds_the_slot_that_a_running_sum_finds(weights: list[float], floor: float, seed: int) -> None:
    tree, masses = SumTree(40), np.array(weights) * 0.5 + floor
    tree[arange(len(weights))] = np.array(weights)
    edges = np.cumsum(masses)
    points = np.random.default_rng(seed).uniform(0, edges[-1], 30)
    points = points[np.abs(points[:, None] - edges).min(axis=1) > 1e-9]  # on an edge rounding decides
    assert np.array_equal(tree.locate(points, 0.5, floor, len(weights)), np.searchsorted(edges, points, "right"))


@pytest.mark.usefixtures("any_depth")
def test_points_on_either_end_fall_into_filled_slots() -> None:
    for count in (1, 7, 63, 64, 65, 200):
        tree = SumTree(200)
        tree[arange(count)] = np.full(count, 0.1)
        points = np.array([0.0, 1 / count, 1.0 - 2**-53, 1.0])
        assert tree.locate(points, 0.9 / tree.root, 0.1 / count, count)[[0, -2, -1]].tolist() == [
            0,
            count - 1,
            count - 1,
        ]


@pytest.mark.usefixtures("any_depth")
@pytest.mark.parametrize(
    ("make", "unit"),
    [
        (lambda: SumTree(300), 1),
        (lambda: MinTree(300, np.float64), 1),
        (lambda: MinTree(300, np.complex128), 1 - 1j),
    ],
)
def test_a_tree_rebuilt_from_its_leaves_is_the_old_one_bit_for_bit(
    make: Callable[[], SumTree | MinTree], unit: complex
) -> None:
    generator = np.random.default_rng(0)
    old, new = make(), make()
    for size in (300, 2, 40, 150, 3, 7, *[1] * 50):
        old[generator.permutation(300)[:size]] = unit * generator.lognormal(0, 1, size)
    new[arange(300)] = old[arange(300)]
    assert [level.tobytes() for level in old._levels] == [level.tobytes() for level in new._levels]


def test_a_tree_of_many_leaves_is_as_deep_as_it_must_be_and_holds_them() -> None:
    size = 2 * trees.TOP_NODES * trees.FAN_OUT**2 // 3
    values = np.random.default_rng(1).permutation(size).astype(np.float64)
    low, total = MinTree(size, np.float64), SumTree(size)
    low[arange(size)] = total[arange(size)] = values
    for some in (arange(3), arange(size)[-200:], np.random.default_rng(2).permutation(size)[:500]):
        low[some] = total[some] = values[some] = -values[some][::-1] % size
    assert low.smallest(300).tolist() == np.argsort(values, kind="stable")[:300].tolist()
    assert total.root == values.sum()  # whole numbers: no rounding
    points = np.random.default_rng(3).uniform(0, values.sum(), 300)
    assert total.locate(points, 1.0, 0.0, size).tolist() == np.searchsorted(np.cumsum(values), points, "right").tolist()
    sizes = [level.size for level in total._levels]
    assert all(below == trees.FAN_OUT * above for below, above in pairwise(sizes))
    assert sizes[-1] <= trees.TOP_NODES < sizes[-2]


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-9, 9)), max_size=30))
def test_cuts_know_the_largest_score_turned_away_since_any_step(events: list[tuple[int, float]]) -> None:
    cuts, log, step = Cuts(), [], 0
    for wait, score in events:
        step += wait
        cuts.add(step, score)
        log.append((step, score))
    for since in range(step + 2):
        expected = max((score for when, score in log if when >= since), default=-math.inf)
        assert cuts.since(np.array([float(since)]))[0] == expected
