"""The ledger of one rig: every pair enters once or is lost by name, whatever arrives in which order."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_steps import EPOCHS, LATER_S, bye, hello, here, lost, pulled, seqs, span, stored
from rig_model import ACTIONS, World, pair

from stream.live.backfill_messages import PairsReply, SpansReply, Vitals
from stream.live.books.device_book import GONE_S
from stream.live.books.rig_state import SETTLED_S
from stream.live.ledger import Ledger
from stream.source import Cursor

HUGE = 1 << 62


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
