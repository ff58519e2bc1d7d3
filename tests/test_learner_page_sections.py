"""The parts of the page: what they say of a run, that nothing foreign gets into their markup, that only what is new is sent."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from http_client import get
from learner_state import trained
from test_learner_page_live import WAITING, Clock, pair_of
from test_stream_rows import two_depths
from tiny_learner import EPOCH, make_pairs, tiny_learner

from benchmarks.shared.machine import free_port
from learner.cli.sources import origin_of
from learner.cli.train import COMMAND
from learner.http.access import Access
from learner.http.app import app_for
from learner.http.server import served
from learner.page import view
from learner.page.guide import Guide
from learner.page.live import WATCHED_S, Live
from learner.page.sections import CURVES_EVERY_S, Section, SectionCache, sections_of
from stream.calibration.watch import EVERY_S, RowWatch
from stream.codec import encode_pair
from stream.host.typed import here, there
from stream.image import Image
from stream.live.publisher import Publisher
from stream.live.subscriber import Subscriber
from stream.stats import DeviceStats, SourceStats

SECTIONS = [
    "title",
    "verdict",
    "newest",
    "proof",
    "now",
    "devices",
    "views",
    "probes",
    "stream",
    "curves",
    "memory",
    "wrong",
]
PICTURE = re.compile(r'href="data:image/jpeg;base64,([^"]+)"')


@pytest.fixture(scope="module")
def live() -> Live:
    """A learner that trained on some pairs, and somebody who watched it."""
    learner, clock = tiny_learner(), Clock()
    live = Live(learner, clock)
    live.watch()
    for pair in make_pairs(22):
        live.received(pair)
    for report in trained(learner, make_pairs(22)):
        live.observe(report)
    clock.now_s += 3
    live.watch()
    live.alive(lambda: "step 11 <loss>")
    live.observe(WAITING)
    return live


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The lines that such a run leaves."""
    steps = [
        {"step": step, "loss": 3 - step / 10, "kl": 1 / step, "busy_s": 0.1, "refused": []} for step in range(1, 12)
    ]
    probes = [
        {
            "step": step,
            "set": name,
            "encoder": who,
            "knn": 0.25 + step / 100,
            "knn_10pct": 0.2,
            "linear": 0.5,
            "rankme": 7.5,
        }
        for step in (0, 11)
        for name in ("digits", "<places>")
        for who in ("student", "teacher")
    ]
    found = {
        "right": 0.5,
        "right_start": 0.25,
        "right_chance": 0.03,
        "right_queries": 32,
        "neighbour": None,
        "visit": None,
    }
    held = [{"step": step, "encoder": who, "pairs": 32} | found for step in (5, 11) for who in ("student", "teacher")]
    for name, lines in (("steps", steps), ("probes", probes), ("holdout", held)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_the_page_says_how_far_rows_are_apart_and_measures_seldom(run: Path) -> None:
    clock = Clock()
    live, reads = Live(tiny_learner(), clock), []
    left, right = two_depths(11)
    for name, eyes in (("bent", (left, right)), ("dark", (left * 0, right * 0))):
        encoded = encode_pair(*eyes, device=name, epoch=EPOCH, seq=0, left_ns=1, right_ns=1)
        live.received(encoded)
    watch = RowWatch(clock)
    markup = drawn(live, run)["devices"]
    (said,) = re.findall("<dt>rows</dt><dd>(.*?)</dd>", markup)
    assert "11.0 px lower in the right image" in said
    assert "see doctor on the rig" in said

    def read() -> tuple[Image, Image]:
        reads.append(clock.now_s)
        return left, right

    for _ in range(4):
        assert watch.offset("rig", read) is not None
        clock.now_s += EVERY_S / 2
    assert len(reads) == 2


def drawn(live: Live, run: Path) -> dict[str, str]:
    return {name: markup for name, (_, markup) in SectionCache(sections_of(live, run)).newer({}).items()}


def pictures(markup: str) -> list[np.ndarray]:
    data = [np.frombuffer(base64.b64decode(text), np.uint8) for text in PICTURE.findall(markup)]
    return [np.asarray(cv2.imdecode(each, cv2.IMREAD_COLOR)) for each in data]


def test_a_run_at_work_is_shown_whole(live: Live, run: Path) -> None:
    parts = drawn(live, run)
    assert list(parts) == SECTIONS
    for name, markup in parts.items():
        ElementTree.fromstring(
            f"<part>{markup.replace('<br>', '<br/>').replace('&ndash;', '')}</part>"
        )  # every tag closes
        assert "missing" not in markup, name
    assert len(pictures(parts["newest"])) == 2
    heads, crops, looks = 2, 2, 2
    assert len(pictures(parts["views"])) == looks * (2 + heads + 1 + crops)
    assert len(pictures(parts["memory"])) == 4 * 8
    assert parts["views"].count('class="gauss"') == looks
    assert all(picture.size for markup in parts.values() for picture in pictures(markup))
    titles = re.findall(r'class="title"[^>]*>([^<]*)<', parts["curves"] + parts["probes"])
    assert {"Loss", "KL, nats", "digits: k-NN, %", "digits: effective rank"} <= set(titles)


def test_the_bars_say_which_share_of_each_stretch_of_arrivals_is_still_here(run: Path) -> None:
    """Ninety-six arrivals in 48 bars of two: of the first half one of each two is kept, of the last quarter both."""
    learner = tiny_learner()
    watched = Live(learner, Clock())
    watched.watch()
    watched.observe(WAITING)
    assert watched.snapshot is not None
    kept = np.array([*range(0, 48, 2), *range(72, 96)])
    for processes, early in ((1, 0.5), (2, 1.0)):
        watched.snapshot = replace(watched.snapshot, kept=kept, arrived=96, processes=processes)
        markup = drawn(watched, run)["memory"]
        heights = [float(height) for height in re.findall(r'width="0.8" height="([\d.]+)"', markup)]
        assert len(heights) == 48
        assert heights == [early] * 24 + [0.0] * 12 + [1.0] * 12
        assert ("the first of 2 processes" in markup) == (processes == 2)


def test_what_the_words_and_names_say_is_text_and_never_markup(live: Live, run: Path) -> None:
    parts = drawn(live, run)
    assert "step 11 &lt;loss&gt;" in parts["now"]
    assert "&lt;places&gt;: k-NN, %" in parts["probes"]
    assert "<places>" not in parts["probes"]


def test_the_newest_pair_is_shown_in_its_colours(live: Live, run: Path) -> None:
    learner = tiny_learner()
    watched = Live(learner, Clock(), time_s=lambda: 1_000_000.0)
    watched.received(pair_of("rig1", 200, (60, 80)))
    parts = drawn(watched, run)
    assert [picture.shape for picture in pictures(parts["newest"])] == [(60, 80, 3)] * 2
    assert all(np.abs(picture.astype(int) - 200).max() <= 2 for picture in pictures(parts["newest"]))
    assert ">rig1<" in parts["newest"]
    assert '<time datetime="1970-01-12T13:46:40Z">13:46:40 UTC</time>' in parts["newest"]
    assert "A vision model that learns from what rig1 sees" in parts["title"]
    assert "200 of cccccccc" in parts["devices"]
    watched.received(pair_of("rig2", 1, (60, 80)))
    assert "from what 2 rigs see<" in drawn(watched, run)["title"]


def test_a_newest_pair_that_does_not_decode_is_said(run: Path) -> None:
    watched = Live(tiny_learner(), Clock())
    pair = pair_of("rig1", 1)
    watched.received(replace(pair, left=b"nonsense"))
    assert "The newest pair does not decode" in drawn(watched, run)["newest"]


def test_a_run_that_has_nothing_yet_says_so_everywhere(tmp_path: Path) -> None:
    parts = drawn(Live(tiny_learner(), Clock()), tmp_path / "not-there-yet")
    empty = [name for name, markup in parts.items() if 'class="missing"' in markup]
    assert empty == ["newest", "proof", "devices", "views", "probes", "stream", "curves", "memory"]
    assert "starting" in parts["now"] + parts["verdict"]
    assert "waits for the first pair" in parts["title"]
    assert "\N{EN DASH}" in parts["now"]  # no loss yet; 0 would look perfect


def test_devices_are_shown_with_their_missing_pairs_their_clocks_and_the_time_since_the_last_pair(run: Path) -> None:
    watched = Live(tiny_learner(), Clock())
    known = DeviceStats(
        epoch=EPOCH,
        next_seq=9,
        received=7,
        lost=2,
        pending=3,
        suppressed=1234,
        clock_offset_ns=2_000_000,
        clock_error_ns=400_000,
        battery=0.834,
        temperature_c=61.4,
        last_received_s=watched.clock() - 42,
    )
    stats = SourceStats(
        devices={
            "baby": known,
            "silent": replace(known, last_received_s=None, battery=None),
            "over": replace(known, ended=True),
        }
    )

    watched.watch()
    watched.alive(lambda: "", lambda: stats)
    markup = drawn(watched, run)["devices"]
    cards = dict(zip(("baby", "silent", "over"), markup.split("<article")[1:], strict=True))
    for said in (
        "2 lost, 3 to come",
        "+2.0 ms, to within 0.4 ms",
        "1\u202f234 suppressed",
        "42 s ago",
        "83%",
        "61 °C",
    ):
        assert said in cards["baby"], said
    assert "none was received since this process began" in cards["silent"]
    assert "last received" not in cards["silent"]
    assert "battery" not in cards["silent"]
    assert "its stream is over" in cards["over"]


def test_a_real_device_is_on_the_page_once_it_has_sent_a_pair(run: Path) -> None:
    watched = Live(tiny_learner(), Clock())
    with (
        Publisher("tcp://127.0.0.1:0", device="baby", epoch=EPOCH, on_full="wait") as publisher,
        Subscriber([publisher.endpoint], end_on_bye=True) as source,
    ):
        for pair in make_pairs(3):
            publisher.send(pair)
        taken = 0
        while taken < 3:
            for pair in source.receive(3, 1.0):
                watched.received(pair)
                taken += 1
        watched.watch()
        watched.alive(lambda: "", source.stats)
        markup = drawn(watched, run)["devices"]
    assert "<dt>received</dt><dd>3</dd>" in markup
    assert "2 of bbbbbbbb" in markup


def test_only_what_is_new_is_sent_and_drawn_again(run: Path) -> None:
    count, times = [0, 0], [0, 0]

    def section(number: int) -> Section:
        def draw() -> str:
            times[number] += 1
            return f"<b>{count[number] // 2}</b>"

        return Section(f"part{number}", lambda: count[number], draw)

    shown = SectionCache([section(0), section(1)])
    known = {name: version for name, (version, _) in shown.newer({}).items()}
    assert shown.newer(known) == {}
    assert times == [1, 1]
    count[1] = 1  # drawn again, and the same
    assert shown.newer(known) == {}
    count[1] = 2
    assert [markup for _, markup in shown.newer(known).values()] == ["<b>1</b>"]
    assert times == [1, 3]
    assert shown.newer({"part0": "nonsense", "other": "x"}).keys() == {"part0", "part1"}


def test_curves_go_on_with_the_lines_of_the_run_a_few_seconds_later(run: Path) -> None:
    clock = Clock()
    shown = SectionCache(sections_of(Live(tiny_learner(), clock), run))
    known = {name: version for name, (version, _) in shown.newer({}).items()}
    with (run / "steps.jsonl").open("a") as file:
        file.write('{"step": 12, "loss": 0.125}\n')
    clock.now_s += CURVES_EVERY_S
    assert ">0.125<" in shown.newer(known)["curves"][1]


@pytest.fixture(scope="module")
def port(live: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    access = Access("127.0.0.1", free_port())
    with served(app_for(access, view.routes(live, tmp_path_factory.mktemp("<my run>"))), access):
        yield access.port


def test_the_page_takes_nothing_from_outside_and_escapes_the_name_of_its_run(port: int) -> None:
    page = get(port, "/").text
    assert "&lt;my run&gt;" in page
    assert "<my run>" not in page
    outside = [address for address in re.findall(r'(?:src|href)="([^"]*)"', page) if not address.startswith("data:")]
    assert outside == ["live.js", "report", "weights/", "metrics", "healthz", "docs/"]
    assert "http://" not in re.sub(r"http://www\.w3\.org/2000/svg", "", page)
    assert get(port, "/live.js").headers["content-type"].startswith("text/javascript")


def test_the_report_and_the_documents_are_there_or_it_is_said_how_to_make_them(live: Live, tmp_path: Path) -> None:
    access = Access("127.0.0.1", free_port())
    with served(app_for(access, view.routes(live, tmp_path)), access):
        assert "learner report" in get(access.port, "/report").text
        (tmp_path / "report.html").write_text("<p>learned")
        assert get(access.port, "/report").text == "<p>learned"
        assert 'href="learning.md"' in get(access.port, "/docs/").text
        assert get(access.port, "/docs/learning.md").text.startswith("#")
        for other in ("nothing.md", "..%2fsetup.cfg", "../setup.cfg"):
            assert get(access.port, f"/docs/{other}").status == 404


def test_before_the_first_pair_the_page_says_what_to_type_on_the_rig(tmp_path: Path) -> None:
    endpoints = ("tcp://127.0.0.1:7000", "tcp://10.0.0.7:5555#rig1")
    live, key = Live(tiny_learner(), Clock()), "-c.m=.ut/DVBnYp]nS<pwe0:AD]a/U9t=h7HFi)-"

    def typed(guide: Guide) -> list[list[str]]:
        (section,) = [each for each in sections_of(live, tmp_path, guide) if each.name == "newest"]
        texts = re.findall("<pre[^>]*>(.*?)</pre>", section.draw(), re.DOTALL)
        return [html.unescape(text).splitlines() for text in texts]

    on_this_machine, on_the_rig = typed(Guide(endpoints))
    assert on_this_machine == [here("device", "--camera", "sim", "--bind", "tcp://127.0.0.1:7000")]
    assert on_the_rig == [there("device", "--camera", "sim", "--bind", "tcp://*:5555", "--insecure")]
    on_this_machine, on_the_rig = typed(Guide(endpoints, key=key, keys=tmp_path))
    assert on_this_machine[0].endswith(f"--keys {tmp_path}")
    assert on_the_rig == [
        there("stream", "keys", "trust", "learner", key),
        there("device", "--camera", "sim", "--bind", "tcp://*:5555"),
    ]
    assert typed(Guide()) == []


def test_without_a_rig_the_page_says_what_it_learns_from_and_nothing_of_rigs_and_clocks(run: Path) -> None:
    live = Live(tiny_learner(), Clock())

    def parts(origin: str, *, is_made_here: bool) -> dict[str, str]:
        sections = sections_of(live, run, Guide(origin=origin, is_made_here=is_made_here))
        return {each.name: each.draw() for each in sections if each.name in ("title", "devices")}

    assert "No pair has come yet." in parts("a camera", is_made_here=True)["devices"]
    left, right = two_depths(11)
    live.received(encode_pair(left, left, device="dir", epoch=EPOCH, seq=7, left_ns=1, right_ns=1))
    one_camera = parts("the folder <walk>", is_made_here=True)
    assert one_camera["title"] == "<h1>A vision model that learns from the folder &lt;walk&gt;</h1>"
    assert "<dt>pair</dt><dd>7</dd>" in one_camera["devices"]
    for word in ("captured", "clock", "right eye", "rows"):
        assert word not in one_camera["devices"]
    live.received(encode_pair(left, right, device="dir", epoch=EPOCH, seq=8, left_ns=1, right_ns=1))
    assert "lower in the right image: --rig.rectify or --rig.row-shift-px" in re.sub(
        r" \(.*?\)", "", parts("the folders a and b", is_made_here=True)["devices"]
    )
    recorded = parts("the recording walk.mcap", is_made_here=False)
    assert "learns from the recording walk.mcap" in recorded["title"]
    assert "by its clock" in recorded["devices"]


@pytest.mark.parametrize(
    ("words", "origin"),
    [
        ((), ""),
        (("--replay", "runs/walk.mcap"), "the recording walk.mcap"),
        (("--replay", "a.mcap", "b.mcap"), "2 recordings"),
        (("--source", "sim"), "the simulated world"),
        (("--source", "dir:/data/photographs"), "the folder photographs"),
        (("--source", "dir:/data/left/,/data/right"), "the folders left and right"),
        (("--source", "video:walk.mp4"), "the video walk.mp4"),
        (("--source", "sbs:both.mp4"), "the video both.mp4"),
        (("--source", "v4l2:0,2"), "a camera"),
        (("--source", "rtsp://me:secret@cam/1,rtsp://me:secret@cam/2"), "a camera"),
    ],
)
def test_what_a_run_without_a_rig_learns_from_is_said_in_words(words: tuple[str, ...], origin: str) -> None:
    assert origin_of(COMMAND.parse(words).process) == origin


def test_who_asks_for_the_parts_watches_and_knows_what_is_known(port: int, live: Live) -> None:
    live.snapshot = None
    answer = json.loads(get(port, "/sections").text)
    assert list(answer) == SECTIONS
    assert isinstance(live.clock, Clock)
    live.clock.now_s += WATCHED_S / 2
    live.observe(WAITING)
    known = "&".join(f"{name}={version}" for name, (version, _) in answer.items())
    assert json.loads(get(port, f"/sections?{known}").text).keys() == {"views", "memory"}


def test_pictures_say_from_when_they_are(live: Live, run: Path) -> None:
    watched = Live(live.learner, Clock(), time_s=lambda: 1_000_000.0)
    watched.watch()
    watched.observe(WAITING)
    parts = drawn(watched, run)
    for name in ("views", "memory"):
        assert f"As of step {live.learner.steps}, <time" in parts[name]
        assert "13:46:40 UTC" in parts[name]


def test_the_proof_and_the_verdict_come_from_the_probes_of_the_student(live: Live, run: Path) -> None:
    parts = drawn(live, run)
    assert "k-NN 25.0 → 36.0 % (mean of 2 control sets)" in parts["verdict"]
    assert 'class="verdict good"' in parts["verdict"]
    assert "&lt;places&gt;" in parts["proof"]
    assert ">+11 / +11<" in parts["proof"]  # two sets: above their start
    assert "Nothing that this page knows of" in parts["wrong"]
