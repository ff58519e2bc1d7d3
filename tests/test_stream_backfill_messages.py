"""The messages of the second socket: what is sent comes back, and what is none is refused."""

from __future__ import annotations

import math

import pytest
from backfill_steps import (
    EPOCH,
    TOP,
    WRONG_QUESTIONS,
    body,
    bounds,
    epochs,
    make_pairs,
    names,
    parts,
    questions,
    rows,
    seqs,
    vitals,
)
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import MalformedMessage
from stream.image import MAX_EYE_BYTES
from stream.live.backfill_messages import (
    MAX_EPOCHS,
    MAX_LOST_RANGES,
    MAX_ROWS,
    AckReply,
    PairsReply,
    Reply,
    Request,
    Span,
    SpansReply,
    SpansRequest,
    Vitals,
    decode_reply,
    decode_request,
    encode_message,
)

spans = st.builds(lambda epoch, of, goes_on: Span(epoch, of[0], of[1], goes_on), epochs, bounds, st.booleans())

answers: st.SearchStrategy[Reply] = st.one_of(
    st.builds(SpansReply, st.just(2), names, st.lists(spans, max_size=5), seqs, seqs, vitals),
    st.builds(
        lambda name, epoch, of: PairsReply(2, name, epoch, of[0], of[1], [(of[0], of[1])]), names, epochs, bounds
    ),
    st.builds(AckReply, st.just(2), names, seqs),
)


@given(questions, answers)
def test_questions_and_answers_come_back_as_they_were_sent(question: Request, answer: Reply) -> None:
    assert decode_request([encode_message(question)]) == question
    assert decode_reply([encode_message(answer)]) == (answer, [])


def test_the_rows_of_an_answer_come_back_in_order() -> None:
    given_rows = rows(make_pairs(3, 6))
    gave = PairsReply(2, "baby", EPOCH, 3, 6, [])
    assert decode_reply(parts(gave, given_rows)) == (gave, given_rows)


GAVE = PairsReply(2, "baby", EPOCH, 3, 6, [])

ROW = rows(make_pairs(3, 4))[0]

WRONG_ANSWERS = {
    "no part": [],
    "a row without its right eye": [encode_message(GAVE), b"", b""],
    "too many rows": [encode_message(GAVE)] + [b""] * 3 * (MAX_ROWS + 1),
    "a row too large": [encode_message(GAVE), b"", bytes(MAX_EYE_BYTES + 1), b""],
    "rows behind another answer": parts(AckReply(2, "baby", 0), [ROW]),
    "a question": [encode_message(SpansRequest(2, "me", 0))],
    "a range that goes back": body("gave", 2, "baby", EPOCH, 6, 3, []),
    "lost before the range": body("gave", 2, "baby", EPOCH, 3, 6, [[2, 4]]),
    "lost behind the range": body("gave", 2, "baby", EPOCH, 3, 6, [[5, 7]]),
    "lost backwards": body("gave", 2, "baby", EPOCH, 3, 6, [[5, 4]]),
    "too much lost": body("gave", 2, "baby", EPOCH, 0, TOP, [[2 * n, 2 * n + 1] for n in range(MAX_LOST_RANGES + 1)]),
    "a tail beyond the head": body("here", 2, "baby", [[EPOCH, 5, 4, True]], 0, 0),
    "too many spans": body("here", 2, "baby", [[EPOCH, 0, 0, True]] * (MAX_EPOCHS + 1), 0, 0),
    "a device without a name": body("here", 2, "", [], 0, 0),
    "a battery above full": body("here", 2, "baby", [], 0, 0, [1.1, None]),
    "a battery that is no number": body("here", 2, "baby", [], 0, 0, [math.nan, None]),
    "a temperature that is no number": body("here", 2, "baby", [], 0, 0, [None, math.nan]),
    "a temperature of no rig": body("here", 2, "baby", [], 0, 0, [None, 1e9]),
}


@pytest.mark.parametrize("case", WRONG_QUESTIONS)
def test_a_question_that_is_none_is_refused(case: str) -> None:
    with pytest.raises(MalformedMessage):
        decode_request(WRONG_QUESTIONS[case])


@pytest.mark.parametrize("case", WRONG_ANSWERS)
def test_an_answer_that_is_none_is_refused(case: str) -> None:
    with pytest.raises(MalformedMessage):
        decode_reply(WRONG_ANSWERS[case])


def test_a_rig_that_says_nothing_of_battery_and_temperature_is_understood() -> None:
    answer, _ = decode_reply(body("here", 2, "baby", [], 5, 6))
    assert answer == SpansReply(2, "baby", [], 5, 6, Vitals(battery=None, temperature_c=None))


def test_what_a_newer_rig_tells_beyond_is_passed_over() -> None:
    answer, _ = decode_reply(body("here", 2, "baby", [], 5, 6, [0.5, None, "news"], False, {EPOCH: 7}, "more of it"))
    assert answer == SpansReply(2, "baby", [], 5, 6, Vitals(battery=0.5), kept=False, kept_from={EPOCH: 7})
