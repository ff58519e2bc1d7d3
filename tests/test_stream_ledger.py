"""The ledger of what came: every pair enters once or is lost by name, whatever the network, the rig and the learner do."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rig_model import ACTIONS, World, pair

from stream.codec import from_parts, to_parts
from stream.errors import MalformedMessage
from stream.live.announcements import Bye, Hello
from stream.live.backfill_messages import PairsReply, Span, SpansReply, Vitals
from stream.live.books.device_book import GONE_S
from stream.live.books.epoch_book import MAX_DECLARED, MAX_SKIPPED, OWNER_SILENT_S
from stream.live.books.rig_state import SETTLED_S
from stream.live.ledger import FORGOTTEN, Ledger
from stream.pair import EncodedPair
from stream.source import Cursor

EPOCHS = tuple(letter * 32 for letter in "0123456789abcdef")
LATER_S = 100.0
HUGE = 1 << 62


def hello(next_seq: int, *, device: str = "baby", epoch: str = EPOCHS[0], backfill: bool = False) -> Hello:
    return Hello(device=device, epoch=epoch, next_seq=next_seq, backfill=backfill)


def bye(next_seq: int, *, device: str = "baby", epoch: str = EPOCHS[0], backfill: bool = False) -> Bye:
    return Bye(device=device, epoch=epoch, next_seq=next_seq, backfill=backfill)


def here(*spans: Span, device: str = "baby") -> SpansReply:
    return SpansReply(2, device, list(spans), 0, 0)


def span(tail: int, head: int, *, epoch: str = EPOCHS[0], goes_on: bool = True) -> Span:
    return Span(epoch, tail, head, goes_on)


def gave(
    first: int, upto: int, *, epoch: str = EPOCHS[0], device: str = "baby", without: tuple[int, ...] = ()
) -> PairsReply:
    return PairsReply(2, device, epoch, first, upto, [(seq, seq + 1) for seq in without if first <= seq < upto])


def pulled(ledger: Ledger, *, without: tuple[int, ...] = (), limit: int = 4) -> Iterator[EncodedPair]:
    """Everything that the spool at place 0 is asked for; it has all but these numbers."""
    while (wanted := ledger.next_request(0, limit, LATER_S, ())) is not None:
        epoch, first, last = wanted
        rows = [pair(seq, epoch=epoch) for seq in range(first, last) if seq not in without]
        yield from ledger.receive_pairs(gave(first, last, epoch=epoch, without=without), rows, 0)


def lost(ledger: Ledger, epoch: str = EPOCHS[0]) -> list[list[int]]:
    ranges: list[list[int]] = stored(ledger)["devices"]["baby"]["epochs"][epoch]["lost"]
    return ranges


def stored(ledger: Ledger) -> Cursor:
    """The cursor as it comes back from a store."""
    cursor: Cursor = json.loads(json.dumps(ledger.cursor()))
    return cursor


def seqs(pairs: list[EncodedPair] | Iterator[EncodedPair]) -> list[int]:
    return [one.header.seq for one in pairs]


actions = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 7)), max_size=80)


@settings(max_examples=500)
@given(st.booleans(), st.booleans(), actions)
def test_every_pair_enters_once_or_is_lost_by_name(spooled: bool, calm: bool, script: list[tuple[str, int]]) -> None:
    world = World(spooled=spooled, calm=calm)
    for action, number in script:
        world.act(action, number)
    world.settle()


@pytest.mark.parametrize("seed", range(8))
def test_every_pair_enters_once_or_is_lost_by_name_on_long_walks_too(seed: int) -> None:
    for walk in range(25):
        numbers = random.Random(1000 * seed + walk)
        world = World(spooled=numbers.random() < 0.8, calm=numbers.random() < 0.5)
        for _ in range(300):
            world.act(numbers.choice(ACTIONS), numbers.randrange(8))
        world.settle()


# A rig without a spool


def test_pairs_before_the_first_one_heard_of_are_not_lost() -> None:
    ledger = Ledger()
    ledger.receive_announcement(hello(100), 0.0)
    assert ledger.receive(pair(100), 5.0)
    device = ledger.stats().devices["baby"]
    assert (device.next_seq, device.received, device.lost, device.last_received_s) == (101, 1, 0, 5.0)


def test_without_a_spool_a_hole_is_lost_at_once_whether_a_pair_a_hello_or_the_bye_tells_it() -> None:
    ledger = Ledger()
    ledger.receive_announcement(hello(0), 0.0)
    ledger.receive(pair(0), 0.0)
    ledger.receive(pair(3), 0.0)
    assert ledger.stats().lost == 2
    ledger.receive_announcement(hello(10), 0.0)
    assert ledger.stats().lost == 2 + 6
    ledger.receive_announcement(bye(15), 0.0)
    assert ledger.stats().lost == 2 + 6 + 5
    assert lost(ledger) == [[1, 3], [4, 15]]
    assert ledger.stats().pending == 0


def test_a_bye_without_a_hello_says_as_well_that_there_is_no_spool() -> None:
    ledger = Ledger()
    ledger.receive(pair(0), 0.0)
    ledger.receive(pair(3), 0.0)
    assert (ledger.stats().lost, ledger.stats().pending) == (0, 2)
    ledger.receive_announcement(bye(4), 0.0)
    assert (ledger.stats().lost, ledger.stats().pending) == (2, 0)
    assert ledger.all_ended(1)


def test_a_new_epoch_is_counted_afresh_and_the_totals_go_on() -> None:
    ledger = Ledger()
    ledger.receive_announcement(hello(0), 0.0)
    for seq in (0, 5):
        ledger.receive(pair(seq, suppressed=2, junk=1), 0.0)
    ledger.receive_announcement(bye(6), 0.0)
    ledger.receive_announcement(hello(0, epoch=EPOCHS[1]), 0.0)
    assert ledger.receive(pair(0, epoch=EPOCHS[1], suppressed=2, junk=1), 0.0)
    stats = ledger.stats()
    device = stats.devices["baby"]
    assert (device.epoch, device.next_seq, device.ended) == (EPOCHS[1], 1, False)
    assert (device.lost, device.suppressed, device.junk, stats.received) == (4, 6, 3, 3)
    assert stats.bytes == 3 * len(b"leftright")


def test_two_devices_are_counted_apart() -> None:
    ledger = Ledger()
    for name in ("baby", "toddler"):
        ledger.receive_announcement(hello(0, device=name), 0.0)
    ledger.receive(pair(0), 0.0)
    ledger.receive(pair(0, device="toddler"), 0.0)
    ledger.receive(pair(1), 0.0)
    ledger.receive(pair(2, device="toddler"), 0.0)
    assert {name: device.lost for name, device in ledger.stats().devices.items()} == {"baby": 0, "toddler": 1}


def test_what_a_learner_had_in_its_queue_when_it_died_is_lost_where_nobody_can_be_asked() -> None:
    ledger = Ledger()
    ledger.receive_announcement(hello(0), 0.0)
    for seq in range(10):
        ledger.receive(pair(seq), 0.0)
    ledger.deliver([pair(seq) for seq in range(4)])
    for epoch in EPOCHS[:2]:  # the rig still runs; or it has started again meanwhile
        after = Ledger(stored(ledger))
        after.receive_announcement(hello(10 * (epoch == EPOCHS[0]), epoch=epoch), 0.0)
        assert (after.stats().received, lost(after), after.stats().pending) == (4, [[4, 10]], 0)


# A rig with a spool


def test_a_hole_is_pulled_oldest_first_and_is_not_asked_for_twice_at_a_time() -> None:
    ledger = Ledger()
    ledger.receive_announcement(hello(0, backfill=True), 0.0)
    for seq in (0, 9, 20):
        ledger.receive(pair(seq), 0.0)
    assert ledger.next_request(0, 4, LATER_S, ()) is None  # nobody has said yet that it has them
    ledger.receive_spans(here(span(0, 21)), 0, 1.0, 0)
    assert (ledger.stats().pending, ledger.stats().lost) == (18, 0)
    assert ledger.next_request(0, 4, LATER_S, ()) == (EPOCHS[0], 1, 5)
    assert ledger.next_request(0, 4, LATER_S, [(EPOCHS[0], 1, 5)]) == (EPOCHS[0], 5, 9)
    assert ledger.next_request(0, 4, LATER_S, [(EPOCHS[0], 5, 9), (EPOCHS[0], 1, 5)]) == (EPOCHS[0], 10, 14)
    assert ledger.next_request(1, 4, LATER_S, ()) is None
    assert seqs(pulled(ledger)) == [*range(1, 9), *range(10, 20)]
    assert (ledger.stats().pending, ledger.stats().lost, ledger.stats().received) == (0, 0, 21)


def test_what_may_be_on_its_way_is_asked_for_only_after_a_silence() -> None:
    ledger = Ledger()
    ledger.receive(pair(0), 0.0)
    ledger.receive(pair(2), 10.0)
    ledger.receive_spans(here(span(0, 5)), 0, 9.0, 0)
    assert ledger.next_request(0, 100, 10.0, ()) == (EPOCHS[0], 1, 2)
    assert ledger.next_request(0, 100, 10.0, [(EPOCHS[0], 1, 2)]) is None
    assert ledger.next_request(0, 100, 10.0 + SETTLED_S, [(EPOCHS[0], 1, 2)]) == (EPOCHS[0], 3, 5)


def test_what_the_spool_held_before_the_learner_came_is_pulled_and_what_was_gone_by_then_is_not_lost() -> None:
    ledger = Ledger()
    ledger.receive_announcement(hello(50, epoch=EPOCHS[1], backfill=True), 0.0)
    ledger.receive_spans(here(span(7, 9, goes_on=False), span(40, 50, epoch=EPOCHS[1])), 0, 1.0, 0)
    assert seqs(pulled(ledger, limit=100)) == [7, 8, *range(40, 50)]
    assert ledger.stats().lost == 0


def test_an_epoch_that_began_when_the_spool_was_known_is_the_learners_from_its_first_pair() -> None:
    ledger = Ledger()
    ledger.receive_spans(here(span(30, 40)), 0, 1.0, 0)
    after = Ledger(stored(ledger))  # while it was down, the rig made two epochs, and had to delete most of them
    after.receive_announcement(hello(50, epoch=EPOCHS[2], backfill=True), 0.0)
    spans = span(20, 20, epoch=EPOCHS[1], goes_on=False), span(45, 50, epoch=EPOCHS[2])
    after.receive_spans(here(*spans), 0, 1.0, 0)
    assert lost(after, EPOCHS[0]) == [[30, 40]]
    assert lost(after, EPOCHS[1]) == [[0, 20]]
    assert lost(after, EPOCHS[2]) == [[0, 45]]
    assert seqs(pulled(after)) == [45, 46, 47, 48, 49]


def test_what_was_evicted_before_it_could_be_pulled_is_lost() -> None:
    ledger = Ledger()
    ledger.receive_spans(here(span(0, 10)), 0, 1.0, 0)
    ledger.receive(pair(4), 1.0)
    ledger.receive_spans(here(span(6, 10)), 0, 2.0, 0)
    assert lost(ledger) == [[0, 4], [5, 6]]
    assert seqs(pulled(ledger)) == [6, 7, 8, 9]


def test_a_deleted_spool_loses_what_was_missing_once() -> None:
    ledger = Ledger()
    ledger.receive_spans(here(span(0, 10)), 0, 1.0, 0)
    ledger.receive(pair(4), 1.0)
    for asked_s in (2.0, 3.0, 4.0):
        ledger.receive_spans(here(span(0, 0, epoch=EPOCHS[1])), 0, asked_s, 0)
    assert (ledger.stats().lost, ledger.stats().pending) == (9, 0)
    assert lost(ledger) == [[0, 4], [5, 10]]


def test_a_spool_that_holds_nothing_at_all_loses_what_was_missing() -> None:
    ledger = Ledger()
    ledger.receive_spans(here(span(0, 10)), 0, 1.0, 0)
    ledger.receive_spans(here(), 0, 2.0, 0)
    assert (ledger.stats().lost, ledger.stats().pending) == (10, 0)


def test_a_power_cut_that_took_the_end_of_the_spool_loses_only_what_had_not_come_live() -> None:
    ledger = Ledger()
    ledger.receive_spans(here(span(0, 0)), 0, 0.0, 0)
    for seq in (0, 1, 2, 7, 9):
        ledger.receive(pair(seq), 1.0)
    ledger.receive_spans(here(span(0, 5, goes_on=False), span(0, 0, epoch=EPOCHS[1])), 0, 2.0, 0)
    assert lost(ledger) == [[5, 7], [8, 9]]
    assert seqs(pulled(ledger)) == [3, 4]


def test_what_a_spool_says_it_does_not_have_is_lost() -> None:
    ledger = Ledger()
    ledger.receive_spans(here(span(0, 10)), 0, 0.0, 0)
    assert seqs(pulled(ledger, without=(2, 3, 8))) == [0, 1, 4, 5, 6, 7, 9]
    assert lost(ledger) == [[2, 4], [8, 9]]
    assert ledger.stats().pending == 0


def test_an_answer_beyond_the_head_loses_nothing_that_is_still_to_be_made() -> None:
    ledger = Ledger()
    ledger.receive_spans(here(span(0, 4)), 0, 0.0, 0)
    ledger.receive_pairs(PairsReply(2, "baby", EPOCHS[0], 0, HUGE, [(0, HUGE)]), [], 0)
    assert ledger.stats().lost == 4
    assert ledger.receive(pair(4), 0.0)


def test_a_pair_that_comes_after_it_was_given_up_enters_and_is_no_longer_lost() -> None:
    ledger = Ledger()
    ledger.receive_announcement(hello(0), 0.0)
    ledger.receive(pair(5), 0.0)
    assert ledger.receive(pair(3), 0.0)
    assert not ledger.receive(pair(3), 0.0)
    assert lost(ledger) == [[0, 3], [4, 5]]
    stats = ledger.stats()
    assert (stats.received, stats.lost, stats.repeated) == (2, 4, 1)
    ledger.deliver([pair(3)])
    assert not Ledger(stored(ledger)).receive(pair(3), 0.0)  # also after a restart


def test_a_late_pair_that_died_in_the_queue_is_lost_again() -> None:
    ledger = Ledger()
    ledger.receive_announcement(hello(6), 0.0)
    ledger.receive_announcement(bye(10), 0.0)
    assert ledger.receive(pair(7), 0.0)
    after = Ledger(stored(ledger))
    assert (after.stats().lost, after.stats().pending) == (4, 0)  # nobody has it any more
    assert after.receive(pair(7), 0.0)


# Cursor and acknowledgement


def test_the_next_process_goes_on_behind_what_was_given_and_pulls_what_died_in_the_queue() -> None:
    ledger = Ledger()
    ledger.receive_spans(here(span(0, 6)), 0, 0.0, 0)
    pairs = list(pulled(ledger, without=(1,)))
    ledger.deliver(pairs[:3])
    after = Ledger(stored(ledger))
    assert (after.stats().received, after.stats().lost, after.stats().pending) == (3, 1, 2)
    after.receive_spans(here(span(0, 6)), 0, 0.0, 0)
    assert seqs(pulled(after)) == [4, 5]
    assert [after.receive(pair(seq), 0.0) for seq in range(4)] == [False, True, False, False]  # one was lost, and came


def test_the_counts_of_what_was_given_go_on_in_the_next_process_and_those_of_the_queue_do_not() -> None:
    ledger = Ledger()
    ledger.receive_announcement(hello(0), 0.0)
    pairs = [pair(seq, suppressed=3, junk=1, left_ns=9 - seq) for seq in range(4)]
    for one in (*pairs, pairs[0]):
        ledger.receive(one, 0.0)
    ledger.deliver(pairs[:2])
    device = Ledger(stored(ledger)).stats().devices["baby"]
    assert (device.received, device.suppressed, device.junk, device.repeated, device.clock_steps) == (2, 6, 2, 1, 3)


def test_a_cursor_is_json_and_comes_back_the_same() -> None:
    ledger = Ledger()
    ledger.receive_spans(here(span(2, 9), span(0, 4, epoch=EPOCHS[1])), 0, 0.0, 0)
    ledger.deliver(list(pulled(ledger, without=(3,))))
    assert stored(Ledger(stored(ledger))) == stored(ledger)


def test_a_commit_acknowledges_what_it_holds_without_a_hole_and_what_is_lost() -> None:
    ledger = Ledger()
    ledger.receive_spans(here(span(0, 8), span(0, 3, epoch=EPOCHS[1])), 0, 0.0, 0)
    ledger.deliver([one for one in pulled(ledger, without=(1,)) if one.header.seq not in (5, 2)])
    assert ledger.acknowledgement(ledger.cursor(), 0) == {EPOCHS[0]: 2, EPOCHS[1]: 2}
    assert ledger.acknowledgement(ledger.cursor(), 1) == {}


def test_a_commit_from_before_the_first_answer_acknowledges_nothing_that_the_spool_still_has_for_the_learner() -> None:
    ledger = Ledger()
    ledger.receive_announcement(hello(100, backfill=True), 0.0)
    pairs = [pair(seq) for seq in range(100, 110)]
    assert all(ledger.receive(one, 0.0) for one in pairs)
    ledger.deliver(pairs)
    cursor = ledger.cursor()
    ledger.receive_spans(here(span(20, 110)), 0, 1.0, 0)
    assert ledger.acknowledgement(cursor, 0) == {EPOCHS[0]: 20}
    ledger.deliver(list(pulled(ledger)))
    assert ledger.acknowledgement(ledger.cursor(), 0) == {EPOCHS[0]: 110}


def test_an_epoch_that_the_spool_no_longer_names_is_not_acknowledged_any_more() -> None:
    ledger = Ledger()
    ledger.receive_spans(here(span(0, 2), span(0, 2, epoch=EPOCHS[1])), 0, 0.0, 0)
    ledger.deliver(list(pulled(ledger)))
    ledger.receive_spans(here(span(0, 2, epoch=EPOCHS[1])), 0, 1.0, 0)
    assert ledger.acknowledgement(ledger.cursor(), 0) == {EPOCHS[1]: 2}


@pytest.mark.parametrize(
    "cursor",
    [
        {},
        {"given": 3},
        {"devices": {"../etc": {"epochs": {}, "counts": {}, "met": False}}},
        {
            "devices": {
                "baby": {"epochs": {"e": {"joined": 0, "head": 0, "done": [], "lost": [], "gone": False}}, "counts": {}}
            }
        },
        {"devices": {"baby": {"epochs": {}, "counts": {"received": -1}, "met": False}}},
        {"devices": {"baby": {"epochs": {}, "counts": {"received": 1 << 64}, "met": False}}},
    ],
)
def test_what_is_no_cursor_is_refused_in_one_line(cursor: Cursor) -> None:
    with pytest.raises(ValueError, match="not the cursor of a live stream") as caught:
        Ledger(cursor)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("done", "given_up"), [([[0, 9]], []), ([[0, 3]], [[2, 4]])])
def test_a_cursor_that_contradicts_itself_is_refused(done: list[list[int]], given_up: list[list[int]]) -> None:
    epochs = {EPOCHS[0]: {"joined": 0, "head": 5, "done": done, "lost": given_up, "gone": False}}
    with pytest.raises(ValueError, match="contradicts itself"):
        Ledger({"devices": {"baby": {"epochs": epochs, "counts": {}, "met": True}}})


# The end


def test_the_end_is_when_all_expected_devices_said_bye() -> None:
    ledger = Ledger()
    assert not ledger.all_ended(1)
    ledger.receive_announcement(bye(0), 0.0)
    assert ledger.all_ended(1)
    assert not ledger.all_ended(2)
    ledger.receive_announcement(hello(0, device="toddler"), 0.0)
    assert not ledger.all_ended(1)
    ledger.receive_announcement(bye(0, device="toddler"), 0.0)
    assert ledger.all_ended(2)


def test_the_end_is_not_before_the_spool_has_said_what_it_holds_and_all_of_that_came() -> None:
    ledger = Ledger()
    ledger.receive_announcement(hello(3, backfill=True), 0.0)
    ledger.receive_announcement(bye(3, backfill=True), 0.0)
    assert not ledger.all_ended(1)
    ledger.receive_spans(here(span(1, 3)), 0, 0.0, 0)
    assert not ledger.all_ended(1)
    assert seqs(pulled(ledger)) == [1, 2]
    assert ledger.all_ended(1)
    assert ledger.stats().devices["baby"].ended


def test_a_rig_that_crashed_has_not_ended_when_its_spool_is_back_before_its_live_stream() -> None:
    ledger = Ledger()
    ledger.receive_spans(here(span(0, 0)), 0, 0.0, 0)
    ledger.receive(pair(0), 0.0)
    ledger.receive_spans(here(span(0, 1, goes_on=False), span(0, 0, epoch=EPOCHS[1])), 0, 1.0, 0)
    assert not ledger.all_ended(1)
    ledger.receive_spans(here(span(0, 0, epoch=EPOCHS[2])), 0, 2.0, 0)  # and once more, with an empty spool
    assert not ledger.all_ended(1)


def test_a_rig_of_an_earlier_process_that_is_not_there_any_more_does_not_keep_the_stream_from_ending() -> None:
    ledger = Ledger()
    ledger.receive_announcement(hello(0, device="toddler"), 0.0)
    after = Ledger(stored(ledger))
    after.receive_announcement(bye(0), 0.0)
    assert after.all_ended(1)


def test_a_rig_that_said_bye_and_went_before_its_spool_was_heard_has_ended_after_a_while() -> None:
    ledger = Ledger()
    ledger.receive_announcement(hello(0, backfill=True), 0.0)
    assert ledger.receive(pair(0), 1.0)
    for heard_s in (2.0, 5.0):
        ledger.receive_announcement(bye(1, backfill=True), heard_s)
    assert not ledger.all_ended(1, 2.0 + GONE_S - 0.1)
    assert ledger.all_ended(1, 2.0 + GONE_S)
    ledger.receive_announcement(bye(2, backfill=True), 6.0)  # a pair is missing: its spool may come back with it
    assert not ledger.all_ended(1, 1000.0)


# Clocks and names


def test_a_clock_that_steps_back_between_two_pairs_is_counted() -> None:
    ledger = Ledger()
    for seq, left_ns in enumerate([50, 60, 40, 40, 70]):
        ledger.receive(pair(seq, left_ns=left_ns), 0.0)
    ledger.receive(pair(7, left_ns=10), 0.0)  # not the next one: it may be on its way after a restart of the clock
    assert ledger.stats().devices["baby"].clock_steps == 1


def test_the_offset_of_the_clocks_is_known_to_half_the_time_the_question_took() -> None:
    ledger = Ledger()
    ledger.receive_spans(SpansReply(2, "baby", [span(0, 0)], 1000, 5600), 0, 0.0, 1200)
    device = ledger.stats().devices["baby"]
    assert (device.clock_offset_ns, device.clock_error_ns) == (4500, 100)


def test_how_a_rig_is_is_what_it_said_last() -> None:
    ledger = Ledger()
    for charge in (0.5, 0.4):
        ledger.receive_spans(
            SpansReply(2, "baby", [span(0, 0)], 0, 0, Vitals(battery=charge, temperature_c=55.0)), 0, 0.0, 0
        )
    device = ledger.stats().devices["baby"]
    assert (device.battery, device.temperature_c) == (0.4, 55.0)
    ledger.receive_spans(SpansReply(2, "baby", [span(0, 0)], 0, 0), 0, 0.0, 0)
    assert ledger.stats().devices["baby"].battery is None


def test_two_devices_of_one_name_hide_no_loss_and_are_told_to_take_names(caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger()
    for epoch in EPOCHS[:2]:
        ledger.receive_announcement(hello(0, epoch=epoch), 0.0)
    for seq in range(0, 100, 10):
        for epoch in EPOCHS[:2]:
            assert ledger.receive(pair(seq, epoch=epoch), 0.0)
    assert not ledger.receive(pair(0, epoch=EPOCHS[0]), 0.0)
    stats = ledger.stats()
    assert (stats.received, stats.lost, stats.repeated) == (20, 2 * 81, 1)
    assert caplog.text.count("two devices are named") == 1


def test_two_rigs_of_one_name_with_a_spool_each_do_not_lose_each_others_pairs() -> None:
    ledger = Ledger()
    for asked_s in (1.0, 2.0, 3.0):
        for place in (0, 1):
            ledger.receive_spans(here(span(0, 4, epoch=EPOCHS[place])), place, asked_s, 0)
    assert (ledger.stats().pending, ledger.stats().lost) == (8, 0)
    assert ledger.next_request(0, 9, LATER_S, ()) == (EPOCHS[0], 0, 4)
    assert ledger.next_request(1, 9, LATER_S, ()) == (EPOCHS[1], 0, 4)


# Who may say that a pair is lost


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(st.sampled_from(("hello", "bye", "here", "pair", "gave", "restart")), st.integers(0, 3)), max_size=40
    )
)
def test_another_rig_of_the_same_name_takes_nothing_away_that_a_spool_still_has(script: list[tuple[str, int]]) -> None:
    """Endpoint 0 has a spool with epoch 0 and is not always there; endpoint 1 says what it likes about its own epochs."""
    ledger = Ledger(endpoints=2)
    ledger.receive_spans(here(span(0, 9, goes_on=False)), 0, 0.0, 0)
    for now_s, (said, number) in enumerate(script, 1):
        epoch = EPOCHS[1 + number]
        match said:
            case "hello" | "bye":
                announced = hello if said == "hello" else bye
                ledger.receive_announcement(announced(number, epoch=epoch, backfill=number > 1), now_s, 1)
            case "here":
                ledger.receive_spans(here(span(0, 1 + number, epoch=epoch)), 1, float(now_s), 0)
            case "pair":
                ledger.receive(pair(number, epoch=epoch), now_s, 1)
            case "gave":
                with suppress(MalformedMessage):
                    ledger.receive_pairs(gave(0, 9, without=tuple(range(9))), [], 1)
            case "restart":
                ledger = Ledger(stored(ledger), endpoints=2)
                ledger.receive_spans(here(span(0, 1, epoch=EPOCHS[9])), 1, float(now_s), 0)
    assert lost(ledger) == []
    ledger.receive_spans(here(span(0, 9, goes_on=False)), 0, 1000.0, 0)
    assert ledger.next_request(0, 9, 2000.0, ()) == (EPOCHS[0], 0, 9)


def test_after_a_restart_an_epoch_that_nobody_names_is_lost_once_every_endpoint_was_heard() -> None:
    ledger = Ledger(endpoints=2)
    ledger.receive_spans(here(span(0, 9)), 0, 0.0, 0)
    after = Ledger(stored(ledger), endpoints=2)
    for asked_s in (1.0, 2.0):
        after.receive_spans(here(span(0, 1, epoch=EPOCHS[1])), 0, asked_s, 0)
        assert lost(after) == []
    after.receive_announcement(hello(0, device="toddler", epoch=EPOCHS[2]), 3.0, 1)
    after.receive_spans(here(span(0, 1, epoch=EPOCHS[1])), 0, 4.0, 0)
    assert lost(after) == [[0, 9]]


def test_a_rig_without_a_spool_never_loses_what_a_spool_of_its_name_has_had() -> None:
    ledger = Ledger()
    ledger.receive_spans(here(span(0, 9)), 0, 0.0, 0)
    after = Ledger(stored(ledger))
    after.receive_announcement(hello(5), 1.0)  # of the very epoch
    after.receive_announcement(hello(0, epoch=EPOCHS[1]), 1.0)
    assert (after.stats().lost, after.stats().pending) == (0, 9)
    after.receive_spans(here(span(0, 9)), 0, 2.0, 0)
    assert seqs(pulled(after)) == list(range(9))


def test_a_rig_that_is_reached_by_two_addresses_stays_with_the_first_until_that_one_is_silent() -> None:
    ledger = Ledger(endpoints=2)
    ledger.receive_spans(here(span(0, 4)), 0, 0.0, 0)
    ledger.receive_spans(here(span(0, 4)), 1, 1.0, 0)
    assert ledger.next_request(0, 9, 1.0, ()) == (EPOCHS[0], 0, 4)
    assert ledger.next_request(1, 9, 1.0, ()) is None
    ledger.receive_spans(here(span(1, 4)), 1, OWNER_SILENT_S, 0)
    assert ledger.next_request(1, 9, LATER_S, ()) == (EPOCHS[0], 1, 4)
    assert lost(ledger) == [[0, 1]]


def test_two_spools_of_one_name_are_told_to_take_names(caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger(endpoints=2)
    for asked_s in range(4):
        for place in (0, 1):
            ledger.receive_spans(here(span(0, 4, epoch=EPOCHS[place])), place, float(asked_s), 0)
    assert caplog.text.count("two devices are named baby") == 1


# Epochs that a rig has freed, and names with their heads


def freed(head: int, *, epoch: str) -> Span:
    return span(head, head, epoch=epoch, goes_on=False)


@settings(max_examples=100)
@given(
    st.integers(0, 3),
    st.lists(st.integers(0, 9), min_size=8, max_size=8),
    st.booleans(),
    st.integers(0, 7),
    st.lists(st.integers(0, 7), max_size=6),
)
def test_what_was_freed_meanwhile_is_lost_once_and_what_was_freed_before_the_first_contact_is_not(
    contact: int, heads: list[int], heard_live: bool, later: int, restarts: list[int]
) -> None:
    """A rig has eight epochs. The consumer comes in one of them, leaves, and comes again when the later ones are freed."""
    ledger, first = Ledger(), EPOCHS[contact]
    if heard_live:
        ledger.receive_announcement(hello(heads[contact], epoch=first, backfill=True), 0.0)
    else:
        known = [freed(heads[number], epoch=EPOCHS[number]) for number in range(contact)]
        ledger.receive_spans(here(*known, span(heads[contact], heads[contact], epoch=first)), 0, 0.0, 0)
    ledger = Ledger(stored(ledger))
    if later > contact:
        ledger.receive_announcement(hello(heads[later], epoch=EPOCHS[later], backfill=True), 0.5)
    spans = [freed(head + 5 * (number == contact), epoch=EPOCHS[number]) for number, head in enumerate(heads)]
    for asked_s in range(1, 8):
        ledger.receive_spans(here(*spans, span(0, 0, epoch=EPOCHS[8])), 0, float(asked_s), 0)
        if asked_s in restarts:
            ledger = Ledger(stored(ledger))
    expected: list[list[list[int]]] = [[]] * contact + [[[heads[contact], heads[contact] + 5]]]
    expected += [[[0, head]] if head else [] for head in heads[contact + 1 :]]
    assert [lost(ledger, epoch) for epoch in EPOCHS[contact:8]] == expected[contact:]
    assert ledger.stats().lost == 5 + sum(heads[contact + 1 :])


def test_a_cursor_whose_epochs_the_spool_does_not_name_any_more_counts_everything_that_it_names() -> None:
    ledger = Ledger()
    ledger.receive_announcement(hello(0, backfill=True), 0.0)
    after = Ledger(stored(ledger))
    after.receive_spans(here(freed(7, epoch=EPOCHS[1]), span(2, 3, epoch=EPOCHS[2])), 0, 1.0, 0)
    assert (lost(after, EPOCHS[1]), lost(after, EPOCHS[2])) == ([[0, 7]], [[0, 2]])


@pytest.mark.parametrize("heard_live", [False, True])
def test_a_cursor_from_before_the_first_contact_counts_what_the_rig_has_kept_for_it_since(heard_live: bool) -> None:
    """The rig had one epoch that it had freed, and two pairs of the next one in its spool, when the consumer came."""
    ledger = Ledger(stored(Ledger()))
    if heard_live:
        ledger.receive_announcement(hello(4, epoch=EPOCHS[3], backfill=True), 0.5)
    spans = [
        freed(7, epoch=EPOCHS[0]),
        freed(9, epoch=EPOCHS[1]),
        freed(5, epoch=EPOCHS[2]),
        span(2, 4, epoch=EPOCHS[3]),
    ]
    reply = msgspec.structs.replace(here(*spans), kept_from={EPOCHS[0]: 7, EPOCHS[1]: 3})
    for asked_s in (1.0, 2.0):
        ledger.receive_spans(reply, 0, asked_s, 0)
    assert [lost(ledger, epoch) for epoch in EPOCHS[:4]] == [[], [[3, 9]], [[0, 5]], [[0, 2]]]
    again = Ledger(stored(ledger))
    again.receive_spans(msgspec.structs.replace(reply, kept_from={}), 0, 3.0, 0)  # it has met the rig by now
    assert again.stats().lost == ledger.stats().lost == 13


def test_an_epoch_heard_halfway_that_the_rig_has_lost_is_counted_from_where_the_rig_kept_it_for_this_consumer() -> None:
    """A consumer back from before the first contact heard two epochs from pair 5 on; then an old spool was restored."""
    for kept_from, expected in ((None, [[[5, 7]], [[5, 7]]]), ({EPOCHS[0]: 2}, [[[2, 7]], [[0, 7]]])):
        ledger = Ledger()
        for epoch in EPOCHS[:2]:
            ledger.receive_announcement(hello(5, epoch=epoch, backfill=True), 0.0)
            ledger.receive_announcement(hello(7, epoch=epoch, backfill=True), 0.0)
        reply = msgspec.structs.replace(here(span(0, 0, epoch=EPOCHS[2])), kept_from=kept_from)
        ledger.receive_spans(reply, 0, 1.0, 0)
        assert [lost(ledger, epoch) for epoch in EPOCHS[:2]] == expected


# Numbers that cannot be


def test_an_announcement_declares_no_more_pairs_than_a_rig_can_have_made() -> None:
    for spooled, announced in ((False, hello), (False, bye), (True, hello), (True, bye)):
        ledger = Ledger()
        ledger.receive(pair(0), 0.0)
        with pytest.raises(MalformedMessage, match="not believed"):
            ledger.receive_announcement(announced(MAX_DECLARED + 2, backfill=spooled), 1.0)
        assert (ledger.stats().lost, ledger.stats().pending) == (0, 0)
        for _ in range(3):
            ledger.receive_announcement(announced(MAX_DECLARED + 1, backfill=spooled), 1.0)
        assert ledger.stats().lost + ledger.stats().pending == MAX_DECLARED
        with pytest.raises(MalformedMessage, match="not believed"):  # one declaration does not prove the next one
            ledger.receive_announcement(announced(MAX_DECLARED + 2, backfill=spooled), 1.0)


def test_a_pair_proves_more_than_an_announcement_but_not_everything() -> None:
    ledger = Ledger()
    ledger.receive_announcement(hello(0), 0.0)
    assert ledger.receive(pair(MAX_DECLARED + 7), 1.0)
    assert ledger.stats().lost == MAX_DECLARED + 7
    with pytest.raises(MalformedMessage, match="not believed"):
        ledger.receive(pair(MAX_DECLARED + MAX_SKIPPED + 9), 1.0)
    assert ledger.receive(pair(MAX_DECLARED + 8), 1.0)


# Pairs that the learner cannot use


def test_a_pair_that_the_learner_cannot_use_is_lost_by_name_also_in_the_next_process() -> None:
    ledger = Ledger()
    ledger.receive_spans(here(span(0, 3)), 0, 0.0, 0)
    pairs = list(pulled(ledger))
    ledger.deliver(pairs)
    for _ in range(2):
        ledger.spoil(pairs[1].header)
    for one in (ledger, Ledger(stored(ledger))):
        assert (lost(one), one.stats().lost, one.stats().pending) == ([[1, 2]], 1, 0)
    assert ledger.acknowledgement(ledger.cursor(), 0) == {EPOCHS[0]: 3}


# Stale, foreign and hostile answers


def test_an_answer_from_before_an_epoch_was_heard_of_does_not_lose_it() -> None:
    ledger = Ledger()
    ledger.receive(pair(0, epoch=EPOCHS[1]), 5.0)
    ledger.receive(pair(3, epoch=EPOCHS[1]), 5.0)
    ledger.receive_spans(here(span(0, 4)), 0, 4.0, 0)
    assert (ledger.stats().lost, ledger.stats().devices["baby"].epoch) == (0, EPOCHS[1])
    ledger.receive_spans(here(span(0, 4)), 0, 6.0, 0)
    assert ledger.stats().lost == 2


def test_an_old_answer_changes_nothing() -> None:
    ledger = Ledger()
    ledger.receive_spans(here(span(2, 9)), 0, 5.0, 0)
    assert seqs(pulled(ledger)) == [2, 3, 4, 5, 6, 7, 8]
    before = ledger.stats()
    ledger.receive_spans(here(span(2, 4)), 0, 1.0, 0)
    assert ledger.receive_pairs(gave(4, 6), [pair(4), pair(5)], 0) == []
    after = ledger.stats()
    assert (after.received, after.lost, after.pending) == (before.received, before.lost, before.pending) == (7, 0, 0)
    assert after.repeated == 2


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        (gave(0, 5, epoch=EPOCHS[3]), 0),
        (gave(0, 5, device="nobody"), 0),
        (gave(0, 5, device="toddler"), 0),  # another rig's pairs are not its to lose
        (gave(0, 5), 1),
        (gave(0, 5), 2),
    ],
)
def test_an_answer_that_nobody_can_have_asked_for_is_refused(answer: PairsReply, place: int) -> None:
    ledger = Ledger()
    ledger.receive_spans(here(span(0, 5)), 0, 0.0, 0)
    ledger.receive_spans(here(span(0, 5), device="toddler"), 1, 0.0, 0)
    with pytest.raises(MalformedMessage, match="was not requested"):
        ledger.receive_pairs(answer, [], place)
    assert (ledger.stats().lost, ledger.stats().pending) == (0, 10)


def test_names_without_end_do_not_take_memory_without_end() -> None:
    ledger = Ledger(max_devices=16)
    assert ledger.receive(pair(0), 0.0)
    for number in range(200):
        ledger.receive_announcement(hello(7, device=f"d{number}"), 0.0)
        ledger.receive_announcement(hello(9, device=f"d{number}"), 0.0)
    devices = ledger.cursor()["devices"]
    assert len(devices) <= 16
    assert {"baby", "d199"} <= devices.keys()
    for one in (ledger, Ledger(stored(ledger), max_devices=16)):
        assert one.stats().lost == 400
        assert one.stats().devices[FORGOTTEN].lost > 0


def test_a_device_whose_pairs_wait_to_be_given_is_not_forgotten() -> None:
    ledger = Ledger(max_devices=4)
    waiting = [pair(0, device=f"d{number}") for number in range(4)]
    assert all(ledger.receive(one, 0.0) for one in waiting)
    with pytest.raises(MalformedMessage, match="more than 4 devices"):
        ledger.receive(pair(0), 0.0)
    ledger.deliver(waiting)


def test_a_rig_that_starts_and_dies_for_weeks_is_followed_for_ever() -> None:
    for spooled in (True, False):
        ledger = Ledger(max_epochs=16)
        for run in range(200):
            epoch = f"{run:032x}"
            ledger.receive_announcement(hello(0, epoch=epoch, backfill=spooled), float(run))
            if spooled:
                ledger.receive_spans(here(span(0, 0, epoch=epoch)), 0, run + 0.5, 0)
            assert ledger.receive(pair(1, epoch=epoch), run + 0.6)
            ledger.deliver([pair(1, epoch=epoch)])
            ledger = Ledger(stored(ledger), max_epochs=16) if run % 50 == 49 else ledger
        stats = ledger.stats()
        assert len(ledger.cursor()["devices"]["baby"]["epochs"]) <= 16
        assert (stats.received, stats.lost + stats.pending) == (200, 200)


def test_a_rig_that_starts_and_dies_before_its_spool_can_be_reached_is_followed_for_ever() -> None:
    ledger = Ledger(max_epochs=8)
    for epoch in EPOCHS[:9]:
        ledger.receive_announcement(hello(0, epoch=epoch, backfill=True), 0.0)
    ledger.receive_spans(here(span(0, 3, epoch=EPOCHS[8])), 0, 1.0, 0)
    assert seqs(pulled(ledger)) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["hellos", "hellos without a spool", "pairs", "answers", "given answers"])
@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("names", [1, 20, 400])
def test_an_endpoint_that_named_epochs_without_end_does_not_shut_out_another_rig(
    kind: str, restarts: bool, names: int
) -> None:
    """Endpoint 1 lies; endpoint 0 has a rig from before, and another one that is new."""
    limited = partial(Ledger, endpoints=2, max_epochs=64, max_devices=32)
    ledger = limited()
    ledger.receive_spans(here(span(0, 5)), 0, 0.0, 0)
    ledger.deliver(list(pulled(ledger))[:3])
    for number in range(400):
        device, epoch = f"evil{number % names}", f"{1000 + number:032x}"
        with suppress(MalformedMessage):
            match kind:
                case "pairs":
                    one = pair(number, device=device, epoch=epoch)
                    ledger.deliver([one] * ledger.receive(one, 1.0, 1))
                case "answers" | "given answers":
                    ledger.receive_spans(here(span(0, 9, epoch=epoch), device=device), 1, float(number), 0)
                    if kind == "given answers":
                        one = pair(0, device=device, epoch=epoch)
                        ledger.deliver(ledger.receive_pairs(gave(0, 1, device=device, epoch=epoch), [one], 1))
                case _:
                    spooled = kind == "hellos"
                    ledger.receive_announcement(hello(5, device=device, epoch=epoch, backfill=spooled), 1.0, 1)
    lost_before = ledger.stats().lost
    if restarts:
        ledger = limited(stored(ledger))
        with suppress(MalformedMessage):  # nothing is forgotten of what may belong to a rig that was not heard yet
            ledger.receive_announcement(hello(0, device="other", epoch=EPOCHS[9]), 600.0, 1)
    assert ledger.stats().lost >= lost_before  # what is forgotten stays counted
    for number in range(3):
        epoch = EPOCHS[1 + number]
        ledger.receive_spans(here(span(0, 5), span(0, 4, epoch=epoch), device="baby"), 0, 1000.0 + number, 0)
        ledger.receive_announcement(hello(0, device="toddler", epoch=epoch), 1000.0, 0)
        one = pair(0, device="toddler", epoch=epoch)
        assert ledger.receive(one, 1000.0, 0)
        ledger.deliver([one])
    assert len(ledger.cursor()["devices"]) <= 32
    again = [one for one in pulled(ledger) if one.header.epoch == EPOCHS[0]]
    assert seqs(again) == ([3, 4] if restarts else [])  # nothing twice, and what died in the queue once more
    assert lost(ledger) == []


def test_an_epoch_that_can_still_be_asked_for_is_never_forgotten() -> None:
    ledger = Ledger(max_epochs=8)
    spans = [span(0, 1, epoch=epoch, goes_on=False) for epoch in EPOCHS[:8]]
    ledger.receive_spans(here(*spans), 0, 0.0, 0)
    ledger.deliver(list(pulled(ledger)))
    with pytest.raises(MalformedMessage, match="more than 8 epochs"):
        ledger.receive_announcement(hello(0, epoch=EPOCHS[8]), 0.0)
    assert list(pulled(ledger)) == []
    ledger.receive_spans(here(*spans[1:]), 0, 1.0, 0)
    ledger.receive_announcement(hello(0, epoch=EPOCHS[8]), 0.0)


def test_an_epoch_whose_pairs_still_wait_to_be_given_is_not_forgotten() -> None:
    ledger = Ledger(max_epochs=4)
    ledger.receive_spans(here(*[span(0, 1, epoch=epoch) for epoch in EPOCHS[:4]]), 0, 0.0, 0)
    waiting = list(pulled(ledger))
    ledger.receive_spans(here(span(0, 1, epoch=EPOCHS[3])), 0, 1.0, 0)
    with pytest.raises(MalformedMessage, match="more than 4 epochs"):
        ledger.receive_announcement(hello(0, epoch=EPOCHS[4]), 2.0)
    ledger.deliver(waiting)
    ledger.receive_announcement(hello(0, epoch=EPOCHS[4]), 2.0)
    assert ledger.stats().received == 4


def test_an_account_with_too_many_holes_leaves_live_pairs_out_and_has_all_of_them_in_the_end() -> None:
    ledger = Ledger(max_ranges=16)
    entered = [seq for seq in range(1, 401, 2) if ledger.receive(pair(seq), 0.0)]
    assert entered == list(range(1, 33, 2))
    ledger.receive_spans(here(span(0, 401)), 0, 1.0, 0)
    assert len(ledger.cursor()["devices"]["baby"]["epochs"][EPOCHS[0]]["done"]) == 0
    assert sorted([*entered, *seqs(pulled(ledger))]) == list(range(401))
    assert (ledger.stats().lost, ledger.stats().pending) == (0, 0)


def test_a_rig_without_a_spool_is_followed_also_when_another_one_has_left_too_many_holes() -> None:
    ledger = Ledger(max_ranges=16)
    for seq in range(1, 99, 2):
        ledger.receive(pair(seq), 0.0)
    ledger.receive_announcement(hello(0, device="toddler"), 0.0)
    assert all(ledger.receive(pair(seq, device="toddler"), 0.0) for seq in range(0, 60, 3))
    assert ledger.stats().devices["toddler"].lost == 38


def test_answers_that_jump_about_do_not_take_memory_without_end() -> None:
    ledger = Ledger(max_ranges=16)
    ledger.receive_spans(here(span(0, 1000)), 0, 0.0, 0)
    for seq in range(1, 33, 2):
        ledger.receive_pairs(gave(seq, seq + 1), [pair(seq)], 0)
    with pytest.raises(MalformedMessage, match="too many holes"):
        ledger.receive_pairs(gave(40, 41), [pair(40)], 0)
    assert ledger.stats().received == 16


def test_of_too_many_losses_the_oldest_are_only_counted() -> None:
    ledger = Ledger(max_ranges=16)
    ledger.receive_announcement(hello(0), 0.0)
    for seq in range(0, 200, 2):
        ledger.receive(pair(seq), 0.0)
    assert lost(ledger) == [[seq, seq + 1] for seq in range(167, 199, 2)]
    assert ledger.stats().lost == 99
    assert not ledger.receive(pair(1), 0.0)
    assert ledger.receive(pair(197), 0.0)
    assert ledger.stats().lost == 98


def test_late_pairs_do_not_make_more_losses_than_are_remembered() -> None:
    ledger = Ledger(max_ranges=16)
    ledger.receive_announcement(hello(0), 0.0)
    ledger.receive_announcement(bye(MAX_DECLARED), 0.0)
    late = [pair(seq) for seq in range(1, 401, 2) if ledger.receive(pair(seq), 0.0)]
    ledger.deliver(late)
    assert len(lost(ledger)) <= 16


def test_numbers_without_end_leave_a_cursor_that_can_be_read_again() -> None:
    ledger = Ledger()
    top = (1 << 63) - 1
    spans = [span(0, top, epoch=epoch, goes_on=False) for epoch in EPOCHS]
    ledger.receive_spans(here(*spans), 0, 0.0, 0)
    one = pair(top - 1, suppressed=top, junk=top)
    assert ledger.receive(one, 0.0)
    assert ledger.receive(pair(top - 2, suppressed=top), 0.0)
    ledger.deliver([one])
    ledger.receive_spans(here(), 0, 1.0, 0)
    after = Ledger(stored(ledger))
    assert after.acknowledgement(stored(ledger), 0) == {}
    assert ledger.stats().lost == 16 * top - 2
    with pytest.raises(MalformedMessage, match="header"):
        from_parts(to_parts(pair(top)))
