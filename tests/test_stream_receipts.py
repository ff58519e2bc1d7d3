"""What a recording tells beside its pairs: losses and where it began, whatever is left of its files, and in any order."""

from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import EPOCH, NEXT_EPOCH, made
from rig_model import ACTIONS, World

from stream.identity_set import IdentitySet
from stream.live.ledger import Ledger
from stream.ranges import Ranges
from stream.recording.mcap_reader import McapReader
from stream.recording.protobuf import bytes_field
from stream.recording.reader import RecordingReader
from stream.recording.receipts import MAX_RANGES, Receipt, Receipts, encode_receipt, read_receipt
from stream.recording.writer import RecordingWriter
from stream.source import Cursor


def receipt(*lost: tuple[int, int], joined: int = 0, head: int = 0, epoch: str = EPOCH, **more: bool) -> Receipt:
    return Receipt(device="baby", epoch=epoch, joined=joined, head=head, lost=list(lost), **more)


def recorded(world: World) -> dict[str, dict[str, list[tuple[int, int]]]]:
    """What a recorder that committed has in its file."""
    ranges: dict[str, Ranges] = {}
    for epoch, seq in world.committed:
        ranges.setdefault(epoch, Ranges()).add(seq, seq + 1)
    return {"baby": {epoch: list(seqs) for epoch, seqs in ranges.items()}} if ranges else {}


class Recorder(World):
    """A world whose learner is a recorder: all that its next process has are its pairs and its receipts."""

    def __init__(self, *, spooled: bool, calm: bool) -> None:
        super().__init__(spooled=spooled, calm=calm)
        self.receipts = Receipts()

    def commit(self, number: int) -> None:
        super().commit(number)
        assert self.cursor is not None
        for one in self.receipts.update(self.cursor):
            assert read_receipt(memoryview(encode_receipt(one))) == one
        self.cursor = json.loads(json.dumps(self.receipts.cursor(recorded(self))))
        assert self.receipts.update(self.ledger.cursor()) == []


@settings(max_examples=150)
@given(st.booleans(), st.booleans(), st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 7)), max_size=80))
def test_a_recorder_that_has_only_its_files_loses_no_pair_without_naming_it(
    spooled: bool, calm: bool, script: list[tuple[str, int]]
) -> None:
    world = Recorder(spooled=spooled, calm=calm)
    for action, number in script:
        world.act(action, number)
    world.settle()


def test_a_recording_of_an_earlier_version_is_continued_and_counts_what_came_after_its_first_epoch() -> None:
    before = IdentitySet()
    for seq in (3, 4, 9):
        before.add(made(seq, epoch=NEXT_EPOCH).header)
    cursor: Cursor = Receipts().cursor(before.cursor()["devices"])
    assert Ledger(cursor).stats().pending == 4
    assert cursor["devices"]["baby"]["epochs"][NEXT_EPOCH]["joined"] == 3
    assert not cursor["devices"]["baby"]["met"]


def test_receipts_add_up_in_any_order_and_are_said_again_in_bounded_parts() -> None:
    many = [(3 * number, 3 * number + 1) for number in range(MAX_RANGES + 5)]
    parts = [receipt((0, 4), joined=2, head=9), receipt((6, 7), joined=1, met=True), receipt((1, 2), epoch=NEXT_EPOCH)]
    forwards, backwards = Receipts(), Receipts()
    for one in parts:
        forwards.add(one)
    for one in reversed(parts):
        backwards.add(one)
    assert forwards.cursor({})["devices"] == backwards.cursor({})["devices"]
    assert forwards.lost({"baby": {EPOCH: [(1, 3)]}})["baby", EPOCH] == Ranges([(0, 1), (3, 4), (6, 7)])
    again = Receipts()
    for first in range(0, len(many), MAX_RANGES):
        again.add(receipt(*many[first : first + MAX_RANGES]))
    assert max(len(one.lost) for one in again.all()) == MAX_RANGES
    assert sum(len(one.lost) for one in again.all()) == len(many)


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'{"device":"baby"}', b"\xff", b"[" * 100_000])
def test_what_is_no_receipt_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="receipt"):
        read_receipt(memoryview(data))


def test_the_largest_receipt_is_read_and_a_larger_one_takes_no_memory() -> None:
    last = (1 << 63) - 1
    full = [(last - 2 * number - 1, last - 2 * number) for number in range(MAX_RANGES)]
    one = Receipt(device="d" * 64, epoch=EPOCH, joined=last, head=last, lost=full, gone=True, spooled=False, met=True)
    for data in (encode_receipt(one), msgspec.json.encode(one)):
        assert read_receipt(memoryview(data)) == one
    zeros = encode_receipt(receipt()) + bytes_field(5, 4 << 20) + bytes(4 << 20)  # packed numbers of `lost`
    tracemalloc.start()
    with pytest.raises(ValueError, match="out of bounds"):
        read_receipt(memoryview(zeros))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 1 << 20


def test_an_empty_range_is_no_loss() -> None:
    data = msgspec.json.encode(receipt()).replace(b'"head":0', b'"head":0,"lost":[[4,4]]')
    ours = encode_receipt(receipt((3, 4))).replace(b"\x28\x03", b"\x28\x04")
    for wrong in (data, ours):
        with pytest.raises(ValueError, match="receipt"):
            read_receipt(memoryview(wrong))


def test_a_receipt_of_an_earlier_version_is_read() -> None:
    one = receipt((1, 2), (5, 7))
    assert read_receipt(memoryview(msgspec.json.encode(one))) == one


def test_a_recording_cut_at_any_byte_tells_the_losses_of_its_whole_part(tmp_path: Path) -> None:
    path, ends = tmp_path / "walk.mcap", [0]
    with RecordingWriter(path) as writer:
        for number in range(4):
            writer.write(made(number, shape=(4, 6, 3)))
            writer.write_receipt(receipt((10 * number + 10, 10 * number + 20)))
            writer.sync()
            ends.append(writer.file_bytes)
        assert (writer.pairs, writer.lost) == (4, 40)
    data = path.read_bytes()
    for cut in range(8, len(data), 7):
        reader = RecordingReader(McapReader(io.BytesIO(data[:cut])), "cut")
        pairs = [pair.header.seq for pair in reader]
        whole = sum(end <= cut for end in ends[1:])
        assert pairs == list(range(len(pairs)))
        assert len(pairs) >= whole
        lost = reader.receipts.lost({}).get(("baby", EPOCH), Ranges())
        assert lost == Ranges([(10, 10 + 10 * len(pairs))] if pairs else [])
