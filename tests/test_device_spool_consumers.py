"""Whose pairs a spool keeps, and what it tells those that come too late: names, keys, places, damaged files, two processes."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq
from spooled import DEVICE, Clock, fill, open_spool, settle
from waiting import WAIT_S

from device.spool.consumers import file as consumers_file
from device.spool.consumers.consumers import MAX_CONSUMERS_PER_KEY, Consumers, Refusal
from device.spool.consumers.saved import MAX_CONSUMERS, SavedConsumer, SavedConsumers
from device.spool.folder import SpoolError, SpoolTaken, is_abandoned
from stream.live.backfill_messages import Span
from stream.live.publisher import Publisher
from stream.live.subscriber import Subscriber
from stream.transport.security import Security

A, B = "a" * 32, "b" * 32
DAY_S = 86400.0


def consumers(saved: SavedConsumers | None = None, **changes: Any) -> Consumers:
    arguments: dict[str, Any] = {"now_s": 0.0, "forget_after_s": 7 * DAY_S, "grace_s": 0.0} | changes
    return Consumers(SavedConsumers() if saved is None else saved, **arguments)


def proven(known: Consumers, name: str, now_s: float = 0.0, peer: str | None = None) -> None:
    """Let a consumer come and acknowledge a pair."""
    assert known.register(name, now_s, peer, acknowledges=True) is None
    known.acknowledge(name, {A: 1})


# From where on pairs are kept


def test_a_consumer_is_told_which_pairs_there_were_when_it_came_also_after_restarts() -> None:
    known = consumers(SavedConsumers(complete=True))
    known.register("early", 0.0, tails=lambda: {A: 4})
    known.register("late", 1.0, tails=lambda: {A: 9, B: 0})
    known.register("early", 2.0, tails=lambda: {A: 99})
    again = consumers(known.to_save(3.0))
    assert (again.kept_from("early"), again.kept_from("late"), again.kept_from("nobody")) == (
        {A: 4},
        {A: 9, B: 0},
        None,
    )
    again.forget((), 4.0, named=(B,))
    assert (again.kept_from("early"), again.kept_from("late")) == ({}, {B: 0})


def test_a_consumer_that_a_damaged_list_may_have_lacked_is_told_that_every_pair_was_kept_for_it() -> None:
    known = consumers(grace_s=60.0)
    known.register("back", 59.0, tails=lambda: {A: 4})
    known.register("new", 60.0, tails=lambda: {A: 4})
    assert (known.kept_from("back"), known.kept_from("new")) == ({}, {A: 4})
    old = consumers(SavedConsumers(complete=True, consumers={"old": SavedConsumer(upto={})}))
    assert old.kept_from("old") is None  # of an earlier version


def test_a_spool_notes_what_it_holds_when_a_consumer_comes(tmp_path: Path) -> None:
    with open_spool(tmp_path, epoch=A, grace_s=0.0) as spool:
        spool.register("first")
        fill(spool, 15)
        spool.acknowledge("first", {A: 15})
        settle(spool)
    with open_spool(tmp_path, epoch=B, grace_s=0.0) as spool:
        spool.register("second")
        assert (spool.kept_from("first"), spool.kept_from("second")) == ({A: 0}, {A: 15, B: 0})
        assert spool.kept_from("nobody") is None


# What is freed stays known


def freed(folder: Path) -> None:
    """Two epochs that every consumer has acknowledged, in a spool that was closed."""
    for epoch in (B, A):
        with open_spool(folder, epoch=epoch) as spool:
            spool.register("one")
            fill(spool, 15)
            spool.acknowledge("one", {epoch: 15})


@pytest.mark.parametrize("damage", ["delete", "empty", "flip"])
def test_freed_epochs_are_named_in_their_order_though_any_single_file_is_damaged(tmp_path: Path, damage: str) -> None:
    freed(tmp_path / "whole")
    for number, name in enumerate(sorted(path.name for path in (tmp_path / "whole").iterdir())):
        freed(folder := tmp_path / str(number))
        path = sorted(folder.iterdir())[number]
        content = bytearray(path.read_bytes())
        path.unlink()
        if damage != "delete":
            content[len(content) // 2] ^= 4
            path.write_bytes(content if damage == "flip" else b"")
        with open_spool(folder) as spool:
            assert spool.spans(freed=True)[:2] == [Span(B, 15, 15, False), Span(A, 15, 15, False)], name
        with open_spool(folder) as spool:  # the damaged file was written again from the other ones
            assert spool.spans(freed=True)[:2] == [Span(B, 15, 15, False), Span(A, 15, 15, False)], name


def test_closing_keeps_the_end_of_an_epoch_whose_evicted_pairs_somebody_lacks(tmp_path: Path) -> None:
    with open_spool(tmp_path, epoch=A) as spool:
        for name in ("one", "two"):
            spool.register(name)
        fill(spool, 300)  # some are evicted
        spool.acknowledge("one", {A: 300})
        spool.acknowledge("two", {A: 300})
    with open_spool(tmp_path, epoch=B) as spool:
        assert spool.spans(freed=True)[0] == Span(A, 300, 300, False)


def test_a_consumer_that_comes_back_with_an_older_cursor_counts_what_it_will_never_get(tmp_path: Path) -> None:
    with (
        open_spool(tmp_path, epoch=A) as spool,
        Publisher("tcp://127.0.0.1:0", device=DEVICE, epoch=A, shelf=spool) as publisher,
        Subscriber([publisher.endpoint], consumer="one") as subscriber,
    ):
        fill(spool, 15)
        assert len(receive(subscriber, 15)) == 15
        early = subscriber.cursor()
        fill(spool, 15)
        assert len(receive(subscriber, 15)) == 15
        subscriber.acknowledge(subscriber.cursor())
    with open_spool(tmp_path, epoch=B) as spool:
        assert spool.stats().pairs == 0
        with (
            Publisher("tcp://127.0.0.1:0", device=DEVICE, epoch=B, shelf=spool) as publisher,
            Subscriber([publisher.endpoint], consumer="one", cursor=early) as restored,
            Subscriber([publisher.endpoint], consumer="new") as newcomer,
        ):
            fill(spool, 1)
            assert [len(receive(each, 1)) for each in (restored, newcomer)] == [1, 1]
            assert [each.stats().lost for each in (restored, newcomer)] == [15, 0]


def receive(subscriber: Subscriber, count: int) -> list[Any]:
    found: list[Any] = []
    while len(found) < count:
        pairs = subscriber.receive(count - len(found), timeout_s=WAIT_S)
        assert pairs, f"{len(found)} of {count} pairs came within {WAIT_S:.0f} s"
        found += pairs
    return found


# Names and keys


def test_the_first_key_that_uses_a_name_owns_it_after_a_restart_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_spool(tmp_path, epoch=A, trusted={"desk", "attic"}) as spool:
        assert spool.register("run", "desk")
        fill(spool, 15)
        assert not spool.register("run", "attic")
        spool.acknowledge("run", {A: 15}, "attic")
        assert spool.stats().backlog == 15
        assert spool.stats().refused_consumers == {"name": 0, "owner": 2, "places": 0}
        assert "no pairs are kept for consumer 'run': the name belongs to the key of desk, and" in caplog.text
    with open_spool(tmp_path, epoch=B, trusted={"desk", "attic"}) as spool:
        spool.acknowledge("run", {A: 15}, "attic")
        assert spool.stats().backlog == 15
        spool.acknowledge("run", {A: 15}, "desk")
        assert spool.stats().backlog == 0


def test_a_key_that_is_not_trusted_any_more_gives_up_its_names_and_keeps_pairs_for_a_day_at_most() -> None:
    known = consumers()
    proven(known, "run", peer="desk")
    proven(known, "other", peer="attic")
    known = consumers(known.to_save(0.0), trusted={"attic", "shed"})
    known.forget((), 0.9 * DAY_S)
    assert len(known) == 2
    assert known.register("run", 0.9 * DAY_S, "shed") is None  # its next key
    assert known.register("run", 0.9 * DAY_S, "attic") is Refusal.OWNER
    known.forget((), 2 * DAY_S)
    assert known.owner("run") is None
    assert known.owner("other") == "attic"


def test_without_keys_nobody_owns_a_name_and_a_name_of_before_is_owned_by_the_first_key() -> None:
    known = consumers()
    proven(known, "run")
    assert known.owner("run") is None
    assert known.register("run", 1.0, "desk") is None
    assert known.register("run", 2.0, "attic") is Refusal.OWNER
    assert known.register("run", 3.0) is None


def test_a_stranger_does_not_keep_the_name_of_another_key_from_being_forgotten() -> None:
    known = consumers()
    proven(known, "run", peer="desk")
    for day in range(9):
        assert known.register("run", day * DAY_S, "attic") is Refusal.OWNER
        known.forget((), day * DAY_S)
    assert known.register("run", 8 * DAY_S, "attic") is None


def test_over_curve_another_trusted_key_cannot_acknowledge_in_a_learners_name(tmp_path: Path) -> None:
    rig, desk, attic = machine(), machine(), machine()
    desk, attic = (replace(each, trusted={"rig": rig.public}) for each in (desk, attic))
    rig = replace(rig, trusted={"desk": desk.public, "attic": attic.public})
    with (
        open_spool(tmp_path, epoch=A, trusted=rig.trusted) as spool,
        Publisher("tcp://127.0.0.1:0", device=DEVICE, epoch=A, shelf=spool, security=rig) as publisher,
    ):
        fill(spool, 15)
        with Subscriber([publisher.endpoint], consumer="run", security=desk) as learner:
            assert len(receive(learner, 15)) == 15
        with Subscriber([publisher.endpoint], consumer="run", security=attic) as stranger:
            assert len(receive(stranger, 15)) == 15
            stranger.acknowledge(stranger.cursor())
        assert spool.stats().refused_consumers["owner"] > 0
        assert spool.awaited(1e9) == {"run": 15}


def machine() -> Security:
    """The keys of a machine that trusts nobody yet."""
    public, secret = zmq.curve_keypair()
    return Security(Path("keys"), public.decode(), secret.decode(), {})


# Places


def test_invented_names_take_no_place_from_a_learner() -> None:
    known = consumers()
    proven(known, "honest")
    for number in range(MAX_CONSUMERS - 1):
        assert known.register(f"invented-{number}", 0.0) is None
    assert known.register("late", 1.0) is Refusal.PLACES
    assert known.register("late", 1.0, acknowledges=True) is None  # it has pairs of this rig
    assert known.register("new", 61.0) is None
    assert len(known) == MAX_CONSUMERS
    assert {"honest", "late", "new"} <= known.heard_since(-1.0).keys()


def test_names_that_never_acknowledged_are_forgotten_after_a_day() -> None:
    known = consumers()
    proven(known, "honest")
    known.register("invented", 0.0)
    known.forget((), 1.01 * DAY_S)
    assert known.heard_since(-1.0).keys() == {"honest"}


def test_a_learner_for_which_there_is_no_place_is_told_and_gets_one_from_a_run_that_was_away_for_a_day() -> None:
    known = consumers()
    for number in range(MAX_CONSUMERS):
        proven(known, f"run-{number}", float(number))
    assert known.register("late", DAY_S) is Refusal.PLACES
    assert known.register("late", DAY_S + 1.0) is None
    assert known.heard_since(0.0).keys() == {"late", *(f"run-{number}" for number in range(1, MAX_CONSUMERS))}


def test_one_key_takes_half_of_the_places_and_then_only_its_own() -> None:
    known = consumers()
    proven(known, "honest", peer="desk")
    for number in range(3 * MAX_CONSUMERS):
        known.register(f"invented-{number}", 100.0 * number, "attic")
    assert len(known) == 1 + MAX_CONSUMERS_PER_KEY
    assert known.owner("honest") == "desk"


def test_a_learner_is_told_that_a_rig_keeps_nothing_for_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        open_spool(tmp_path, epoch=A) as spool,
        Publisher("tcp://127.0.0.1:0", device=DEVICE, epoch=A, shelf=spool) as publisher,
    ):
        for number in range(MAX_CONSUMERS):
            spool.register(f"run-{number}")
        fill(spool, 3)
        with Subscriber([publisher.endpoint], consumer="late") as subscriber:
            assert len(receive(subscriber, 3)) == 3
        assert f"rig {DEVICE} keeps no pairs for late" in caplog.text
        assert spool.stats().refused_consumers["places"] > 0


# Files and processes


def test_a_list_that_could_not_be_saved_is_saved_soon_though_nobody_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    with open_spool(tmp_path, epoch=A, clock=clock) as spool:
        with monkeypatch.context() as patch:
            patch.setattr(consumers_file, "save_consumers", refuse)
            spool.register("one")
        before = (tmp_path / "consumers.json").read_bytes()
        clock.now_s += 4.0
        spool.register("one")
        assert (tmp_path / "consumers.json").read_bytes() == before
        clock.now_s += 2.0
        fill(spool, 1)  # a sync follows
        spool.close()
    with open_spool(tmp_path) as spool:
        assert spool.stats().consumers == 1


def refuse(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_deleting_the_lock_file_lets_no_second_process_in(tmp_path: Path) -> None:
    with open_spool(tmp_path) as spool:
        fill(spool, 3)
        (tmp_path / "device.lock").unlink()
        for _ in range(2):  # the first try has written the file again
            with pytest.raises(SpoolTaken, match=r"^another process has the spool"):
                open_spool(tmp_path)
            assert not is_abandoned(tmp_path)
        settle(spool)
    open_spool(tmp_path).close()
    assert is_abandoned(tmp_path)


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.EROFS, 1), (errno.ENOSPC, 1), (errno.EIO, 1), (errno.EMFILE, 1), (errno.EACCES, 2), (errno.ENOTDIR, 2)],
)
def test_only_a_wrong_place_for_a_spool_is_a_wrong_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    """The service of a rig is not started again after exit code 2; a card that is read-only now may be well later."""
    opened = os.open

    def refused(path: Path, *arguments: Any) -> int:
        if Path(path).name == "device.lock":
            raise OSError(number, os.strerror(number))
        return opened(path, *arguments)

    monkeypatch.setattr("device.spool.folder.os.open", refused)
    with pytest.raises(SpoolError, match=r"^cannot keep pairs in .*; choose a folder with --spool") as raised:
        open_spool(tmp_path)
    assert raised.value.exit_code == code
