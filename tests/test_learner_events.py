"""Steps and probes as TensorBoard event files. What is expected here byte for byte was read by TensorBoard 2.21 once."""

from __future__ import annotations

import logging
import math
import struct
from pathlib import Path

import pytest
from tiny_learner import TINY

from learner.runs.events import EventFiles, crc32c
from learner.runs.folder import RunDirectory

PROBE = {"step": 0, "set": "digits", "encoder": "student", "knn": 0.25}


def records(folder: Path) -> list[bytes]:
    """The data of all records in the files of a folder, whose checksums are right."""
    found = []
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            begin, end = at + 12, at + 12 + length
            assert checksum(data[at : at + 8]) == data[at + 8 : begin]
            assert checksum(data[begin:end]) == data[end : end + 4]
            found.append(data[begin:end])
            at = end + 4
    return found


def checksum(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def test_the_checksum_is_castagnolis() -> None:
    """The check value of the catalogue of CRCs, and the all-zero example of RFC 3720, B.4."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA


def test_a_step_is_one_event_with_its_finite_numbers(tmp_path: Path) -> None:
    events = EventFiles(tmp_path / "events", clock=lambda: 1000.5)
    events.write("steps", {"step": 300, "loss": 0.5, "refused": [], "grad_norm": math.nan, "rolled_back": ""})
    version, start, step = records(tmp_path / "events")
    when = b"\x09" + struct.pack("<d", 1000.5)
    assert version == when + b"\x10\x00" + b"\x1a\x0dbrain.Event:2"
    assert start == when + b"\x10\xac\x02" + b"\x3a\x02\x08\x01"
    assert step == when + b"\x10\xac\x02" + b"\x2a\x12" + b"\x0a\x10\x0a\x09step/loss\x15" + struct.pack("<f", 0.5)


def test_a_probe_is_named_by_its_set_and_encoder(tmp_path: Path) -> None:
    EventFiles(tmp_path / "events", clock=lambda: 1000.5).write("probes", PROBE)
    assert b"digits/student/knn\x15" + struct.pack("<f", 0.25) in records(tmp_path / "events")[-1]


def test_a_run_that_goes_on_begins_a_file_that_takes_back_later_steps(tmp_path: Path) -> None:
    now_s = iter(range(1000, 2000))
    for first in (1, 3):
        events = EventFiles(tmp_path / "events", clock=lambda: float(next(now_s)))
        for step in range(first, 6):
            events.write("steps", {"step": step, "loss": 1.0})
    assert len(list((tmp_path / "events").iterdir())) == 2
    assert [data[10] for data in records(tmp_path / "events") if b"\x3a\x02\x08\x01" in data] == [1, 3]


def test_a_run_directory_writes_them_beside_its_lines(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run", TINY)
    directory.also = EventFiles(directory.path / "events").write
    directory.append("probes", PROBE)
    directory.append("steps", {"step": 1, "loss": 1.0})
    assert len(records(directory.path / "events")) == 4
    assert RunDirectory(tmp_path / "run", TINY).lines("steps") == [{"step": 1, "loss": 1.0}]


def test_a_disk_that_refuses_them_is_said_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "events").write_text("in the way")
    events = EventFiles(tmp_path / "events")
    with caplog.at_level(logging.WARNING):
        for step in range(5):
            events.write("steps", {"step": step, "loss": 1.0})
    assert [record.getMessage().split(" lines")[0].split()[-1] for record in caplog.records] == ["1", "2", "4"]
