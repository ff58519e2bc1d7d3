"""A run's folder becomes one page that stands alone and shows what the folder holds."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from learner import legacy
from learner.errors import LearnerError
from learner.report.figures import BINS, binned, curve, encoder_curves
from learner.report.html import encoder_legend, number
from learner.report.pictures import gaussian, heat, photo, window
from learner.report.report import write_report
from learner.report.tables import of_stream

HEIGHT, WIDTH, HEADS, CROPS = 40, 60, 3, 4
VOID = {"meta", "br", "img", "link", "input"}


def summary() -> dict[str, Any]:
    before = {f"{kind}_{who}": 0.25 for kind in ("knn", "knn_10pct", "linear") for who in ("student", "teacher")}
    return {
        "pairs_received": 18432,
        "pairs_suppressed": 777,
        "pairs_junk": 3,
        "pairs_lost": 0,
        "steps": 50,
        "samples": 6400,
        "samples_per_s": 412.34,
        "replay_ratio": 8.0,
        "duty_cycle": 0.934,
        "seconds": 61.5,
        "loss_first": 5.5,
        "loss_last": 1.25,
        "probe": {"cifar10": {"before": before, "after": before | {"knn_student": 0.3125, "knn_teacher": 0.2}}},
    }


def album() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)

    def images(*shape: int) -> NDArray[np.uint8]:
        return rng.integers(0, 256, (*shape, 3), dtype=np.uint8)

    eye = (2, HEIGHT, WIDTH)
    return {
        "received_left": images(*eye),
        "received_right": images(*eye),
        "viewed_left": images(*eye),
        "viewed_right": images(*eye),
        "attention": rng.random((2, HEADS, 5, 7), dtype=np.float32),
        "head": np.array([0, 2]),
        "gauss": np.full((2, 4), 0.25, np.float32),
        "window": np.full((2, 4), 0.5, np.float32),
        "crops": np.full((2, CROPS, 4), 0.5, np.float32),
        "teacher_view": images(2, 16, 16),
        "student_views": images(2, CROPS, 8, 8),
        "high_left": images(*eye),
        "high_priority": np.array([4.0, np.nan], np.float32),
        "low_left": images(*eye),
        "low_priority": np.array([0.125, 0.5], np.float32),
    }


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "first-walk"
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(summary()))
    (folder / "config.json").write_text(json.dumps({"seed": 5, "objective": {"prototypes": 256}}))
    steps = [
        {"step": s, "loss": 5 - s / 20, "kl": 1 / s, "teacher_entropy": 3.0, "odd_gauge": s, "refused": []}
        for s in range(1, 51)
    ]
    write_lines(folder / "steps.jsonl", [{"step": 0, "loss": float("nan"), "kl": float("inf")}, *steps])
    probes = [
        {
            "step": s,
            "set": "cifar10",
            "encoder": who,
            "knn": 0.2 + s / 500,
            "knn_10pct": 0.2,
            "linear": 0.3,
            "rankme": 20.0,
        }
        for s in (0, 25, 50)
        for who in ("student", "teacher")
    ]
    write_lines(folder / "probes.jsonl", probes)
    np.savez(folder / "album.npz", allow_pickle=False, **album())
    return folder


def test_the_files_of_earlier_versions_give_the_same_report(run: Path) -> None:
    html = write_report(run).read_text()
    old_names = {today: name for name, today in legacy.ALBUM.items()}
    np.savez(run / "album.npz", allow_pickle=False, **{old_names.get(n, n): a for n, a in album().items()})
    lines = (run / "probes.jsonl").read_text()
    (run / "probes.jsonl").write_text(lines.replace('"encoder"', '"who"'))
    assert write_report(run).read_text() == html


class Page(HTMLParser):
    """Checks nesting while it reads; collects references and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [v or "" for k, v in attrs if k in ("href", "src", "xlink:href", "srcset", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def page_of(run: Path) -> tuple[str, Page]:
    html = write_report(run).read_text(encoding="utf-8")
    return html, Page(html)


def test_a_run_whose_name_is_not_utf_8_has_a_report_too(run: Path) -> None:
    other = run.rename(run.parent / "caf\udce9")
    assert "caf\\udce9" in write_report(other).read_text()


def test_the_page_is_well_formed_and_needs_nothing_from_outside(run: Path) -> None:
    html, page = page_of(run)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    for reference in page.references:
        assert reference.startswith("data:image/jpeg;base64,") or f'id="{reference[1:]}"' in html
    assert not re.search(r"url\((?!#)|@import", html)
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html


def test_the_head_of_the_page_tells_the_counts_and_what_the_probes_gained(run: Path) -> None:
    _, page = page_of(run)
    for figure in ("18\u202f432", "777", "412", "0.934", "loss 5.5 → 1.25"):
        assert figure in page.text
    assert "25.0 → 31.2 % +6.2" in page.text
    assert "25.0 → 20.0 % -5.0" in page.text


def test_a_run_without_a_teacher_has_neither_a_row_nor_a_colour_of_one(run: Path) -> None:
    told = summary()
    told["probe"]["cifar10"] = {"before": {"knn_student": 0.25}, "after": {"knn_student": 0.5}}
    (run / "summary.json").write_text(json.dumps(told))
    write_lines(run / "probes.jsonl", [{"step": 0, "set": "cifar10", "encoder": "student", "knn": 0.25}])
    text = write_report(run).read_text()
    assert "<th>student</th>" in text
    assert "<th>teacher</th>" not in text
    assert "var(--student)" in text
    assert 'class="legend" style="color:var(--teacher)"' not in text


def test_every_picture_of_the_album_is_on_the_page(run: Path) -> None:
    html, page = page_of(run)
    looks = 2 * (2 + HEADS + 1 + CROPS)
    assert len(page.references) >= looks + 2 * 2 + 2 + 2
    assert html.count("data:image/jpeg") == looks + 2 * 2 + 2 + 2
    assert html.count('class="photo chosen"') == 2, "one head of each look is marked"
    assert html.count("<ellipse") == 2 * 2
    assert len(re.findall(r'<rect [^>]*style="stroke:hsl|<rect [^>]*style="stroke:#fff', html)) == 2 * (
        1 + 1 + CROPS
    ), "the window on both sides, the crops on the right"
    assert "priority 4" in page.text
    assert "priority 0.125" in page.text


def test_every_numeric_gauge_has_a_curve_and_counters_have_none(run: Path) -> None:
    _, page = page_of(run)
    for title in ("Loss", "KL", "Teacher entropy", "Odd gauge", "uniform: ln K"):
        assert title in page.text
    assert "refused" not in page.text
    for kind in ("k-NN", "k-NN, 10 % bank", "linear"):
        assert f"cifar10: {kind}, %" in page.text


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("album.npz", ["no views", "no received pairs", "no scored pairs"]),
        ("steps.jsonl", ["stopped before its first step"]),
        ("probes.jsonl", ["no probe ran"]),
        ("config.json", ["Settings: the file is missing"]),
    ],
)
@pytest.mark.parametrize("damaged", [False, True])
def test_a_file_that_is_missing_or_damaged_is_named_in_place_of_its_picture(
    run: Path, missing: str, says: list[str], damaged: bool
) -> None:
    if damaged:
        whole = (run / missing).read_bytes()
        (run / missing).write_bytes(b"\xff{" + whole[: len(whole) // 2].replace(b"\n", b" "))
    else:
        (run / missing).unlink()
    _, page = page_of(run)
    assert all(words in page.text for words in says)
    assert "What it learned" in page.text


def test_a_line_that_a_crash_cut_is_left_out(run: Path) -> None:
    with (run / "steps.jsonl").open("a") as file:
        file.write('{"step": 51, "lo')
    assert "Loss" in page_of(run)[1].text


def test_a_run_of_nothing_but_an_empty_summary_still_makes_a_page(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    assert "No control set was probed" in page_of(tmp_path)[1].text


@pytest.mark.parametrize("content", [None, "", "[1]", '{"steps": 1'])
def test_a_folder_without_a_readable_summary_is_refused_and_left_as_it_was(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    with pytest.raises(LearnerError, match=r"summary\.json is missing or damaged: give the folder of a run"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_run_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LearnerError, match=r"there is no run directory .*nope"):
        write_report(tmp_path / "nope")


def test_no_string_of_a_run_becomes_markup(run: Path) -> None:
    evil = "<script>alert(1)</script>&"
    told = summary()
    told["probe"] = {evil: told["probe"]["cifar10"]}
    (run / "summary.json").write_text(json.dumps(told))
    (run / "config.json").write_text(json.dumps({evil: evil}))
    write_lines(run / "probes.jsonl", [{"step": 1, "set": evil, "encoder": evil, "knn": 0.5}])
    write_lines(run / "steps.jsonl", [{"step": 1, evil: 2.0, "$\\frac$": 1.0}])
    moved = run.rename(run.with_name("<img src=x>"))
    html, page = page_of(moved)
    assert not {"script", "img"} & set(page.tags)
    assert "<script" not in html
    assert page.text.count(evil) >= 4


def test_the_same_run_gives_the_same_page(run: Path) -> None:
    assert write_report(run).read_bytes() == write_report(run).read_bytes()
    assert not list(run.glob(".*")), "no draft stays behind"


def picture_in(svg: str) -> NDArray[np.uint8]:
    data = re.search(r"base64,([^\"]+)", svg)
    assert data
    return np.asarray(cv2.imdecode(np.frombuffer(base64.b64decode(data[1]), np.uint8), cv2.IMREAD_COLOR), np.uint8)


def test_a_photograph_keeps_its_colours_and_shape_and_a_large_one_is_made_smaller() -> None:
    red = np.zeros((30, 50, 3), np.uint8)
    red[..., 2] = 255
    shown = picture_in(photo(red, "red"))
    assert shown.shape == red.shape
    assert shown[15, 25, 2] > 240
    assert shown[15, 25, 0] < 20
    assert picture_in(photo(np.zeros((400, 2000, 3), np.uint8), "wide")).shape == (144, 720, 3)


def test_marks_lie_where_their_fractions_say() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    mark = window(np.array([0.5, 0.25, 0.1, 0.2], np.float32), image, "#fff")
    assert 'x="80.00" y="5.00" width="40.00" height="40.00"' in mark
    rings = gaussian(np.array([0.5, 0.25, 0.1, 0.2], np.float32), image)
    assert 'cx="100.00" cy="25.00" rx="20.00" ry="20.00"' in rings
    assert 'rx="40.00" ry="40.00"' in rings
    assert "nan" not in gaussian(np.full(4, np.nan, np.float32), image)


def test_heat_is_brightest_where_attention_is_greatest() -> None:
    attention = np.zeros((4, 4), np.float32)
    attention[1, 2] = 0.5
    shown = heat(np.full((40, 40, 3), 90, np.uint8), attention).sum(axis=-1)
    y, x = np.unravel_index(int(shown.argmax()), shown.shape)
    assert (int(y) // 10, int(x) // 10) == (1, 2)
    assert heat(np.zeros((8, 8, 3), np.uint8), np.zeros((2, 2), np.float32)).max() < 20, "no attention, no heat"


values = st.integers(0, 700).flatmap(lambda n: hnp.arrays(np.float64, n, elements=st.floats(-1e6, 1e6)))


@given(y=values)
def test_a_long_curve_is_drawn_in_few_bins_whose_band_loses_no_extreme(y: NDArray[np.float64]) -> None:
    steps, mean, least, greatest = binned(np.arange(len(y), dtype=np.float64), y)
    assert len(steps) == min(len(y), BINS)
    assert (np.diff(steps) > 0).all()
    assert ((least <= mean + 1e-6) & (mean <= greatest + 1e-6)).all()
    if len(y):
        assert (least.min(), greatest.max()) == (y.min(), y.max())


def test_the_power_of_ten_of_small_values_stands_opposite_the_title() -> None:
    drawn = curve("Start gram", (np.arange(4.0), np.arange(4.0) * 1e-5))
    places = {
        text: (anchor, float(x)) for anchor, x, text in re.findall(r'anchor: (\w+)[^>]* x="([^"]+)[^>]*>([^<]+)', drawn)
    }
    (title, left), (power, right) = places["Start gram"], places["1e\N{MINUS SIGN}5"]
    assert (title, power) == ("start", "end")
    assert right > 5 * left


def test_values_that_are_not_finite_leave_no_trace_in_a_curve() -> None:
    y = np.array([1.0, np.nan, 3.0, np.inf])
    assert binned(np.arange(4.0), y)[1].tolist() == [1.0, 3.0]
    assert "nan" not in curve("title", (np.arange(4.0), y)).lower()


def test_recalls_on_held_out_pairs_are_drawn_beside_the_start_and_not_where_there_are_none() -> None:
    told = {"right_start": 0.5, "right_chance": 0.1, "visit": None, "visit_start": None}
    lines = [{"step": step, "encoder": "student", "right": step / 8, **told} for step in (1, 2)]
    text = of_stream(lines)
    assert "the right image found, %" in text
    assert "another visit found, %" not in text
    assert text.count("<svg") == 1
    assert "var(--trace)" in text
    assert "stroke-dasharray" not in text


def test_a_curve_takes_its_colours_from_the_page() -> None:
    points = (np.array([0.0, 1.0]), np.array([0.2, 0.3]))
    svg = encoder_curves("set: k-NN", {"student": points, "teacher": points})
    assert "var(--student)" in svg
    assert "var(--teacher)" in svg
    assert not re.search(r"#0[1-5]0[1-5]0[1-5]", svg), "no stand-in is left"


def test_a_race_of_many_probes_draws_a_bounded_number_of_points() -> None:
    steps = np.arange(20_000.0)
    long, short = (
        encoder_curves("title", {"student": (steps[:count], steps[:count] / 20_000)}) for count in (20_000, BINS)
    )
    assert long.count("<use") == short.count("<use") > BINS / 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234567, "1\u202f234\u202f567"),
        (0.12345, "0.123"),
        (8.0, "8"),
        (1234.5, "1\u202f234"),
        (None, "\u2013"),
        (float("nan"), "\u2013"),
        (float("inf"), "\u2013"),
        ("7", "\u2013"),
        (-0.5, "-0.5"),
    ],
)
def test_a_figure_is_written_as_a_person_reads_it(value: object, text: str) -> None:
    assert number(value) == text


def test_the_legend_has_every_encoder_that_was_found() -> None:
    markup = encoder_legend(name for name in ("teacher", "student", "teacher"))
    assert re.findall(r">(\w+)<", markup) == ["student", "teacher"]
