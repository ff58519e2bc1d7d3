"""Pairs stay in the spool until every consumer has acknowledged them, and consumers are remembered over restarts."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from spooled import NOBODY, A, B, C, Clock, copied, fill, open_spool, pull, segment_files, settle

from device.spool.spool import Spool
from stream.live.backfill_messages import Span


def test_pairs_are_kept_until_every_learner_has_acknowledged_them(spool: Spool, tmp_path: Path) -> None:
    for name in ("one", "two"):
        spool.register(name)
    fill(spool, 45)
    spool.acknowledge("one", {A: 45})
    assert spool.spans()[0].tail == 0
    assert spool.stats().backlog == 45
    assert spool.awaited(60.0) == {"two": 45}
    spool.acknowledge("two", {A: 31})
    (span,) = spool.spans()
    assert 20 <= span.tail <= 31
    assert spool.stats().backlog == 14
    assert spool.stats().pairs == 45 - span.tail
    assert pull(spool, A, span.tail, 45)[0] == list(range(span.tail, 45))
    spool.acknowledge("two", {A: 12})  # late; numbers never go back
    assert spool.awaited(60.0) == {"two": 14}
    spool.acknowledge("two", {A: 1 << 40, NOBODY: 5})  # epochs and numbers that are not in the spool
    assert spool.awaited(60.0) == {}
    fill(spool, 2)
    assert spool.awaited(60.0) == {"one": 2, "two": 2}
    assert spool.stats().lost == {"evicted": 0, "rot": 0}


def test_acknowledgements_are_remembered_over_a_restart_and_acknowledged_pairs_are_deleted(tmp_path: Path) -> None:
    with open_spool(tmp_path, epoch=A) as spool:
        spool.register("one")
        fill(spool, 25)
        spool.acknowledge("one", {A: 25})
    assert segment_files(tmp_path) == []
    with open_spool(tmp_path, epoch=B) as spool:
        assert spool.stats().consumers == 1
        assert spool.spans() == [Span(B, 0, 0, True)]
        fill(spool, 25)
        spool.acknowledge("one", {B: 24})
        settle(spool)
        killed = copied(tmp_path, tmp_path.with_name("killed"))
    with open_spool(killed) as spool:
        assert spool.awaited(1e9) == {"one": 1}


def test_after_damage_the_list_of_consumers_begins_empty_and_no_pair_is_deleted(tmp_path: Path) -> None:
    with open_spool(tmp_path, epoch=A) as spool:
        spool.register("one")
        fill(spool, 25)
        spool.acknowledge("one", {A: 3})
    text = (tmp_path / "consumers.json").read_bytes()
    for damaged in (b"", text[:-5], text.replace(b":3}", b":9}"), b"[" * 100_000, text.replace(b"one", b"o/e")):
        assert damaged != text
        (tmp_path / "consumers.json").write_bytes(damaged)
        with open_spool(tmp_path) as spool:
            assert spool.stats().consumers == 0
            assert pull(spool, A, 0, 25)[0] == list(range(25))


def test_a_list_that_begins_empty_frees_nothing_before_other_learners_had_time_to_report(tmp_path: Path) -> None:
    clock = Clock()
    opened = partial(open_spool, tmp_path, clock=clock, grace_s=60.0)

    def acknowledged(spool: Spool, epoch: str) -> list[int]:
        """The pairs that are still given, of 40 that one learner has acknowledged."""
        spool.register("one")
        spool.acknowledge("one", {epoch: 39})
        spool.acknowledge("one", {epoch: 40})
        return pull(spool, epoch, 0, 40)[0]

    with opened(epoch=A) as spool:
        fill(spool, 40)
        assert acknowledged(spool, A) == list(range(40))
    with opened(epoch=B) as spool:  # a restart begins the grace again
        clock.now_s += 59
        assert acknowledged(spool, A) == list(range(40))
        spool.register("two")
        clock.now_s += 2
        spool.acknowledge("two", {A: 25})
        assert pull(spool, A, 25, 40)[0] == list(range(25, 40))
        spool.acknowledge("two", {A: 40})
        assert [span.epoch for span in spool.spans()] == [B]
    with opened(epoch=C) as spool:  # from now on the list is complete
        fill(spool, 40)
        spool.acknowledge("one", {C: 40})
        spool.acknowledge("two", {C: 40})
        assert spool.spans()[-1].tail > 0


def test_no_pairs_are_kept_for_a_learner_that_was_silent_for_too_long(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, wall = Clock(), Clock()
    with open_spool(tmp_path, epoch=A, clock=clock, wall=wall, forget_after_s=100.0) as spool:
        spool.register("one")
        spool.register("two")
        fill(spool, 25)
        spool.acknowledge("one", {A: 20})
        wall.now_s += 1e9  # the time of day does not matter
        clock.now_s += 60
        spool.register("one")
        spool.acknowledge("one", {A: 21})
        assert (spool.stats().consumers, spool.stats().backlog) == (2, 25)
        clock.now_s += 60
        spool.acknowledge("one", {A: 25})
        assert (spool.stats().consumers, spool.stats().backlog) == (1, 0)
        assert "consumer two is forgotten" in caplog.text


@pytest.mark.parametrize("jump_s", [-30 * 86400, 30 * 86400])
def test_absence_is_the_time_that_rigs_were_up_whatever_their_clocks_say(tmp_path: Path, jump_s: float) -> None:
    clock, wall = Clock(), Clock()
    opened = partial(open_spool, tmp_path, clock=clock, wall=wall, forget_after_s=100.0)
    with opened() as spool:
        spool.register("one")
    for up_s in (60, 39):
        wall.now_s += jump_s
        clock.now_s = 0.0  # the monotonic clock starts again with the machine
        with opened() as spool:
            clock.now_s += up_s
            spool.register("two")
            assert spool.awaited(1e9).keys() <= {"one", "two"}
            assert spool.stats().consumers == 2
    with opened() as spool:
        clock.now_s += 2
        spool.acknowledge("two", {})
    with opened() as spool:
        assert spool.stats().consumers == 1


def test_no_pairs_are_kept_for_forbidden_names_and_a_65th_learner(spool: Spool) -> None:
    for name in ("", "../x", "a b", "x" * 65):
        spool.register(name)
    assert spool.stats().consumers == 0
    for number in range(70):
        spool.register(f"learner-{number}")
    spool.acknowledge("learner-69", {A: 5})
    assert spool.stats().consumers == 64


def test_only_learners_heard_from_lately_are_waited_for(tmp_path: Path) -> None:
    clock = Clock()
    with open_spool(tmp_path, epoch=A, clock=clock) as spool:
        spool.register("one")
        fill(spool, 3)
        clock.now_s += 30
        spool.register("two")
        assert spool.awaited(20.0) == {"two": 3}
        assert spool.awaited(31.0) == {"one": 3, "two": 3}
        assert not spool.read_within(1.0)
        spool.read(A, 0, 1, 1)
        assert spool.read_within(1.0)
