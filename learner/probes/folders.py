"""The folders of a set of images, each read once and in one place, whatever links lead to it.

A link to a folder elsewhere is that folder. One that leads back to a folder around it, or to another one of the set, is left out:
its images would be in a second class, or in train and in test. What is left out, or cannot be read, is named in the log.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush
from pathlib import Path

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
MAX_DOWN = 5
"""So many folders may lie around a set, as in ILSVRC/Data/CLS-LOC/train, and so many between a class and its images."""
_log = logging.getLogger(__name__)

_Identity = tuple[int, int]
"""Device and inode of a folder, the same on every way to it."""


@dataclass(frozen=True, eq=False)
class Folder:
    """A folder, which is read when it is first asked what it holds. Hidden files and what archives leave behind do not count.

    around: the folder itself and those around it; links: how many links are on the way to it.
    """

    path: Path
    identity: _Identity
    around: frozenset[_Identity]
    links: int = 0

    @property
    def name(self) -> str:
        """Its name, which may be that of a class."""
        return self.path.name

    @property
    def folders(self) -> list[Folder]:
        """The folders in it, by their names."""
        return self._inside[0]

    @property
    def images(self) -> list[Path]:
        """The images that lie in it, by their names."""
        return self._inside[1]

    def has_images(self, down: int = MAX_DOWN) -> bool:
        """Return whether there are images in it or so many folders below."""
        return bool(self.images) or (down > 0 and any(folder.has_images(down - 1) for folder in self.folders))

    @cached_property
    def _inside(self) -> tuple[list[Folder], list[Path]]:
        folders: dict[_Identity, Folder] = {}
        images: list[Path] = []
        for entry in self._entries():
            path = self.path / entry.name
            try:
                if not entry.is_dir():
                    images += [path] if path.suffix.lower() in IMAGE_SUFFIXES else []
                    continue
                identity = _identity(entry.stat())
            except OSError as error:
                _leave_out(path, f"it cannot be read ({error.strerror})")
                continue
            if identity in self.around or identity in folders:
                _leave_out(path, "it leads to a folder that is found without it")
                continue
            links = self.links + entry.is_symlink()
            folders[identity] = Folder(path, identity, self.around | {identity}, links)
        return sorted(folders.values(), key=lambda folder: folder.name), sorted(images)

    def _entries(self) -> list[os.DirEntry[str]]:
        """Return what counts in it, links last: of several ways to a folder the one without a link is taken."""
        try:
            with os.scandir(self.path) as entries:
                counted = [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]
                return sorted(counted, key=lambda entry: (entry.is_symlink(), entry.name))
        except OSError as error:
            _leave_out(self.path, f"it cannot be read ({error.strerror})")
            return []


def folder_at(path: Path) -> Folder | None:
    """Return the folder with this path; None if there is none that can be read."""
    try:
        real = path.resolve(strict=True)
        around = [_identity(each.stat()) for each in (real, *real.parents)]
        return Folder(path, around[0], frozenset(around)) if real.is_dir() else None
    except (OSError, RuntimeError):  # the latter for a link to itself
        return None


def images_of(classes: Sequence[Folder]) -> dict[Folder, list[Path]]:
    """Return the images in the folders of classes and, as in tiny-ImageNet, in the folders below them, in their order.

    A folder with several ways to it belongs to the class whose way has the fewest links, so that no image is in two of them.
    """
    found: dict[Folder, list[Path]] = {folder: [] for folder in classes}
    waiting: list[tuple[int, int, int, Path, Folder]] = []
    for number, folder in enumerate(classes):
        heappush(waiting, (folder.links, 0, number, folder.path, folder))
    taken: set[_Identity] = set()
    while waiting:
        _, down, number, path, folder = heappop(waiting)
        if folder.identity in taken:
            _leave_out(path, "it leads to a folder that is found without it")
            continue
        taken.add(folder.identity)
        found[classes[number]] += folder.images
        for inside in folder.folders if down < MAX_DOWN else ():
            heappush(waiting, (inside.links, down + 1, number, inside.path, inside))
    return {folder: sorted(paths) for folder, paths in found.items()}


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino


def _leave_out(path: Path, why: str) -> None:
    _log.warning("control set leaves out %s: %s", path, why)
