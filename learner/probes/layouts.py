"""The layouts in which people keep control sets: folders of classes, the files of MNIST and CIFAR, and the roots around them."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learner.errors import ControlError
from learner.probes.folders import MAX_DOWN, Folder, folder_at, images_of
from learner.probes.packed_files import Labels, pair_idx, parse_cifar_binary, parse_cifar_python, parse_idx, read_file
from stream.image import Image

LAYOUTS = "CLASS/*.jpg, train|test/CLASS/*.jpg, train|val/CLASS/*.jpg, CLASS.0.jpg, MNIST's idx files, CIFAR's batches"
TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation", "eval")
"""Names of the halves of a split, in any case. The first one that holds classes is taken."""
MAX_SETS = 100
"""So many subfolders are looked at for packed files."""
_NAMED = re.compile(r"([A-Za-z][A-Za-z_-]*)\.[0-9]+\.[A-Za-z]+")
"""An image whose name begins with its class, as in Dogs vs. Cats: cat.0.jpg."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Half:
    """Train or test before its images are read. items: paths [N], or images [N, H, W] or [N, H, W, 3] BGR; labels: [N]."""

    items: NDArray[Any]
    labels: Labels


Found = tuple[Half, Half | None, tuple[str, ...]]
"""Train, test if the set has a split of its own, and the names of the classes."""


@dataclass(frozen=True)
class _CifarLayout:
    """Patterns of the files in one of the four archives of CIFAR, and their parser."""

    train: str
    test: str
    classes: int
    parse: Callable[[bytes, str], tuple[Image, Labels]]


_CIFAR_LAYOUTS = (
    _CifarLayout("data_batch_*.bin", "test_batch.bin", 10, partial(parse_cifar_binary, label_bytes=1, classes=10)),
    _CifarLayout("train.bin", "test.bin", 100, partial(parse_cifar_binary, label_bytes=2, classes=100)),
    _CifarLayout("data_batch_[0-9]", "test_batch", 10, partial(parse_cifar_python, label_key=b"labels", classes=10)),
    _CifarLayout("train", "test", 100, partial(parse_cifar_python, label_key=b"fine_labels", classes=100)),
)


def open_folder(path: Path) -> Found:
    """Find the images of a folder that has one of the LAYOUTS, or of the only set in the folders below it.

    What archives leave behind (`__MACOSX`, hidden files) and classes without an image are skipped; the latter are named in the
    log. Raises ControlError.
    """
    root = folder_at(path)
    if root is None:
        raise ControlError(f"control set {path}: is no folder; expected `digits` or a folder as {LAYOUTS}")
    packed = [(folder, layout) for folder in _below(root) for layout in _packed(folder)]
    if len(packed) > 1:
        places = ", ".join(str(folder.path.relative_to(path)) for folder, _ in packed)
        raise ControlError(f"control set {path}: has more than one set ({places}); name one of these folders")
    if packed:
        folder, layout = packed[0]
        return _mnist(folder.path) if layout is None else _cifar(folder.path, layout)
    root = _descended(root)
    if named := _by_their_names(root):
        return named
    if _has_halves(root):
        return _split_folders(root)
    images = _with_images(root, root.folders)
    classes = list(images)
    _refuse_several_sets(root, classes)
    _refuse_bare_halves(root, classes)
    return _in_halves(classes) or (_half(list(images.values())), None, tuple(folder.name for folder in classes))


def _descended(root: Folder, halves: tuple[str, ...] = TRAIN + TEST) -> Folder:
    """Return the folder below the named one where the classes are, as in `archive/images/CLASS`, or the halves of these names."""
    for _ in range(MAX_DOWN):
        inside = [folder for folder in root.folders if folder.has_images()]
        if len(inside) != 1 or _is_half(inside[0], halves) or not _holds_classes(inside[0]):
            break
        root = inside[0]
    return root


def _holds_classes(folder: Folder) -> bool:
    return any(inside.has_images() for inside in folder.folders)


def _is_half(folder: Folder, names: tuple[str, ...]) -> bool:
    """Return whether a folder is a half of a split: one of the names is a word of its own, and it holds folders with images.

    A class may have such a name too, for example `train` beside `bus`; it holds its images itself.
    """
    return _is_named(folder, names) and _holds_classes(folder)


def _is_named(folder: Folder, names: tuple[str, ...]) -> bool:
    words = re.split(r"[^a-z]+", folder.name.lower())
    return any(name in words for name in names)


def _has_halves(root: Folder) -> bool:
    """Return whether a folder has both halves of a split, or one and nothing else that could be a class."""
    folders = root.folders
    found = [any(_is_half(folder, names) for folder in folders) for names in (TRAIN, TEST)]
    return all(found) or (any(found) and all(_is_named(f, TRAIN + TEST) for f in folders if f.has_images()))


def _below(root: Folder) -> Iterator[Folder]:
    """Yield a folder, its subfolders, and theirs."""
    yield root
    for folder in root.folders[:MAX_SETS]:
        yield folder
        yield from folder.folders[:MAX_SETS]


def _packed(folder: Folder) -> Iterator[_CifarLayout | None]:
    """Yield the layout of the packed files in a folder, if there are any; None is that of MNIST."""
    if any(folder.path.glob("train-images*idx3-ubyte*")):
        yield None
        return
    for layout in _CIFAR_LAYOUTS:
        if any(path.is_file() for path in folder.path.glob(layout.train)):
            yield layout
            return


def _split_folders(root: Folder) -> Found:
    trains, tests = (
        [folder for name in names for folder in root.folders if _is_half(folder, (name,))] for names in (TRAIN, TEST)
    )
    if not trains or not tests:
        only = (trains + tests)[0]
        bare = [f.name for f in root.folders if f != only and _is_named(f, TRAIN + TEST) and f.has_images()]
        hint = f" ({bare[0]}/ has no folder for each class)" if bare else ""
        hint += f"; or name {only.path} alone, which is then divided here"
        raise ControlError(
            f"control set {root.path}: has only {only.name}/; expected train/ beside test/, val/ or valid/{hint}"
        )
    train = _descended(trains[0], ())
    names = {folder.name for folder in train.folders}
    halves = [_descended(half, ()) for half in tests]
    # Of several the one with most of its classes, and the first of equal ones.
    test = max(halves, key=lambda half: len(names & {folder.name for folder in half.folders}))
    images = images_of([*train.folders, *test.folders])
    full, other_full = ({f.name: images[f] for f in half.folders if images[f]} for half in (train, test))
    both = names & {folder.name for folder in test.folders}
    if odd := sorted((full.keys() ^ other_full.keys()) - both):
        halves_named = f"{trains[0].name}/ and {test.path.relative_to(root.path).parts[0]}/"
        raise ControlError(f"control set {root.path}: class {odd[0]!r} is in only one of {halves_named}")
    kept = sorted(full.keys() & other_full.keys())
    _say_empty(root, {folder.name for half in (train, test) for folder in half.folders} - set(kept), kept)
    one, other = (_half([half[name] for name in kept]) for half in (full, other_full))
    return one, other, tuple(kept)


def _in_halves(classes: list[Folder]) -> Found | None:
    """Return the set if each class has a split of its own, as in `CLASS/train`; else None."""
    halves = []
    for names in (TRAIN, TEST):
        found = [[folder for folder in kind.folders if folder.name.lower() in names] for kind in classes]
        halves.append([folders[0] for folders in found if folders and folders[0].has_images()])
    if not classes or any(len(folders) < len(classes) for folders in halves):
        return None
    images = images_of(halves[0] + halves[1])
    one, other = (_half([images[folder] for folder in folders]) for folders in halves)
    return one, other, tuple(folder.name for folder in classes)


def _refuse_several_sets(root: Folder, folders: list[Folder]) -> None:
    """Raise ControlError if the folders are sets and no classes: they hold the same folders, or one of them has halves."""
    if several := [folder for folder in folders if len(folders) > 1 and _has_halves(folder)]:
        its = several[0]
        raise ControlError(f"control set {root.path}: {its.name}/ in it is a set of its own: name {its.path}")
    inside = [{f.name for f in folder.folders if f.has_images()} for folder in folders]
    shared = set.intersection(*inside) if len(inside) > 1 else set()
    shared = {name for name in shared if name.lower() not in TRAIN + TEST}
    if len(shared) > 1 and not any(folder.images for folder in folders):
        names = ", ".join(folder.name for folder in folders[:4])
        what = f"each of its folders ({names}) has folders named {' and '.join(sorted(shared)[:2])}"
        raise ControlError(f"control set {root.path}: {what}: if these are the classes, name one of the folders")


def _refuse_bare_halves(root: Folder, folders: list[Folder]) -> None:
    """Raise ControlError if all folders are called as halves of a split, which a class may be, but not every one."""
    if len(folders) > 1 and all(_is_named(folder, TRAIN + TEST) for folder in folders):
        names = " and ".join(f"{folder.name}/" for folder in folders[:4])
        raise ControlError(
            f"control set {root.path}: {names} have no folder for each class, and not all their images are called CLASS.0.jpg"
        )


def _with_images(root: Folder, folders: list[Folder]) -> dict[Folder, list[Path]]:
    """Return the classes that hold images, with these; name the others in the log. Raises ControlError if none does."""
    kept = {folder: paths for folder, paths in images_of(folders).items() if paths}
    _say_empty(root, {folder.name for folder in folders} - {folder.name for folder in kept}, [k.name for k in kept])
    return kept


def _say_empty(root: Folder, empty: set[str], kept: list[str]) -> None:
    if empty and not kept:
        raise ControlError(f"control set {root.path}: class {min(empty)!r} has no readable image; expected {LAYOUTS}")
    if empty:
        _log.warning(
            "control set has classes without an image, which are left out set=%s classes=%s", root.path, sorted(empty)
        )


def _half(images: list[list[Path]]) -> Half:
    """Return the half with these images of each class."""
    labels = np.repeat(np.arange(len(images)), [len(paths) for paths in images])
    return Half(np.array(list(chain(*images)), object), labels)


def _by_their_names(root: Folder) -> Found | None:
    """Return the set of images in one folder, or in train/, whose names begin with their classes; None if there is none."""
    trains, tests = (
        [each for folder in root.folders if _is_named(folder, names) for each in (folder, *folder.folders)]
        for names in (TRAIN, TEST)
    )
    one = next((folder for folder in [root, *trains] if _named_images(folder)), None)
    if one is None:
        return None
    train = _named_images(one)
    others = (_named_images(folder) for folder in tests if folder.identity != one.identity)
    test = next((found for found in others if found.keys() == train.keys()), None)
    return _half(list(train.values())), None if test is None else _half(list(test.values())), tuple(train)


def _named_images(folder: Folder) -> dict[str, list[Path]]:
    """Return the images by class, of a folder whose images all are so named and belong to several classes; else nothing."""
    found: dict[str, list[Path]] = {}
    for path in folder.images:
        match = _NAMED.fullmatch(path.name)
        if match is None:
            return {}
        found.setdefault(match[1], []).append(path)
    is_set = len(found) > 1 and not _holds_classes(folder)
    return {name: found[name] for name in sorted(found)} if is_set else {}


def _mnist(root: Path) -> Found:
    train, test = (_mnist_half(root, prefix) for prefix in ("train", "t10k"))
    return train, test, _numbered(max(int(half.labels.max()) for half in (train, test)) + 1)


def _mnist_half(root: Path, prefix: str) -> Half:
    images, labels = (_found(root, f"{prefix}-{kind}")[0] for kind in ("images*idx3-ubyte*", "labels*idx1-ubyte*"))
    pixels, numbers = (parse_idx(read_file(path), str(path)) for path in (images, labels))
    return Half(*pair_idx(pixels, numbers, str(images)))


def _cifar(root: Path, layout: _CifarLayout) -> Found:
    def half(pattern: str) -> Half:
        parts = [layout.parse(read_file(path), str(path)) for path in _found(root, pattern)]
        return Half(*map(np.concatenate, zip(*parts, strict=True)))

    return half(layout.train), half(layout.test), _numbered(layout.classes)


def _found(root: Path, pattern: str) -> list[Path]:
    paths = sorted(path for path in root.glob(pattern) if path.is_file())
    if not paths:
        raise ControlError(f"control set {root}: has no file {pattern}; expected all files of its layout")
    return paths


def _numbered(classes: int) -> tuple[str, ...]:
    return tuple(str(label) for label in range(classes))
