"""Small YAML and JSON files from anywhere: their bytes, nesting and numbers are bounded, and only plain values are made."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from stream.calibration.stereo import CalibrationError, Floats, floats
from stream.errors import reported_as

MAX_BYTES = 64 << 10
"""A calibration of four cameras has less than 8 KiB; the parser needs about a second for this much."""
MAX_NUMBERS, DEPTH = 64, 3
"""So many numbers has a key at most, in so many lists within each other."""
_OPENCV_HEAD = re.compile(r"\A\ufeff?%YAML[^\n]*\n")
"""OpenCV's FileStorage begins with `%YAML:1.0`, which is no YAML."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # the package has no types
    """Plain values only. Merge keys are refused, because they can double what is read with every line."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge nothing."""


def _matrix(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    return dict(loader.construct_mapping(node, deep=True))


_Loader.add_constructor("tag:yaml.org,2002:opencv-matrix", _matrix)


def read_text(path: Path) -> str:
    """Return the text of a small file. Raises CalibrationError."""
    if not path.is_file():  # opening a pipe would wait
        raise CalibrationError(f"no calibration {path}: it is not there, or no file")
    with reported_as(CalibrationError, f"{path} cannot be read"), path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise CalibrationError(f"{path} is larger than {MAX_BYTES >> 10} KiB: it is no calibration")
    return data.decode("utf-8-sig", errors="replace")


def parse(text: str, name: str) -> Mapping[str, Any]:
    """Return the keys and values of a YAML text. name: of the file, for messages. Raises CalibrationError."""
    try:
        content = yaml.load(_OPENCV_HEAD.sub("", text), _Loader)  # it is a SafeLoader
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError) as error:
        raise CalibrationError(f"{name} is not YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise CalibrationError(f"{name} is no calibration: it has no keys with names")
    return content


def numbers(table: Mapping[str, Any], key: str, *shapes: tuple[int, ...]) -> Floats:
    """Return the numbers of a key as float64 of the first shape that fits; without shapes, as they are, [n].

    They may stand in lists within lists, in a text with spaces, or under `data`, as ROS and OpenCV write matrices. Raises
    CalibrationError if the key is missing, or holds anything else.
    """
    if key not in table:
        raise CalibrationError(f"{key} is missing")
    value = table[key]
    if isinstance(value, Mapping):
        value = value.get("data")
    found = []
    for number in _flat(value.split() if isinstance(value, str) else value, DEPTH):
        found.append(_number(key, number))
        if len(found) > MAX_NUMBERS:
            raise CalibrationError(f"{key} holds more than {MAX_NUMBERS} numbers")
    for shape in shapes:
        if math.prod(shape) == len(found):
            return floats(found).reshape(shape)
    if shapes:
        wanted = " or ".join(str(math.prod(shape)) for shape in shapes)
        raise CalibrationError(f"{key} holds {len(found)} numbers, not {wanted}")
    return floats(found)


def sides(table: Mapping[str, Any], key: str) -> tuple[int, int]:
    """Return height and width of a key that holds width and height. Raises CalibrationError."""
    width, height = (round(side) for side in numbers(table, key, (2,)))
    return height, width


def _flat(value: Any, depth: int) -> Iterator[Any]:
    """Yield what lists within lists hold. An empty one stands for itself, so that there is something of every list."""
    if isinstance(value, list) and depth and (value or depth == DEPTH):
        for each in value:
            yield from _flat(each, depth - 1)
    else:
        yield value


def _number(key: str, value: Any) -> float:
    """Return a number; YAML 1.1 takes 1e-5, without a point, for a text."""
    try:
        if (
            isinstance(value, (int, float, str))
            and not isinstance(value, bool)
            and math.isfinite(number := float(value))
        ):
            return number
    except (ValueError, OverflowError):
        pass
    raise CalibrationError(f"{key} holds {in_words(value)!r}, which is no finite number")


def in_words(value: Any) -> str:
    """Return a short text for a value. Lists stay unwritten: those of 1 KiB may name each other, and would fill the memory."""
    return f"a {type(value).__name__}" if isinstance(value, (list, dict, set, tuple)) else str(value)[:40]
