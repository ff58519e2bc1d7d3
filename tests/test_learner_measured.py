"""Signals reach the batch: the mean of a pair's rows, of the signals alone that an objective needs, whatever a rig sends."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import pytest
import torch
from every_objective import small
from numpy.typing import ArrayLike
from tiny_learner import TINY, make_pair, make_pairs

from learner.errors import SettingsError
from learner.loop import Learner
from learner.memory.config import MemoryConfig
from learner.memory.decoding import decode_onto
from learner.memory.holdout import stored_keys
from learner.memory.memory import Memory
from learner.memory.reshard import resharded
from learner.objectives.babyagent import BabyAgentConfig
from learner.runs.checkpoint import load_checkpoint, save_checkpoint
from stream.codec import from_parts, to_parts
from stream.pair import EncodedPair
from stream.signals.gather import Gathering
from stream.signals.signal import MAX_WIDTH, BadSignal, Signal, Telemetry

CONFIG = MemoryConfig(capacity=12, fresh_capacity=12, canvas=(8, 8))
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Needy(BabyAgentConfig):
    """An objective that asks for signals and does nothing with them."""

    signals: ClassVar[tuple[str, ...]] = ("action", "reward")


NEEDY = replace(TINY, objective=Needy(**{name: getattr(TINY.objective, name) for name in vars(TINY.objective)}))


def measured(seq: int, **rows: ArrayLike) -> EncodedPair:
    """A pair with rows [n, width] of signals, as it comes off the wire."""
    pair = make_pair(seq)
    signals = {name: Signal(some, np.full(len(np.asarray(some)), seq)) for name, some in rows.items()}
    return from_parts(to_parts(EncodedPair(pair.header, pair.left, pair.right, telemetry=Telemetry(signals))))


def remembered(*pairs: EncodedPair, names: tuple[str, ...] = ("action", "reward")) -> Memory:
    memory = Memory(CONFIG, seed=0, signals=names)
    for pair in pairs:
        memory.add(decode_onto(CONFIG.canvas, pair))
    return memory


def signals_of(memory: Memory, count: int) -> dict[str, list[list[float]]]:
    found = memory.batch(memory.draw(count), CPU).signals
    assert all(values.dtype == torch.float32 for values in found.values())
    return {name: values.tolist() for name, values in found.items()}


def test_a_batch_has_the_mean_of_the_rows_of_each_signal_that_is_needed_and_of_no_other() -> None:
    memory = remembered(
        measured(0, action=[[1, 2], [3, 6]], gyroscope=[[1, 1, 1]]), measured(1, action=[[5, 7]], reward=[[1]])
    )
    found = signals_of(memory, 2)
    assert found["action"] == [[2, 4], [5, 7]]
    assert np.isnan(found["reward"][0]).all()
    assert found["reward"][1] == [1]
    assert found.keys() == {"action", "reward"}
    assert not remembered(measured(0, action=[[1]]), names=()).slots.batch(np.array([0]), CPU).signals


def test_a_pair_without_a_signal_has_nan_also_in_a_slot_where_another_had_it() -> None:
    memory = remembered(measured(0, action=[[1, 2]]))
    before = memory.slots.of([0])
    memory.slots.release([0])
    memory.slots.put(1, decode_onto(CONFIG.canvas, make_pair(1)))
    assert memory.slots.of([1]) == before
    assert memory.slots.batch(before, CPU).signals["action"].isnan().all()


def test_a_signal_that_none_has_is_one_column_of_nan() -> None:
    assert np.isnan(signals_of(remembered(make_pair(0), make_pair(1)), 2)["action"]).all()


def test_a_signal_of_another_width_than_the_first_is_missing_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    wide = [measured(seq, action=[[9, 9, 9]]) for seq in (1, 2, 3)]
    with caplog.at_level(logging.WARNING):
        memory = remembered(measured(0, action=[[1, 2]]), *wide, measured(4, action=[[3, 4]], reward=[[0.5]]))
    found = signals_of(memory, 5)
    assert found["action"][0] == [1, 2]
    assert np.isnan(found["action"][1:4]).all()
    assert found["action"][4] == [3, 4]
    assert found["reward"][4] == [0.5]
    assert memory.slots.signals.changed == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"signal action is 3 wide and was 2: missing, count={count}" for count in (1, 2)
    ]


def test_values_beyond_float32_stay_finite() -> None:
    (row,) = signals_of(remembered(measured(0, action=[[1e308, -1e308], [1e308, 1e308]])), 1)["action"]
    assert row == pytest.approx([1e30, 0])


def test_a_rig_with_ten_thousand_names_still_brings_its_action() -> None:
    refused: list[BadSignal] = []
    gathered = Gathering(refused.append)
    gathered.add({f"s{number}" if number else "action": Signal([[number + 7.0]], [0]) for number in range(10_000)}, 0)
    pair = make_pair(0)
    memory = remembered(EncodedPair(pair.header, pair.left, pair.right, telemetry=Telemetry(gathered.take(0))))
    assert signals_of(memory, 1)["action"] == [[7]]
    assert memory.slots.signals.widths == {"action": 1}
    assert [error.reason for error in refused] == ["names"]


def test_the_widest_signal_is_what_the_footprint_counts() -> None:
    memory = remembered(measured(0, action=np.zeros((1, MAX_WIDTH)), reward=np.zeros((1, MAX_WIDTH))))
    assert memory.slots.nbytes == memory.slots.left.nbytes * 2 + sum(
        values.nbytes for values in memory.slots.signals.of(torch.arange(24)).values()
    )


def test_a_resumed_memory_has_the_same_signals_and_knows_their_widths(tmp_path: Path) -> None:
    pairs = [measured(seq, action=[[seq, 1.0, 2.0]], **({"reward": [[seq]]} if seq % 2 else {})) for seq in range(6)]
    memory = remembered(*pairs)
    save_checkpoint(tmp_path / "state", {"memory": memory.state_dict()})
    other = Memory(CONFIG, seed=0, signals=("action", "reward"))
    state = load_checkpoint(tmp_path / "state")["memory"]
    assert state["signals"] == {"action": 3, "reward": 1}
    other.load_state_dict(state, (decode_onto(CONFIG.canvas, pair) for pair in pairs))
    np.testing.assert_array_equal(signals_of(other, 6)["reward"], signals_of(memory, 6)["reward"])
    other.slots.signals.put(0, measured(9, action=[[1]]).telemetry.signals)
    assert other.slots.signals.changed == 1


def test_a_memory_that_needs_no_signals_has_the_state_of_before_and_one_that_does_reads_it() -> None:
    state = remembered(measured(0, action=[[1]]), names=()).state_dict()
    assert "signals" not in state
    memory = Memory(CONFIG, seed=0, signals=("action",))
    memory.load_state_dict(state, [decode_onto(CONFIG.canvas, measured(0, action=[[1]]))])
    assert signals_of(memory, 1) == {"action": [[1]]}


def test_shards_that_are_dealt_out_again_know_the_widths() -> None:
    made = [Memory(CONFIG, seed=1, shard=shard, shards=2, signals=("action",)) for shard in range(2)]
    made[1].add(decode_onto(CONFIG.canvas, measured(1, action=[[1, 2, 3, 4]])), 1)
    states = [memory.state_dict() for memory in made]
    for shards in (1, 3):
        assert [state["signals"] for state in resharded(states, shards)] == [{"action": 4}] * shards


def test_a_learner_that_needs_a_signal_on_a_stream_without_stops_in_one_line_with_the_remedy() -> None:
    learner = Learner(NEEDY, CPU)
    for seq in range(8):
        learner.add(measured(seq, action=[[1, 2]]))
    with pytest.raises(
        SettingsError, match=r"^objective babyagent needs the signal reward, .* --signals, .*reward=room.*\Z"
    ):
        learner.step()


def test_all_signals_that_are_missing_are_named_at_once() -> None:
    learner = Learner(NEEDY, CPU)
    for pair in make_pairs(8):
        learner.add(pair)
    with pytest.raises(
        SettingsError, match=r"needs the signals action and reward, .*/signals/action and /signals/reward\Z"
    ):
        learner.step()


def test_pairs_of_one_subject_are_equal_whatever_device_it_wears_and_a_device_stands_for_a_subject_without_name() -> (
    None
):
    def worn(seq: int, device: str, subject: str) -> EncodedPair:
        pair = make_pair(seq)
        header = msgspec.structs.replace(pair.header, device=device)
        return from_parts(to_parts(EncodedPair(header, pair.left, pair.right, telemetry=Telemetry(subject=subject))))

    worn_by = [("rig1", "ann"), ("rig2", "ann"), ("rig1", "bob"), ("rig1", ""), ("rig2", ""), ("rig1", "")]
    memory = remembered(*(worn(seq, *by) for seq, by in enumerate(worn_by)))
    batch = memory.batch(memory.draw(6), CPU)
    assert batch.keys is not None
    assert batch.subjects is not None
    found = dict(zip(batch.keys.tolist(), batch.subjects.tolist(), strict=True))
    assert found[0] == found[1]
    assert found[3] == found[5]
    assert len({found[key] for key in (0, 2, 3, 4)}) == 4


def test_a_learner_goes_on_where_some_pairs_have_the_signals_and_where_none_is_needed() -> None:
    learner, other = Learner(NEEDY, CPU), Learner(TINY, CPU)
    for pair in (measured(0, action=[[1]], reward=[[0]]), *make_pairs(7, 1)):
        learner.add(pair)
        other.add(pair)
    assert learner.step().loss == other.step().loss


def test_a_learner_that_was_killed_learns_on_from_the_actions_of_the_stored_pairs_bit_for_bit() -> None:
    learner, other = Learner(small("dynamics"), CPU), Learner(small("dynamics"), CPU)
    pairs = [measured(seq, action=[[seq % 3, -1.0]]) for seq in range(28)]
    for pair in pairs[:16]:
        learner.add(pair)
    for _ in range(3):
        assert learner.step().gauges["usable"] > 0
    state = copy.deepcopy(learner.state_dict())
    assert state["memory"]["shards"][0]["signals"] == {"action": 2}
    other.load_state_dict(state, [from_parts(to_parts(pairs[key])) for key in stored_keys(state)])
    for pair in pairs[16:]:
        assert learner.add(pair) == other.add(pair)
    losses = [[one.step().loss for _ in range(4)] for one in (learner, other)]
    assert losses[0] == losses[1]
