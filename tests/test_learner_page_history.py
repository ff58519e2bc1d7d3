"""Lines of a run read on as they grow, and the curves that are drawn from them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.page.history import MAX_LINE_BYTES, Column, Tail
from learner.page.sparklines import BOTTOM, LEFT, RIGHT, TITLE_CHARACTER, TOP, curve, encoder_curves
from stream.fsync import replace_file

FINITE = st.floats(-1e12, 1e12)


class Steps:
    """The steps of a file, None where its reading began again."""

    def __init__(self, path: Path) -> None:
        self._read: list[object] = []
        self._tail = Tail(path, lambda: self._read.append(None))

    def new(self) -> list[object]:
        self._read.clear()
        for line in self._tail.lines():
            self._read.append(line["step"])
        return self._read


def test_a_line_with_numbers_that_are_not_finite_is_read_because_a_collapsed_network_has_them(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    path.write_text(json.dumps({"step": 7, "knn": 0.1, "alpha_req": float("nan")}) + "\n" + "[1]\n{\n")
    assert Steps(path).new() == [None, 7]


def test_each_line_is_given_once_and_one_without_its_end_waits_for_it(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    steps = Steps(path)
    assert steps.new() == []
    path.write_bytes(b'{"step": 1}\n{"st')
    assert steps.new() == [None, 1]
    assert steps.new() == []
    with path.open("ab") as file:
        file.write(b'ep": 2}\n{"step": 3}\n')
    assert steps.new() == [2, 3]


def test_a_file_that_was_replaced_or_cut_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n')
    steps = Steps(path)
    assert steps.new() == [None, 1, 2]
    replace_file(path, b'{"step": 1}\n{"step": 9}\n{"step": 10}\n')
    assert steps.new() == [None, 1, 9, 10]
    path.write_bytes(b'{"step": 7}\n')
    assert steps.new() == [None, 7]


def test_a_damaged_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_bytes(b'{"step": 1}\nnot json\n[1]\n\xff\n{"step": 2}\n')
    assert Steps(path).new() == [None, 1, 2]


def test_a_long_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    filling = "x" * 1000
    count = 3 * MAX_LINE_BYTES // len(filling)
    path.write_text("".join(json.dumps({"step": step, "filling": filling}) + "\n" for step in range(count)))
    assert Steps(path).new() == [None, *range(count)]


def test_a_line_above_the_limit_ends_the_reading_and_does_not_hang(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_bytes(b'{"step": 1}\n' + b"x" * (2 * MAX_LINE_BYTES) + b'\n{"step": 2}\n')
    assert Steps(path).new() == [None, 1]


def test_a_column_takes_finite_numbers_only() -> None:
    column = Column()
    for step, value in ((1, 2.5), (2, None), (3, float("nan")), (4, True), ("5", 1.0), (6, float("inf")), (7, 3)):
        column.add(step, value)
    steps, values = column.points
    assert (steps.tolist(), values.tolist()) == ([1, 7], [2.5, 3])


def places(markup: str) -> list[tuple[float, float]]:
    """Every place that a path of a curve goes to."""
    paths = [
        path.attrib["d"] for path in ElementTree.fromstring(markup).iter("path") if "rule" not in path.get("class", "")
    ]
    return [(float(x), float(y)) for path in paths for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path)]


@given(st.lists(st.tuples(st.integers(0, 10**9), FINITE), min_size=1, max_size=400, unique_by=lambda point: point[0]))
def test_every_curve_is_sound_markup_and_lies_within_its_axes(drawn: list[tuple[int, float]]) -> None:
    steps, values = np.array(sorted(drawn), np.float64).T
    for markup in (
        curve("loss & <more>", (steps, values)),
        encoder_curves("digits", {"student": (steps, values)}, scale=100.0),
    ):
        assert places(markup)
        for x, y in places(markup):
            assert LEFT - 0.06 <= x <= RIGHT + 0.06
            assert TOP - 0.06 <= y <= BOTTOM + 0.06


def test_a_curve_says_its_last_value_and_rises_where_the_values_do() -> None:
    steps = np.arange(1000.0)
    markup = curve("Loss", (steps, steps / 100))
    assert ">9.99<" in markup
    assert ">step 0<" in markup or "step" in markup
    heights = [float(y) for y in re.findall(r" ([\d.]+)(?=L|\")", markup.split('class="curve')[1])]
    assert heights == sorted(heights, reverse=True)  # y grows downwards
    assert len(heights) == 150


def test_both_encoders_have_their_colour_their_start_and_their_last_value() -> None:
    points = np.array([0.0, 10.0]), np.array([0.25, 0.5])
    markup = encoder_curves("digits: k-NN, %", {"student": points, "teacher": (points[0], points[1] / 2)}, scale=100.0)
    assert markup.count("var(--student)") == markup.count("var(--teacher)") == 2
    assert ">50 / 25<" in markup


@pytest.mark.parametrize("scale", [1e-9, 1e-4, 1.0, 250.0, 1e4, 1e9])
def test_neighbouring_lines_of_the_grid_say_different_values_that_fit_beside_it(scale: float) -> None:
    for spread in (0.01, 1.0):
        values = scale * np.array([1.0, 1.0 + spread])
        markup = curve("Loss", (np.array([0.0, 1.0]), values))
        ticks = re.findall(r'class="rule"[^>]*/><text[^>]*>([^<]*)<', markup)
        assert len(ticks) >= 2
        assert max(map(len, ticks)) <= 7
        if spread == 1.0 or 1e-3 < scale < 1e6:  # powers of ten have two digits: more would not fit
            assert len(set(ticks)) == len(ticks)


@pytest.mark.parametrize("name", ["digits", "imagenet-validation-of-the-second-floor", "x" * 64])
def test_a_long_name_is_cut_beside_the_last_value_and_read_out_whole(name: str) -> None:
    points = (np.array([1.0, 2.0]), np.array([0.5, 0.625]))
    markup = encoder_curves(f"{name}: k-NN, 10 % bank, %", {"student": points, "teacher": points}, scale=100.0)
    assert f'aria-label="{name}: k-NN, 10 % bank, %, over steps"' in markup
    (shown,) = re.findall(r'class="title"[^>]*>([^<]*)<', markup)
    (last,) = re.findall(r'class="last"[^>]*>([^<]*)<', markup)
    assert shown.endswith(": k-NN, 10 % bank, %")
    assert TITLE_CHARACTER * len(shown + last) < RIGHT
    assert (shown[0], "…" in shown) == (name[0], len(name) > 20)
