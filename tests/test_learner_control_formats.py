"""The formats in which MNIST and CIFAR are published: read whole, and never trusted."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from control_files import BLUE, RED, cifar_rows, idx, python_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from learner.errors import ControlError
from learner.probes.control_sets import load_control
from learner.probes.packed_files import parse_cifar_binary, parse_cifar_python, parse_idx, read_file


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_idx_files_are_read_plain_and_gzipped(tmp_path: Path, packed: bool) -> None:
    pixels = np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4)
    labels = np.array([0, 1, 2, 0, 1, 2], np.uint8)
    for half in ("train", "t10k"):
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            data = gzip.compress(idx(array)) if packed else idx(array)
            (tmp_path / f"{half}-{kind}-ubyte{'.gz' if packed else ''}").write_bytes(data)
    mnist = load_control(f"mnist={tmp_path}", size=4)
    assert mnist.classes == ("0", "1", "2")
    assert np.array_equal(mnist.test_labels, labels)
    assert np.array_equal(mnist.train_images, np.repeat(pixels[..., None], 3, axis=3)), "grey is replicated"


@pytest.mark.parametrize("hundred", [False, True])
def test_cifar_binary_batches_are_read_as_bgr_with_the_fine_label(tmp_path: Path, hundred: bool) -> None:
    classes = 100 if hundred else 10
    labels = np.arange(classes, dtype=np.uint8)[:, None]
    coarse = [np.zeros_like(labels)] if hundred else []
    data = np.hstack([*coarse, labels, cifar_rows(classes, RED)]).tobytes()
    for name in ("train.bin", "test.bin") if hundred else ("data_batch_1.bin", "data_batch_2.bin", "test_batch.bin"):
        (tmp_path / name).write_bytes(data)
    cifar = load_control(f"cifar={tmp_path}", size=32)
    assert len(cifar.classes) == classes
    assert len(cifar.train_labels) == (classes if hundred else 2 * classes)
    assert np.array_equal(cifar.test_labels, labels[:, 0])
    assert cifar.test_images[0, 0, 0].tolist() == list(RED)


@pytest.mark.parametrize("hundred", [False, True])
def test_cifar_python_batches_are_read_without_trusting_them(tmp_path: Path, hundred: bool) -> None:
    labels, key = list(range(100 if hundred else 10)), b"fine_labels" if hundred else b"labels"
    for name in ("train", "test") if hundred else ("data_batch_1", "data_batch_2", "test_batch"):
        (tmp_path / name).write_bytes(python_batch(labels, key))
    cifar = load_control(f"cifar={tmp_path}", size=32)
    assert cifar.test_labels.tolist() == labels
    assert cifar.test_images[3, 5, 7].tolist() == list(BLUE)


class _Runs:
    """A pickle of it runs a command where it is loaded by the ordinary means."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.write_text, (self.path, "run")


def parse_ten(data: bytes) -> Any:
    return parse_cifar_python(data, "batch", label_key=b"labels", classes=10)


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match=r"batch: is no pickle of plain arrays.*asks for"):
        parse_ten(pickle.dumps({b"data": _Runs(tmp_path / "evil"), b"labels": [1]}))
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ([1, 2], "holds a list"),
        ({}, "is no CIFAR batch"),
        ({b"data": [0] * 3072, b"labels": [1]}, "is no CIFAR batch"),
        ({b"data": cifar_rows(2), b"labels": [1, None]}, "is no CIFAR batch"),
        ({b"data": cifar_rows(2), b"labels": [1]}, "for 1 labels"),
        ({b"data": cifar_rows(0), b"labels": []}, "for 0 labels"),
        ({b"data": cifar_rows(1), b"labels": [10]}, "labels 10 to 10; expected 0 to 9"),
        ({b"data": cifar_rows(1), b"labels": [-1]}, "expected 0 to 9"),
        ({b"data": np.zeros((1, 3072), np.float32), b"labels": [1]}, "not of uint8"),
        ({b"data": np.array([object], dtype=object), b"labels": [1]}, "is no pickle of plain"),
    ],
)
def test_a_pickle_that_is_no_batch_says_what_it_is(batch: object, says: str) -> None:
    with pytest.raises(ControlError, match=says):
        parse_ten(pickle.dumps(batch, protocol=4))


def test_a_pickle_made_to_exhaust_the_reader_is_refused() -> None:
    with pytest.raises(ControlError, match="nests too many tuples"):
        parse_ten(b"\x80\x02})" + b"\x85" * 100_000 + b"K\x01s.")  # {((((...)))): 1}
    with pytest.raises(ControlError, match="numbers more values"):
        parse_ten(b"\x80\x02}r\xff\xff\xff\x7f.")  # an empty dict, remembered as number 2**31 - 1


@given(array=hnp.arrays(np.uint8, hnp.array_shapes(max_dims=4, max_side=5)))
def test_an_idx_file_gives_back_the_array_it_was_made_of(array: NDArray[np.uint8]) -> None:
    assert np.array_equal(parse_idx(idx(array), "file"), array)


@given(data=st.data())
def test_an_idx_file_cut_or_grown_anywhere_is_refused(data: st.DataObject) -> None:
    whole = idx(np.ones((3, 4, 5), np.uint8))
    changed = whole[: data.draw(st.integers(0, len(whole) - 1))] if data.draw(st.booleans()) else whole + b"\0"
    with pytest.raises(ControlError, match=r"^file: "):
        parse_idx(changed, "file")


@given(data=st.binary(max_size=64))
def test_any_bytes_are_an_idx_array_or_one_clear_error(data: bytes) -> None:
    try:
        parsed: NDArray[np.uint8] | str = parse_idx(b"\0\0\x08" + data, "file")
    except ControlError as refusal:
        parsed = str(refusal)
    assert parsed.startswith("file: ") if isinstance(parsed, str) else parsed.size <= len(data)


@given(records=st.integers(0, 3), cut=st.integers(-2, 2), label=st.integers(0, 255))
def test_a_binary_batch_is_whole_records_of_known_labels_or_an_error(records: int, cut: int, label: int) -> None:
    rows = np.full((records, 3073), label, np.uint8).tobytes()
    data = rows[:cut] if cut < 0 else rows + b"\0" * cut
    if records and not cut and label < 10:
        images, labels = parse_cifar_binary(data, "batch", label_bytes=1, classes=10)
        assert images.shape == (records, 32, 32, 3)
        assert labels.tolist() == [label] * records
    elif data:
        with pytest.raises(ControlError, match=r"^batch: "):
            parse_cifar_binary(data, "batch", label_bytes=1, classes=10)


@settings(max_examples=300)
@given(position=st.integers(0, 10**6), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_python_batch_is_a_batch_or_one_clear_error(position: int, byte: int, cut: bool) -> None:
    whole = python_batch([3])
    head = len(whole) - 3072 - 160  # flip mostly what is not pixels
    at = position % (len(whole) if position % 5 == 0 else max(head, 300))
    damaged = whole[:at] if cut else whole[:at] + bytes([byte]) + whole[at + 1 :]
    try:
        parsed = parse_ten(damaged)
    except ControlError as refusal:
        parsed = str(refusal)
    assert parsed.startswith("batch: ") if isinstance(parsed, str) else parsed[0].shape == (len(parsed[1]), 32, 32, 3)


def test_a_damaged_gzip_file_is_one_clear_error(tmp_path: Path) -> None:
    whole = gzip.compress(idx(np.arange(200, dtype=np.uint8)))
    for damaged in (whole[:-9], whole[:12] + b"\xff" + whole[13:], b"plain"):
        (tmp_path / "labels.gz").write_bytes(damaged)
        with pytest.raises(ControlError, match="expected a complete file"):
            read_file(tmp_path / "labels.gz")
