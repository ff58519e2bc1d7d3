"""The tables of the original experiment: a row for each day of the stream, and accuracies of rotated images."""

from __future__ import annotations

import re
from typing import Any

import pytest

from learner.report.tables import MAX_DAYS, START, by_day, by_rotation

DAY_NS = 86_400_000_000_000
FIRST_NS = 20_000 * DAY_NS + 9 * 3_600_000_000_000
"""A morning: 2024-10-04, 09:00 UTC."""


def probe(day: float | None, knn: float, **more: Any) -> dict[str, Any]:
    captured_ns = None if day is None else int(FIRST_NS + day * DAY_NS)
    return {"set": "digits", "encoder": "student", "captured_ns": captured_ns, "knn": knn, "linear": knn + 0.5} | more


def rows(html: str, caption: str) -> list[list[str]]:
    """The cells of the table with this caption, without its head."""
    (table,) = (part for part in html.split("<table>")[1:] if f"<caption>{caption}" in part)
    found = re.findall(r"<tr>(.*?)</tr>", table.partition("<tbody>")[2])
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in found]


def test_each_day_of_the_stream_has_its_last_probe_below_the_random_start() -> None:
    html = by_day([probe(None, 0.1), probe(0.1, 0.2), probe(0.2, 0.3), probe(2.0, 0.4)])
    assert rows(html, "k-NN, %") == [[START, "10.0"], ["1: 2024-10-04", "30.0"], ["3: 2024-10-06", "40.0"]]
    assert [cells[1] for cells in rows(html, "linear, %")] == ["60.0", "80.0", "90.0"]


def test_sets_and_encoders_have_columns_and_what_was_not_measured_that_day_is_a_dash() -> None:
    html = by_day([probe(0, 0.1), probe(0, 0.2, encoder="teacher"), probe(1, 0.3, set="<b>")])
    assert "<th>digits, student</th><th>digits, teacher</th><th>&lt;b&gt;, student</th>" in html
    assert rows(html, "k-NN, %") == [
        ["1: 2024-10-04", "10.0", "20.0", "\N{EN DASH}"],
        ["2: 2024-10-05", "\N{EN DASH}", "\N{EN DASH}", "30.0"],
    ]


def test_of_a_stream_of_years_a_bounded_number_of_days_is_shown_the_first_and_last_among_them() -> None:
    shown = rows(by_day([probe(None, 0.0), *(probe(day, day / 1000) for day in range(1000))]), "k-NN, %")
    assert len(shown) == MAX_DAYS
    assert (shown[0][0], shown[-1][0]) == (START, "1000: 2027-06-30")


@pytest.mark.parametrize("captured_ns", [None, True, "now", [1], 1e300, -1e300, float("nan"), 1 << 70])
def test_no_line_of_a_damaged_file_breaks_the_tables(captured_ns: object) -> None:
    damaged = {"set": None, "encoder": [1], "captured_ns": captured_ns, "knn": "much"}
    assert rows(by_day([damaged, {}, probe(0, 0.1)]), "k-NN, %")[-1][-1] == "10.0"


def test_runs_of_before_there_were_capture_times_say_so() -> None:
    for lines in (None, [], [{"set": "digits", "encoder": "student", "knn": 0.5}]):
        assert "No probe has the capture time" in by_day(lines)


def test_rotated_images_have_an_accuracy_for_each_angle_and_their_deviation() -> None:
    measured = {"degrees": [0.0, 40.0], "knn": [0.5, 0.4], "linear": [0.9, 0.9]}
    html = by_rotation({"digits": {"student": measured}})
    assert "<th>0°</th><th>40°</th><th>deviation</th>" in html
    assert "<th>digits, student, k-NN</th><td>50.0</td><td>40.0</td><td>0.050</td>" in html
    assert "<td>0.000</td>" in html
    assert "This was not measured" in by_rotation(None)
    assert "This was not measured" in by_rotation({})
