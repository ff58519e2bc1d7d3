"""A batch that does not fit is refused before a run begins, with the size that would."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_learner import FLAGS, TINY, tiny_learner

from learner.__main__ import PROGRAM
from learner.cli import compose
from learner.cli.settings import ProcessConfig, TrainSettings
from learner.distributed.collectives import process_of
from learner.errors import SettingsError
from learner.footprint import free_bytes, pair_bytes, require_room
from learner.loop import Learner
from learner.memory.holdout import CAPACITY
from learner.objectives.babyagent import BabyAgentConfig
from stream.host.program import Stop

pytestmark = pytest.mark.usefixtures("one_thread")

MIB = 1 << 20


def learner_of(batch_size: int) -> Learner:
    memory = dataclasses.replace(TINY.memory, fresh_capacity=max(batch_size, 16))
    return tiny_learner(
        dataclasses.replace(TINY, memory=memory, pacing=dataclasses.replace(TINY.pacing, batch_size=batch_size))
    )


GREEDY = learner_of(4096)


def refusal(learner: Learner, room_bytes: int) -> str:
    with pytest.raises(SettingsError) as caught:
        require_room(learner.trainer, learner.memory.slots.nbytes, room_bytes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@given(st.integers(40, 200))
def test_the_size_that_is_named_takes_most_of_the_room_and_not_more(mib: int) -> None:
    named = re.search(r"lower --pacing\.batch-size to (\d+)$", refusal(GREEDY, mib * MIB))
    assert named is not None
    size = int(named[1])
    slots = GREEDY.memory.slots.left.nbytes + GREEDY.memory.slots.right.nbytes
    assert 0.5 * (mib * MIB - slots) < size * pair_bytes(GREEDY.trainer) < mib * MIB - slots


def test_a_batch_that_fits_is_not_refused() -> None:
    learner = learner_of(8)
    require_room(learner.trainer, learner.memory.slots.nbytes, 64 * MIB)


def test_held_out_pairs_take_room_too(monkeypatch: pytest.MonkeyPatch) -> None:
    process, settings = process_of({}), TrainSettings(process=ProcessConfig(threads=1), learner=TINY)
    room_bytes: list[int] = []
    monkeypatch.setattr(
        compose, "require_room", lambda _trainer, slot_bytes, _free_bytes: room_bytes.append(slot_bytes)
    )
    for share in (0.0, 0.04):
        made = dataclasses.replace(settings, learner=dataclasses.replace(TINY, holdout=share))
        compose.make_learner(made, torch.device("cpu"), process)
    height, width = TINY.memory.canvas
    assert room_bytes[1] - room_bytes[0] >= 2 * CAPACITY * height * width * 3


def test_where_not_even_two_pairs_fit_no_size_is_named() -> None:
    message = refusal(learner_of(8), 1)
    assert "none fits" in message
    assert "to 0" not in message


def test_a_pair_takes_more_where_there_are_more_crops_of_it_and_nothing_is_changed_by_asking() -> None:
    few = tiny_learner()
    before = {name: value.clone() for name, value in few.objective.state_dict().items()}
    generator = few.trainer.generator.get_state()
    objective = dataclasses.replace(cast(BabyAgentConfig, TINY.objective), crops=8)
    many = tiny_learner(dataclasses.replace(TINY, objective=objective))
    assert 2 * pair_bytes(few.trainer) < pair_bytes(many.trainer) < 4 * pair_bytes(few.trainer)
    assert all(torch.equal(before[name], value) for name, value in few.objective.state_dict().items())
    assert torch.equal(few.trainer.generator.get_state(), generator)
    assert all(weight.grad is None for weight in few.objective.trained())


def test_this_machine_has_some_memory_left() -> None:
    assert MIB < free_bytes(torch.device("cpu")) < 1 << 50


def test_a_batch_too_large_for_the_machine_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compose, "free_bytes", lambda _device: MIB)
    words = [*FLAGS, "--run-dir", str(tmp_path / "run"), "--http-port", "0", "--memory.capacity", "64"]
    with pytest.raises(SettingsError, match="too little for a batch of 8 pairs"):
        PROGRAM.run(words, Stop())
    assert not (tmp_path / "run").exists()
