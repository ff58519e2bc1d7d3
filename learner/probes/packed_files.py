"""Parsers of control sets in packed files: the idx files of MNIST, and the binary and Python batches of CIFAR.

They are pure functions from bytes to arrays. The sizes that a file declares are compared with its real size first, so that a
damaged or hostile file raises ControlError. The Python batches are pickles, which could run any code: here every name in them
is replaced by a stand-in that can only become a uint8 array, a list, a dict, bytes or text.
Formats: yann.lecun.com/exdb/mnist and cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import gzip
import io
import math
import pickle
import pickletools
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learner.errors import ControlError
from stream.image import Image

MAX_FILE_BYTES = 1 << 30
"""Largest accepted file, after unpacking; the largest of EMNIST has 547 MB."""
MAX_TUPLES = 1000
"""Largest number of tuples in a Python batch, which needs a dozen: hashing deeply nested ones could crash Python."""
CIFAR_SHAPE = (3, 32, 32)
"""Planes (red, green, blue), rows, columns."""

Labels = NDArray[np.int64]


def read_file(path: Path) -> bytes:
    """Return the bytes of a file, unpacked if its name ends in .gz.

    Raises ControlError for a file that cannot be read or has more than MAX_FILE_BYTES.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ControlError(f"{path}: cannot be read ({error}); expected a complete file") from error
    if len(data) > MAX_FILE_BYTES:
        raise ControlError(f"{path}: holds more than {MAX_FILE_BYTES} bytes; expected a smaller control set")
    return data


def parse_idx(data: bytes, name: str) -> NDArray[np.uint8]:
    """Return the array in an MNIST idx file: uint8 with 1 (labels) to 4 dimensions.

    Raises ControlError, beginning with `name`, if the declared shape does not fit the size of the file.
    """
    if len(data) < 4 or data[:3] != b"\0\0\x08" or not 1 <= data[3] <= 4:
        raise ControlError(f"{name}: is not an idx file of unsigned bytes (it should begin with 00 00 08 and 01 to 04)")
    start = 4 + 4 * data[3]
    if len(data) < start:
        raise ControlError(f"{name}: ends inside its header of {start} bytes; the file is cut")
    shape = tuple(int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4))
    declared = math.prod(shape)
    if declared != len(data) - start:
        raise ControlError(
            f"{name}: declares {shape}, {declared} bytes, but holds {len(data) - start}; the file is cut"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def pair_idx(images: NDArray[np.uint8], labels: NDArray[np.uint8], name: str) -> tuple[Image, Labels]:
    """Return images [N, H, W] and labels int64 [N] of one MNIST split.

    Raises ControlError if the two files do not belong together or an image has no pixels.
    """
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or images.size == 0:
        raise ControlError(f"{name}: has images {images.shape} and labels {labels.shape}; expected [N, H, W] and [N]")
    return images, labels.astype(np.int64)


def parse_cifar_binary(data: bytes, name: str, *, label_bytes: int, classes: int) -> tuple[Image, Labels]:
    """Return images [N, 32, 32, 3] BGR and labels [N] of a binary batch.

    label_bytes: 1 for CIFAR-10, 2 (coarse, fine) for CIFAR-100. Raises ControlError if the size is no multiple of a record or
    a label is not below `classes`.
    """
    record = label_bytes + math.prod(CIFAR_SHAPE)
    if not data or len(data) % record:
        raise ControlError(
            f"{name}: has {len(data)} bytes; expected a multiple of the record's {record}; the file is cut"
        )
    rows = np.frombuffer(data, np.uint8).reshape(-1, record)
    labels = rows[:, label_bytes - 1].astype(np.int64)
    if labels.max() >= classes:
        raise ControlError(f"{name}: has label {labels.max()}; expected 0 to {classes - 1}")
    return _cifar_images(rows[:, label_bytes:]), labels


def parse_cifar_python(data: bytes, name: str, *, label_key: bytes, classes: int) -> tuple[Image, Labels]:
    """Return images [N, 32, 32, 3] BGR and labels [N] of a pickled batch.

    label_key: b"labels" for CIFAR-10, b"fine_labels" for CIFAR-100. Raises ControlError if it is no batch, or contains anything
    except uint8 arrays, lists, dicts, bytes and text.
    """
    batch = _load_plain(data, name)
    rows, labels = batch.get(b"data"), batch.get(label_key)
    if not isinstance(rows, _Array) or not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ControlError(f"{name}: is no CIFAR batch; expected b'data', an array of uint8, and {label_key!r}, a list")
    pixels = rows.values
    if pixels.shape != (len(labels), math.prod(CIFAR_SHAPE)) or not labels:
        raise ControlError(f"{name}: has data {pixels.shape} for {len(labels)} labels; expected [N, 3072] for N")
    if not 0 <= min(labels) <= max(labels) < classes:
        raise ControlError(f"{name}: has labels {min(labels)} to {max(labels)}; expected 0 to {classes - 1}")
    return _cifar_images(pixels), np.array(labels, np.int64)


def _load_plain(data: bytes, name: str) -> dict[Any, Any]:
    """Return the dict in a pickle of plain values, with `_Array` for its arrays and bytes for text of Python 2.

    Raises ControlError for any other content.
    """
    try:
        _refuse_bombs(data)
        value = _PlainUnpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise errors of any type
        raise ControlError(f"{name}: is no pickle of plain arrays, lists, dicts, bytes and text ({error})") from error
    if not isinstance(value, dict):
        raise ControlError(f"{name}: holds a {type(value).__name__}; expected the dict of a CIFAR batch")
    return value


def _cifar_images(rows: NDArray[np.uint8]) -> Image:
    """Convert rows [N, 3072] of red, green and blue planes to [N, 32, 32, 3] BGR."""
    return np.ascontiguousarray(rows.reshape(-1, *CIFAR_SHAPE)[:, ::-1].transpose(0, 2, 3, 1))


def _refuse_bombs(data: bytes) -> None:
    """Raise ControlError for a pickle that would need far more memory or stack than it has bytes."""
    tuples = 0
    for opcode, argument, _ in pickletools.genops(data):
        tuples += "TUPLE" in opcode.name
        if tuples > MAX_TUPLES:
            raise ControlError("it nests too many tuples")
        if opcode.name.endswith("PUT") and argument is not None and int(argument) > len(data):
            raise ControlError("it numbers more values than it can hold")


class _PlainUnpickler(pickle.Unpickler):
    """Knows the four names in a batch of CIFAR, and replaces each by a harmless stand-in."""

    def find_class(self, module: str, name: str) -> Any:
        stand_in = _STAND_INS.get((module.replace("numpy._core", "numpy.core"), name))
        if stand_in is None:
            raise ControlError(f"it asks for {module}.{name}")
        return stand_in


class _Dtype:
    """Stands for numpy.dtype; accepts only uint8."""

    def __init__(self, code: bytes | str, *_: object) -> None:
        if code not in ("u1", b"u1"):
            raise ControlError(f"it has an array of {code!r}, not of uint8")

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and alignment, which have no meaning for single bytes."""


class _Array:
    """Stands for numpy.ndarray: `values` is set only if the shape fits the number of bytes."""

    values: NDArray[np.uint8] = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Dtype, bool, bytes]) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes) or not all(type(side) is int for side in shape):
            raise ControlError("it has an array without a shape, bytes and uint8")
        if math.prod(shape) != len(raw):
            raise ControlError(f"it has an array that declares {math.prod(shape)} bytes and holds {len(raw)}")
        self.values = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


def _encode(text: str, encoding: str) -> bytes:
    """Stands for _codecs.encode, which Python 3 uses to write bytes into an old pickle."""
    if encoding != "latin1":
        raise ControlError(f"it has bytes written as {encoding!r}")
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),  # it is always called for an empty array
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}
