"""The faults benchmark: its checker finds what it is there to find, its nemesis follows a seed, and one run of each kind."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from waiting import WAIT_S, until

from benchmarks.__main__ import main
from benchmarks.faults.check import FAILURES, Entered, Harm, Journal, PairCounts, check, owed
from benchmarks.faults.damage import damage
from benchmarks.faults.nemesis import HARMLESS, KINDS, LINK_KINDS, Hits, plan
from benchmarks.faults.rig import make_pair
from benchmarks.shared.link import Link
from benchmarks.shared.processes import Supervised

RIG, EPOCH = "rig0", "a" * 32
CHILD = """
from benchmarks.shared.processes import Orders, report
received = []
orders = Orders(received.append)
report("here")
while not orders.stop.wait(0.01):
    while received:
        report("received", received.pop(0))
"""


def journal_of(count: int, *, kept: int | None = None) -> Journal:
    """A rig that attempted pairs 0, 1, ... at 0 s, 1 s, ..., of which the first ones were kept."""
    journal = Journal()
    for seq in range(count):
        journal.add(f"attempt {EPOCH} {seq} {100 + seq} {seq * 1_000_000_000}")
    for seq in range(count if kept is None else kept):
        journal.add(f"kept {EPOCH} {seq}")
    return journal


def entered_of(*seqs: int) -> list[Entered]:
    return [Entered(RIG, EPOCH, seq, 100 + seq, 0) for seq in seqs]


def cursor_of(
    *done: tuple[int, int], lost: tuple[tuple[int, int], ...] = (), count: int | None = None
) -> dict[str, Any]:
    """A committed cursor; the learner counts as many lost pairs as lie in its ranges, unless said otherwise."""
    counts = {"lost": sum(last - first for first, last in lost) if count is None else count}
    return {"devices": {RIG: {"epochs": {EPOCH: {"joined": 0, "done": done, "lost": lost}}, "counts": counts}}}


def verdict_of(
    journal: Journal, entered: list[Entered], cursor: dict[str, Any], *harms: Harm, evicts: bool = False
) -> PairCounts:
    return check({RIG: journal}, entered, cursor, harms, evicts=evicts)


def failures(verdict: PairCounts) -> dict[str, int]:
    return {name: getattr(verdict, name) for name in FAILURES if getattr(verdict, name)}


def test_a_run_in_which_every_kept_pair_entered_once_holds() -> None:
    verdict = verdict_of(journal_of(5), entered_of(3, 4, 0, 1, 2), cursor_of((0, 5)))
    assert verdict.holds
    assert (verdict.kept, verdict.entered) == (5, 5)


def test_a_pair_that_entered_twice_is_found() -> None:
    verdict = verdict_of(journal_of(5), entered_of(0, 1, 2, 3, 4, 2, 2), cursor_of((0, 5)))
    assert failures(verdict) == {"twice": 2}


def test_a_kept_pair_that_is_missing_without_a_range_is_lost() -> None:
    assert failures(verdict_of(journal_of(5), entered_of(0, 1, 3, 4), cursor_of((0, 5)))) == {"lost": 1}
    assert failures(verdict_of(journal_of(5), entered_of(0, 1), cursor_of((0, 2)))) == {"lost": 3}
    assert failures(verdict_of(journal_of(5), [], {})) == {"lost": 5}


def test_a_range_that_covers_a_pair_that_entered_is_found() -> None:
    harm = Harm(RIG, 10**12, destroys=True)
    verdict = verdict_of(journal_of(5), entered_of(0, 1, 2, 3), cursor_of((0, 5), lost=((3, 5),)), harm)
    assert failures(verdict) == {"both": 1}


def test_a_counted_range_holds_where_a_harm_explains_it_and_only_there() -> None:
    journal, entered, cursor = journal_of(5), entered_of(0, 4), cursor_of((0, 5), lost=((1, 4),))
    after, before, other = Harm(RIG, 3 * 10**9, True), Harm(RIG, 10**9, True), Harm("rig1", 10**12, True)
    assert verdict_of(journal, entered, cursor, after).holds
    assert failures(verdict_of(journal, entered, cursor)) == {"unaccounted": 3}
    assert failures(verdict_of(journal, entered, cursor, before, other)) == {"unaccounted": 2}
    assert verdict_of(journal, entered, cursor, evicts=True).holds
    assert verdict_of(journal, entered, cursor, after).lost_pairs == 3


def test_a_pair_with_the_content_of_another_is_found() -> None:
    swapped = [*entered_of(0, 1), Entered(RIG, EPOCH, 2, 101, 0)]
    assert failures(verdict_of(journal_of(3), swapped, cursor_of((0, 3)))) == {"changed": 1}


def test_pairs_that_were_never_made_are_found_among_the_entered_and_among_the_lost() -> None:
    strange = [*entered_of(0, 1, 2, 3), Entered("nobody", EPOCH, 0, 100, 0)]
    assert failures(verdict_of(journal_of(3), strange, cursor_of((0, 4)))) == {"strangers": 2}
    beyond = cursor_of((0, 1 << 62), lost=((3, 1 << 62),))
    assert failures(verdict_of(journal_of(3), entered_of(0, 1, 2), beyond)) == {"phantoms": (1 << 62) - 3}


def test_a_count_that_differs_from_its_ranges_is_found() -> None:
    harm = Harm(RIG, 10**12, destroys=True)
    cursor = cursor_of((0, 3), lost=((1, 2),), count=3)
    assert failures(verdict_of(journal_of(3), entered_of(0, 2), cursor, harm)) == {"miscounted": 2}


@pytest.mark.parametrize("seqs", [(0, 1), (0, 1, 2)])
def test_an_attempt_without_an_answer_may_enter_or_not_but_not_twice(seqs: tuple[int, ...]) -> None:
    verdict = verdict_of(journal_of(3, kept=2), entered_of(*seqs), cursor_of((0, len(seqs))))
    assert verdict.holds
    assert verdict.indeterminate == 1
    assert failures(verdict_of(journal_of(3, kept=2), entered_of(0, 1, 2, 2), cursor_of((0, 3)))) == {"twice": 1}


def test_a_pair_that_the_spool_refused_owes_nothing() -> None:
    journal = journal_of(3, kept=2)
    journal.add(f"refused {EPOCH} 2")
    verdict = verdict_of(journal, entered_of(0, 1), cursor_of((0, 2)))
    assert verdict.holds
    assert (verdict.refused, verdict.indeterminate) == (1, 0)


def test_what_damage_destroyed_before_anybody_heard_of_it_is_told_apart_from_what_was_lost() -> None:
    journal, entered, cursor = journal_of(5), entered_of(0, 1), cursor_of((0, 2))
    destroyed, full = Harm(RIG, 3 * 10**9, destroys=True), Harm(RIG, 10**12, destroys=False)
    verdict = verdict_of(journal, entered, cursor, destroyed)
    assert (verdict.unseen, failures(verdict)) == (2, {"lost": 1})
    assert failures(verdict_of(journal, entered, cursor, full)) == {"lost": 3}
    hole = verdict_of(journal, entered_of(0, 4), cursor_of((0, 1), (4, 5)), Harm(RIG, 10**12, destroys=True))
    assert failures(hole) == {"lost": 3}


def test_what_is_still_owed_is_what_the_cursor_says_nothing_about() -> None:
    names = {(EPOCH, seq) for seq in (1, 3, 4)}
    assert set(owed(journal_of(5), cursor_of((0, 1), (2, 3)), RIG, [])) == names
    assert set(owed(journal_of(5), cursor_of((0, 1), (2, 3)), RIG, [Harm(RIG, 10**12, destroys=True)])) == {(EPOCH, 1)}
    assert len(list(owed(journal_of(5), {}, RIG, []))) == 5


def test_a_plan_follows_from_its_seed() -> None:
    def planned(seed: int) -> object:
        return plan(seed, 50, list(KINDS), rigs=2, consumers=2, every_s=0.4, hold_s=3.0, long=True)

    assert planned(1) == planned(1)
    assert planned(1) != planned(2)


def test_a_plan_has_every_kind_and_ends_with_link_faults_that_come_alone() -> None:
    faults = plan(0, 400, list(KINDS), rigs=2, consumers=2, learners=[1], every_s=0.4, hold_s=3.0, long=True)
    assert {fault.kind for fault in faults} == set(KINDS)
    assert {(fault.rig, fault.consumer) for fault in faults} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert [fault.at_s for fault in faults] == sorted(fault.at_s for fault in faults)
    assert max(fault.hold_s for fault in faults) > 6.0
    for at, fault in enumerate(faults[-20:], start=380):
        assert fault.kind in LINK_KINDS
        assert all(before.at_s + before.hold_s < fault.at_s for before in faults[:at])
    for fault in faults:
        assert fault.consumer == 1 or KINDS[fault.kind].hits is not Hits.LEARNER
    harmless = plan(0, 200, HARMLESS, rigs=1, consumers=1, every_s=0.4, hold_s=2.0, long=False)
    assert {fault.kind for fault in harmless} == {kind for kind in HARMLESS if KINDS[kind].hits is not Hits.LEARNER}
    assert max(fault.hold_s for fault in harmless) <= 2.0


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A folder as a killed rig leaves it; only names and bytes matter here."""
    folder = tmp_path / "spool"
    folder.mkdir()
    for name in ("1-a-0-9.sqlite", "1-a-9.sqlite", "1-a-9.sqlite-wal", "consumers.json"):
        (folder / name).write_bytes(bytes(1000))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("seed", range(8))
def test_a_torn_tail_cuts_the_newest_segment_or_its_log_and_nothing_else(spool: Path, seed: int) -> None:
    before = contents(spool)
    damage("torn-tail", spool, random.Random(seed))
    changed = {name for name, data in contents(spool).items() if data != before[name]}
    assert changed
    assert changed <= {"1-a-9.sqlite", "1-a-9.sqlite-wal"}
    assert all(before[name].startswith(data) for name, data in contents(spool).items())


@pytest.mark.parametrize("seed", range(8))
def test_flipped_bits_are_one_to_eight_and_no_byte_is_added(spool: Path, seed: int) -> None:
    before = contents(spool)
    damage("flipped-bits", spool, random.Random(seed))
    after = contents(spool)
    assert {name: len(data) for name, data in after.items()} == {name: len(data) for name, data in before.items()}
    flipped = sum((a ^ b).bit_count() for name in before for a, b in zip(before[name], after[name], strict=True))
    assert 1 <= flipped <= 8


def test_a_wiped_spool_is_gone_and_damage_to_nothing_is_no_error(spool: Path) -> None:
    damage("wiped-spool", spool, random.Random(0))
    assert not spool.exists()
    for kind in ("wiped-spool", "torn-tail", "flipped-bits"):
        damage(kind, spool, random.Random(0))


def test_pairs_differ_by_epoch_and_number_and_are_made_again_alike() -> None:
    pairs = [make_pair(RIG, epoch * 32, seq, 7) for epoch in "ab" for seq in range(3)]
    assert len({pair.header.crc for pair in pairs}) == 6
    assert pairs[1] == make_pair(RIG, "a" * 32, 1, 7)


@pytest.fixture
def echo() -> Iterator[int]:
    """A port that sends back what it gets, and another one behind it that does not exist."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection = listener.accept()[0]
                except OSError:
                    return
                threading.Thread(target=echoes, args=(connection,), daemon=True).start()

        def echoes(connection: socket.socket) -> None:
            with connection:
                while data := connection.recv(1 << 16):
                    connection.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def reached(link: Link) -> socket.socket:
    """A connection through the link, waited for."""
    found: list[socket.socket] = []

    def connects() -> bool:
        try:
            found.append(socket.create_connection(("127.0.0.1", link.port), WAIT_S))
        except ConnectionRefusedError:
            return False
        return True

    until(connects)
    return found[0]


def test_a_link_forwards_counts_and_refuses_while_it_leads_nowhere_or_is_cut(echo: int) -> None:
    with closing(Link()) as link:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", link.port), WAIT_S)
        link.point_to(echo)
        with reached(link) as connection:
            connection.sendall(b"hello")
            assert connection.recv(5) == b"hello"
            assert link.forwarded_bytes == 10
            link.cut()
            assert connection.recv(5) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", link.port), WAIT_S)
        link.cut(-1)
        with reached(link) as connection:
            connection.sendall(b"again")
            assert connection.recv(5) == b"again"


def test_a_frozen_link_holds_everything_back_and_closes_nothing(echo: int) -> None:
    with closing(Link(bytes_per_s=1e6, buffer_bytes=1 << 16)) as link:
        link.point_to(echo)
        with reached(link) as connection:
            connection.sendall(b"before")
            assert connection.recv(6) == b"before"
            link.freeze()
            connection.sendall(b"after")
            connection.settimeout(0.2)
            with pytest.raises(TimeoutError):
                connection.recv(5)
            link.freeze(-1)
            connection.settimeout(WAIT_S)
            assert connection.recv(5) == b"after"


@pytest.fixture
def child(tmp_path: Path) -> Iterator[tuple[Supervised, list[str]]]:
    lines: list[str] = []
    process = Supervised("child", ["-c", CHILD], lines.append, tmp_path / "log")
    with closing(process):
        yield process, lines


def test_a_supervised_process_gets_orders_and_its_reports_arrive_up_to_its_kill(
    child: tuple[Supervised, list[str]],
) -> None:
    process, lines = child
    process.start()
    until(lambda: lines == ["here"])
    process.order("one")
    until(lambda: lines == ["here", "received one"])
    process.take_down()
    process.take_down()
    process.bring_up()
    assert process.pid is None
    process.bring_up()
    until(lambda: lines == ["here", "received one", "here"])
    assert process.end(60.0) == 0
    assert (process.starts, process.crashes) == (2, 0)


def test_a_stalled_process_does_nothing_until_it_is_resumed_as_often(child: tuple[Supervised, list[str]]) -> None:
    process, lines = child
    process.start()
    until(lambda: lines == ["here"])
    process.stall()
    process.stall()
    process.resume()
    process.order("late")
    assert process.pid is not None
    status = Path(f"/proc/{process.pid}/stat")
    until(lambda: status.read_text().rpartition(")")[2].split()[0] == "T")
    process.resume()
    until(lambda: lines == ["here", "received late"])


def test_a_process_that_ends_by_itself_is_counted_and_can_be_started_again(child: tuple[Supervised, list[str]]) -> None:
    process, lines = child
    process.start()
    until(lambda: lines == ["here"])
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: not process.check())
    assert process.crashes == 1
    process.start()
    until(lambda: lines == ["here", "here"])


def run(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    """The figures of a short run; what it kept on failure is named in the captured errors."""
    quick = ("--hold-s", "0.8", "--no-long", "--pairs-per-s", "200", "--runs", "0", "--recorders", "0", "--json")
    code = main(["faults", *quick, *flags])
    said = capsys.readouterr()
    assert said.out, said.err
    figures: dict[str, Any] = json.loads(said.out)
    assert (code, figures["failures"]) == (0, [])
    return figures


def test_nothing_is_lost_and_nothing_enters_twice_whatever_is_killed_or_cut(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--pairs", "1500", "--faults", "12", "--seed", "20", "--kinds", "harmless")
    figures = run(capsys, *flags, "--learners", "2", "--every-s", "0.25")
    assert figures["pairs"] >= 1500
    assert figures["lost_ranges"] == {"count": 0, "pairs": 0}
    assert (figures["lost"], figures["twice"], figures["unseen"]) == (0, 0, 0)
    assert sum(figures["faults"].values()) + figures["void"] == 12


def test_what_damage_costs_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ("torn-tail", "flipped-bits", "wiped-spool", "full-disk", "kill-learner")
    figures = run(capsys, "--pairs", "1000", "--faults", "8", "--seed", "21", "--every-s", "0.4", "--kinds", *kinds)
    assert (figures["lost"], figures["twice"]) == (0, 0)
    assert set(figures["faults"]) <= set(kinds)


def test_a_real_learner_and_a_real_recorder_beside_strangers_get_every_pair_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It takes longer than others, because torch is imported once and a learner is started several times."""
    kinds = ("kill-learner", "clock", "clock-learner", "copied-run", "strangers", "hostile-peer")
    consumers = ("--devices", "1", "--learners", "0", "--runs", "1", "--recorders", "1", "--pairs-per-s", "50")
    figures = run(capsys, "--pairs", "200", "--faults", "6", "--seed", "26", "--kinds", *kinds, *consumers)
    assert set(figures["consumers"]) == {"run0", "recorder0"}
    assert figures["lost_ranges"] == {"count": 0, "pairs": 0}


def test_without_a_file_system_of_its_own_a_full_disk_is_a_limit_to_the_size_of_files(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    flags = ("--pairs", "600", "--faults", "2", "--seed", "22", "--devices", "1", "--kinds", "full-disk")
    figures = run(capsys, *flags)
    assert "limit" in figures["full_disk"]
    assert figures["refused"] > 0


@pytest.mark.parametrize(
    "flags",
    [
        ("--kinds", "earthquake"),
        ("--pairs", "0"),
        ("--faults", "-1"),
        ("--pairs-per-s", "0"),
        ("--spool-mib", "0.1"),
        ("--learners", "0", "--runs", "0", "--recorders", "0"),
    ],
)
def test_settings_that_cannot_be_are_one_line_and_code_2(
    flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["faults", *flags]) == 2
    assert capsys.readouterr().err.count("\n") == 1
