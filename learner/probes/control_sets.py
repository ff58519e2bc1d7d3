"""Control sets: labelled images on which features are measured, and which are never trained on.

A set is `digits` (that of scikit-learn, always available), a folder in one of the LAYOUTS, which is recognised by its files, or
one of the KNOWN names, whose folder lies where `usual_folder` says. The classes of packed files are named by their numbers. When
a set is loaded, its images are cut to their centre square and resized to the side that the probe needs.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from learner.errors import ControlError
from learner.probes import layouts
from learner.probes.layouts import LAYOUTS, Half
from learner.probes.packed_files import Labels
from stream.host.home import expanded
from stream.image import MAX_EYE_BYTES, Image, TooCostly, check_file

DIGITS_TRAIN_SHARE = 0.7
FOLDER_TRAIN_SHARE = 0.75
KNOWN = {"cifar10": 10, "cifar100": 100, "dogs-vs-cats": 2, "imagenet": 1000, "mnist": 10}
"""Sets that can be asked for by their names, and how many classes each has (docs/control-sets.md)."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ControlSet:
    """A labelled set in memory.

    Images are uint8 [N, S, S, 3] BGR, labels int64 [N] indices into `classes`. Both halves contain each class. `skipped` counts
    images that could not be read. `name` is safe in a file name and as the label of a metric. `train_sha256` is that of the files
    of the train half, or of their images where many are in one file, with their labels.
    """

    name: str
    train_images: Image
    train_labels: Labels
    test_images: Image
    test_labels: Labels
    classes: tuple[str, ...]
    skipped: int = 0
    train_sha256: str = ""

    @property
    def identity(self) -> str:
        """Name and digest of images and labels: a set of this name that has others is another set."""
        return f"{self.name} {self.images}"

    @cached_property
    def images(self) -> str:
        """Digest of images and labels, hexadecimal."""
        digest = hashlib.blake2b(digest_size=8)
        for values in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(f"{values.shape}".encode())
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()


_Halves = tuple[Half, Half, tuple[str, ...]]


def load_control(
    spec: str, *, size: int, limit_train: int | None = None, limit_test: int | None = None, seed: int = 0
) -> ControlSet:
    """Load a set. spec: `digits`, PATH, NAME=PATH, or a name of KNOWN. size: side S of its images, pixels.

    A limit keeps a class-balanced subset of that many images, drawn by `seed`. A set without its own split is always split in
    the same way, whatever the seed, so that figures of different runs can be compared.

    Raises ControlError for fewer than two classes, a missing half, and a class without a readable image.
    """
    name, path = _name_and_path(spec)
    train, test, classes = _digits() if path == "digits" else _opened(_found(path))
    if spec in KNOWN and len(classes) != KNOWN[spec]:
        said = f"has {len(classes)} classes in {_found(path)}, expected {KNOWN[spec]}: write NAME=PATH for another"
        raise ControlError(f"control set {spec}: {said}")
    if len(classes) < 2:
        raise ControlError(f"control set {path}: has {len(classes)} classes; expected at least 2, as {LAYOUTS}")
    train_images, train_labels, train_skipped, sha256 = _read(
        train, limit_train, size, [seed, 0], f"{path} train", classes
    )
    test_images, test_labels, test_skipped, _ = _read(test, limit_test, size, [seed, 1], f"{path} test", classes)
    skipped = train_skipped + test_skipped
    if skipped:
        _log.warning("control set has unreadable images set=%s skipped=%d", name, skipped)
    return ControlSet(name, train_images, train_labels, test_images, test_labels, classes, skipped, sha256)


def subset(control: ControlSet, *, train: int, test: int) -> ControlSet:
    """Return at most `train` and `test` images of the halves, balanced over the classes, but at least one of each class."""
    rng = np.random.default_rng(0)
    kept_train = _balanced(control.train_labels, max(train, len(control.classes)), rng)
    kept_test = _balanced(control.test_labels, max(test, len(control.classes)), rng)
    return replace(
        control,
        train_images=control.train_images[kept_train],
        train_labels=control.train_labels[kept_train],
        test_images=control.test_images[kept_test],
        test_labels=control.test_labels[kept_test],
    )


def stratified(labels: Labels, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return a mask [N] of a random `share` (0 to 1) of each class.

    It contains at least one of each class, and leaves out at least one of each class of two or more.
    """
    mask = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = max(1, min(round(share * len(members)), len(members) - 1))
        mask[members[:count]] = True
    return mask


def _name_and_path(spec: str) -> tuple[str, str]:
    given, equals, path = spec.partition("=")
    name, path = (given, path) if equals and "/" not in given else (Path(spec).name, spec)
    if not path or not _NAME.fullmatch(name):
        raise ControlError(
            f"control set {spec[:100]!r}: has no usable name; write NAME=PATH with a name of letters and digits"
        )
    return name, path


def usual_folder(environ: Mapping[str, str]) -> Path:
    """Return where the folders of the KNOWN sets lie, by their names: ~/.local/share/babyagent/control, or as XDG says."""
    data = environ.get("XDG_DATA_HOME", "")
    return Path(data if data.startswith("/") else expanded(Path("~/.local/share")), "babyagent", "control")


def _found(path: str) -> Path:
    """Return the folder of a set; a name of KNOWN that is no path here is looked for in the usual folder."""
    here = expanded(Path(path))
    if path not in KNOWN or here.exists():
        return here
    usual = usual_folder(os.environ) / path
    if not usual.is_dir():
        raise ControlError(
            f"control set {path}: {usual} is no folder; lay it out as docs/control-sets.md says, or write NAME=PATH"
        )
    return usual


def _digits() -> _Halves:
    bunch = load_digits()
    whole = Half(np.rint(bunch.images * (255 / 16)).astype(np.uint8), bunch.target.astype(np.int64))
    return _split(whole, DIGITS_TRAIN_SHARE, tuple(map(str, bunch.target_names)))


def _opened(root: Path) -> _Halves:
    train, test, classes = layouts.open_folder(root)
    return (train, test, classes) if test is not None else _split(train, FOLDER_TRAIN_SHARE, classes)


def _split(whole: Half, train_share: float, classes: tuple[str, ...]) -> _Halves:
    """Divide each class by the share, at random but always in the same way."""
    in_train = stratified(whole.labels, train_share, np.random.default_rng(0))
    train, test = (Half(whole.items[mask], whole.labels[mask]) for mask in (in_train, ~in_train))
    return train, test, classes


def _read(
    half: Half, limit: int | None, size: int, seed: list[int], where: str, classes: tuple[str, ...]
) -> tuple[Image, Labels, int, str]:
    """Return images [N, S, S, 3] BGR, labels [N], the number of unreadable images and the hash of a half or its chosen part."""
    _require_all(half.labels, where, classes)
    chosen = np.arange(len(half.labels))
    if limit is not None and limit < len(chosen):
        if limit < len(classes):
            raise ControlError(
                f"control set {where}: a limit of {limit} images leaves out some of its {len(classes)} classes"
            )
        chosen = _balanced(half.labels, limit, np.random.default_rng(seed))
    images, labels, whole = [], [], hashlib.sha256()
    for index in chosen:
        data, pixels = _pixels(half.items[index])
        if pixels is not None:
            images.append(_fit(pixels, size))
            labels.append(half.labels[index])
            # Of the bytes of the file: what they decode to may depend on the version of OpenCV.
            whole.update(hashlib.sha256(data).digest() + int(half.labels[index]).to_bytes(8, "big"))
    _require_all(np.array(labels, np.int64), where, classes)
    return np.stack(images), np.array(labels, np.int64), len(chosen) - len(images), whole.hexdigest()


def _balanced(labels: Labels, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return the sorted indices of `count` labels: equally many of each class, within one, while the class has enough."""
    order = rng.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    rank_in_class = np.arange(len(labels)) - np.searchsorted(labels[by_class], labels[by_class])
    return np.sort(by_class[np.argsort(rank_in_class, kind="stable")[:count]])


def _require_all(labels: Labels, where: str, classes: tuple[str, ...]) -> None:
    empty = sorted(set(range(len(classes))) - set(labels.tolist()))
    if empty:
        raise ControlError(
            f"control set {where}: class {classes[empty[0]]!r} has no readable image; expected {LAYOUTS}"
        )


def _pixels(item: Path | Image) -> tuple[bytes, Image | None]:
    """Return the bytes and the image of an item; no bytes and None if it cannot be read."""
    if isinstance(item, np.ndarray):
        return item.tobytes(), item
    try:
        if not item.is_file() or item.stat().st_size > MAX_EYE_BYTES:  # reading a pipe would wait
            return b"", None
        data = item.read_bytes()
        check_file(data)
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, TooCostly, cv2.error):
        return b"", None
    return data, None if pixels is None else np.asarray(pixels, np.uint8)


def _fit(image: Image, size: int) -> Image:
    """Return the centre square of [H, W] or [H, W, 3] as [size, size, 3]; a grey image gets three equal channels."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    resized = cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)
    return np.asarray(cv2.cvtColor(resized, cv2.COLOR_GRAY2BGR) if resized.ndim == 2 else resized, np.uint8)
