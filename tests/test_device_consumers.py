"""For whom a spool keeps pairs can be listed, and a consumer can leave or be forgotten, whether the rig runs or not."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from spooled import DEVICE, Clock, fill, open_spool

from device.__main__ import PROGRAM
from device.cli.consumers import consumers_of
from device.cli.status import RecentRate
from device.spool.consumers.consumers import Consumers
from device.spool.consumers.file import request_to_forget, save_consumers, take_requests
from device.spool.consumers.saved import SavedConsumer, SavedConsumers
from device.spool.folder import SpoolError
from stream.host.program import Stop


def consumers(*words: str, spool: Path) -> Any:
    return PROGRAM.run(["consumers", "--spool", str(spool), *words], Stop())


def test_a_consumer_that_leaves_is_off_the_list_unless_another_key_says_so() -> None:
    known = Consumers(SavedConsumers(), now_s=0.0, forget_after_s=1e6, grace_s=0.0)
    for name, peer in (("ours", "key"), ("open", None)):
        known.register(name, 0.0, peer)
    for name, peer, left in (("ours", "other", 2), ("ours", None, 2), ("open", "other", 1), ("ours", "key", 0)):
        known.leave(name, peer)
        assert len(known) == left
    known.leave("nobody")


def test_pairs_that_a_consumer_had_when_it_left_are_no_backlog_but_stay_for_the_next_one(tmp_path: Path) -> None:
    with open_spool(tmp_path / "spool") as spool:
        for name, had in (("first", 5), ("second", 12)):
            spool.register(name)
            fill(spool, 10)
            spool.acknowledge(name, {spool.epoch: had})
            spool.leave(name)
        assert (spool.stats().pairs, spool.stats().backlog) == (20, 8)
        spool.register("third")
        assert spool.stats().backlog == 20


def test_the_list_names_consumers_and_how_far_behind_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    with open_spool(folder) as spool:
        for name in ("ahead", "behind"):
            spool.register(name)
        fill(spool, 20)
        spool.acknowledge("ahead", {spool.epoch: 17})
        assert [(one.name, one.behind) for one in consumers_of(folder)] == [("behind", 20), ("ahead", 3)]
        text = consumers(spool=folder).text
        assert text.splitlines()[0].startswith("behind  20 pairs behind, heard within ten minutes")
    assert [(one.name, one.behind) for one in consumers_of(folder)] == [("behind", 20), ("ahead", 3)]
    figures = consumers("--json", spool=folder).text
    assert '"name": "behind"' in figures


def test_the_list_says_for_how_long_a_consumer_is_known_and_reads_a_list_that_does_not(tmp_path: Path) -> None:
    clock = Clock()
    for name in ("first", "second"):
        with open_spool(tmp_path, clock=clock) as spool:
            spool.register(name)
            clock.now_s += 3600.0
    assert {one.name: one.known_s for one in consumers_of(tmp_path)} == {"first": 7200.0, "second": 3600.0}
    assert "known for 2.0 h" in consumers(spool=tmp_path).text
    old = SavedConsumers(consumers={"old": SavedConsumer(upto={})})
    save_consumers(tmp_path / "consumers.json", old)
    with open_spool(tmp_path, clock=clock):
        pass
    assert "known for" not in consumers(spool=tmp_path).text


def test_a_running_rig_forgets_a_consumer_within_seconds_and_frees_its_pairs(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    with open_spool(folder) as spool:
        for name in ("gone", "here"):
            spool.register(name)
        fill(spool, 20)
        spool.acknowledge("here", {spool.epoch: 20})
        assert spool.stats().backlog == 20
        done = threading.Event()

        def tends() -> None:
            while not done.wait(0.02):
                spool.tend()

        thread = threading.Thread(target=tends)
        thread.start()
        try:
            assert consumers("--forget", "gone", spool=folder).text == "gone is forgotten"
        finally:
            done.set()
            thread.join()
        assert (spool.stats().backlog, spool.stats().consumers) == (0, 1)
    assert [one.name for one in consumers_of(folder)] == ["here"]


def test_without_a_rig_a_consumer_is_forgotten_at_the_next_start(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    with open_spool(folder) as spool:
        spool.register("gone")
    assert "when the rig starts again" in consumers("--forget", "gone", spool=folder).text
    with open_spool(folder) as spool:
        spool.tend()
        assert spool.stats().consumers == 0


def test_a_request_that_is_still_being_written_is_left_alone(tmp_path: Path) -> None:
    draft = tmp_path / ".gone.forget"
    draft.touch()
    assert take_requests(tmp_path) == []
    assert draft.exists()
    request_to_forget(tmp_path, "gone")
    assert take_requests(tmp_path) == ["gone"]


def test_what_is_not_there_is_said_with_what_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_spool(tmp_path / "spool") as spool:
        spool.register("known")
    with pytest.raises(SpoolError, match=r"no pairs are kept for unknown: there are known"):
        consumers("--forget", "unknown", spool=tmp_path / "spool")
    with pytest.raises(SpoolError, match=r"there is no spool of .*give the rig's --name, or --spool FOLDER"):
        consumers(spool=tmp_path / "nothing")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "spool"))
    assert "known" in PROGRAM.run(["consumers", "--name", DEVICE], Stop()).text


def test_the_rate_is_that_of_the_last_seconds() -> None:
    now_s = 0.0
    rate = RecentRate(lambda: now_s)
    assert rate.per_s(0) == 0.0
    for tenth in range(600):
        now_s = tenth / 10
        rate.see(tenth)
    assert rate.per_s(599) == pytest.approx(10, rel=0.1)
    for second in range(60, 80):
        now_s = second
        rate.see(599)
    assert rate.per_s(599) == 0.0
