"""Who may say that pairs are lost: two rigs of one name, two addresses of one rig, and epochs that a rig has freed."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_steps import EPOCHS, LATER_S, bye, gave, hello, here, lost, pulled, seqs, span, stored
from rig_model import pair

from stream.errors import MalformedMessage
from stream.live.backfill_messages import Span
from stream.live.books.epoch_book import OWNER_SILENT_S
from stream.live.ledger import Ledger

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
