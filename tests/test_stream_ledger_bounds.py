"""What a ledger refuses or forgets, so that impossible, stale and hostile messages cost neither pairs nor memory."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import pytest
from ledger_steps import EPOCHS, bye, gave, hello, here, lost, pulled, seqs, span, stored
from rig_model import pair

from stream.codec import from_parts, to_parts
from stream.errors import MalformedMessage
from stream.live.backfill_messages import PairsReply
from stream.live.books.epoch_book import MAX_DECLARED, MAX_SKIPPED
from stream.live.ledger import FORGOTTEN, Ledger

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
