"""The page in a real browser: pictures appear, numbers move, it fits a phone, and the console stays empty."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Tab, browsing
from test_learner_page_live import Clock
from tiny_learner import make_pairs, tiny_learner

from benchmarks.shared.machine import free_port
from learner.http.access import Access
from learner.http.app import app_for
from learner.http.server import served
from learner.loop import StepReport, learn
from learner.page import view
from learner.page.live import Live
from learner.page.sections import CURVES_EVERY_S
from learner.runs.folder import RunDirectory
from stream.pair import EncodedPair
from stream.source import IteratorSource

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: apt-get install chromium")
TOKEN = "correct-horse-battery-staple"

PICTURES = """Promise.all([...document.querySelectorAll("image")].map((image) => {
    const picture = new Image();
    picture.src = image.getAttribute("href");
    return picture.decode().then(() => picture.naturalWidth);
}))"""
LEAD = "document.querySelector('#now .lead').innerText"
LOSS = "document.querySelector('#curves .last').textContent"
PAPER = "getComputedStyle(document.body).backgroundColor"
STEPS = """[...document.querySelectorAll("#now .tiles div")]
    .filter((tile) => tile.innerText.includes("training steps")).map((tile) => tile.querySelector("b").innerText)[0]"""
PHONE_HEIGHT = 844
UNNAMED = """[...document.querySelectorAll("svg, a, button, input, summary")].filter((element) =>
    !(element.getAttribute("aria-label") || element.innerText || element.labels?.length)).map((element) => element.outerHTML)"""
"""What a screen reader has no words for."""
KEYS = """{keys}.forEach((key) =>
    document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {{key, bubbles: true}})))"""
TOUCH = """{ const curve = document.querySelector("#curves .sketch"), bounds = curve.getBoundingClientRect();
    curve.dispatchEvent(new PointerEvent("pointerdown", {bubbles: true, clientX: bounds.right, clientY: bounds.top})); }"""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


class Watched:
    """A learner whose page is served, and that goes on when the test says so; each step takes five seconds of its clock."""

    def __init__(self, folder: Path) -> None:
        self.learner = tiny_learner()
        self.clock = Clock()
        self.live = Live(self.learner, self.clock)
        self.directory = RunDirectory(folder, self.learner.config)
        self._events = learn(self.learner, IteratorSource(self._given()), clock=lambda: 0.0)

    def _given(self) -> Iterator[EncodedPair]:
        for pair in make_pairs(100):
            self.live.received(pair)
            yield pair

    def probe(self, step: int, accuracy: float) -> None:
        """The lines of a probe."""
        for encoder in ("student", "teacher"):
            self.directory.append("probes", {"step": step, "set": "digits", "encoder": encoder, "knn": accuracy})

    def step(self) -> None:
        """One step, as the service observes it."""
        report = next(event for event in self._events if isinstance(event, StepReport))
        self.clock.now_s += 5
        self.directory.append("steps", {"step": report.step, "loss": report.loss, **report.gauges})
        self.live.alive(lambda: f"now at {report.step}")
        self.live.observe(report)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browsing(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


def test_pictures_appear_numbers_move_and_the_console_stays_empty(tab: Tab, tmp_path: Path) -> None:
    watched, access = Watched(tmp_path / "run"), Access("127.0.0.1", free_port())
    address = f"http://127.0.0.1:{access.port}/"
    with served(app_for(access, view.routes(watched.live, tmp_path / "run")), access):
        tab.open(address)
        tab.until("document.querySelectorAll('.missing').length === 8")  # there is nothing yet
        assert tab.value(PICTURES) == []
        watched.step()
        tab.until("document.querySelectorAll('.panel').length === 2")
        tab.until("document.querySelectorAll('.missing').length === 3")  # nothing was probed
        shown = tab.value(PICTURES)
        assert len(shown) == 2 + 2 * (2 + 2 + 1 + 2) + 4 * 8
        assert min(shown) > 0
        before, loss = tab.value(LEAD), tab.value(LOSS)
        watched.step()
        watched.step()
        tab.until(f"{LEAD} !== {before!r} && {LOSS} !== {loss!r}")
        tab.until(f"{STEPS} === '3'")
        assert tab.value(OVERFLOW) == 0
        light = tab.value(PAPER)
        tab.open(address, width=390, dark=True)
        tab.until("document.querySelectorAll('.sheet figure').length === 32")
        assert tab.value(OVERFLOW) == 0
        assert tab.value(PAPER) != light
    assert tab.said == []


def test_the_verdict_the_newest_pair_and_the_proof_are_on_a_phones_first_screen(tab: Tab, tmp_path: Path) -> None:
    watched, access = Watched(tmp_path / "run"), Access("127.0.0.1", free_port())
    watched.probe(0, 0.25)
    watched.step()
    watched.probe(1, 0.5)
    with served(app_for(access, view.routes(watched.live, tmp_path / "run")), access):
        tab.open(f"http://127.0.0.1:{access.port}/", width=390)
        tab.until("document.querySelectorAll('#newest image').length === 2")
        tab.until("document.querySelector('#proof .last') !== null")
        assert "25.0 → 50.0 %" in tab.value("document.querySelector('.verdict').innerText")
        for part in ("title", "verdict", "newest", "proof"):
            assert 0 < tab.value(f"document.getElementById('{part}').getBoundingClientRect().bottom") < PHONE_HEIGHT, (
                part
            )
        assert re.search(
            r"\d\d:\d\d:\d\d UTC, \d+ (s|min|h) ago", tab.value("document.getElementById('newest').innerText")
        )
        assert tab.value(UNNAMED) == []
    assert tab.said == []


def test_a_value_is_read_off_a_curve_by_key_and_by_touch_and_stays_while_the_curve_goes_on(
    tab: Tab, tmp_path: Path
) -> None:
    watched, access = Watched(tmp_path / "run"), Access("127.0.0.1", free_port())
    for step, loss in enumerate((5.0, 4.0, 3.0, 2.5), start=1):
        watched.directory.append("steps", {"step": step, "loss": loss})
    said = "document.querySelector('#curves .reading text')?.textContent"
    with served(app_for(access, view.routes(watched.live, tmp_path / "run")), access):
        tab.open(f"http://127.0.0.1:{access.port}/")
        tab.until("document.querySelector('#curves .sketch') !== null")
        tab.value(f"document.querySelector('#curves .sketch').focus(); {KEYS.format(keys=['ArrowLeft', 'ArrowLeft'])}")
        assert tab.value(said) == "step 2: 4"
        watched.directory.append("steps", {"step": 5, "loss": 1.0})
        watched.clock.now_s += CURVES_EVERY_S
        tab.until("document.querySelector('#curves .last').textContent === '1'")
        assert tab.value(said) == "step 2: 4"
        assert tab.value("document.activeElement.getAttribute('aria-valuetext')") == "step 2: 4"
        tab.value(KEYS.format(keys=["Home"]))
        assert tab.value(said) == "step 1: 5"
        tab.value(TOUCH)
        assert tab.value(said) == "step 5: 1"
        tab.value("document.body.dispatchEvent(new PointerEvent('pointerdown', {bubbles: true}))")
        assert tab.value(said) is None


def test_a_learner_that_went_away_is_said_on_the_page(tab: Tab, tmp_path: Path) -> None:
    watched, access = Watched(tmp_path / "run"), Access("127.0.0.1", free_port())
    app = app_for(access, view.routes(watched.live, tmp_path / "run"))
    with served(app, access):
        tab.open(f"http://127.0.0.1:{access.port}/")
        tab.until("document.querySelectorAll('.missing').length === 8")
    tab.until("!document.getElementById('silence').hidden")
    assert "does not answer" in tab.value("document.getElementById('silence').innerText")
    with served(app, access):
        tab.until("document.getElementById('silence').hidden")


def test_a_token_typed_into_the_form_opens_the_page(tab: Tab, tmp_path: Path) -> None:
    watched, access = Watched(tmp_path / "run"), Access("127.0.0.1", free_port(), TOKEN)
    with served(app_for(access, view.routes(watched.live, tmp_path / "run")), access):
        tab.open(f"http://127.0.0.1:{access.port}/")
        tab.until("document.querySelector('input[name=token]') !== null")
        tab.value(f"document.querySelector('input').value = '{TOKEN}'; document.querySelector('button').click()")
        tab.until("document.querySelectorAll('.missing').length === 8")
        assert TOKEN not in tab.value("location.href + document.cookie")
